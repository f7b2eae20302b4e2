"""How the estimators are fitted: their parameters, life cycle and published arrays."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor
from tqdm.auto import tqdm

from skchoice import diagnosis, provenance
from skchoice.batches import shuffled_batches
from skchoice.calibration import Calibration
from skchoice.checkpoints import Checkpoints, Progress
from skchoice.firing import FiringTracker
from skchoice.fitted import FittedSAE
from skchoice.identity import identity_of
from skchoice.inference import token_chunks
from skchoice.inputs import Rows
from skchoice.model import EncoderAffinities, random_parameters
from skchoice.optimizer import Adam
from skchoice.reservoir import Reservoir
from skchoice.revival import AuxiliaryOptions
from skchoice.rules import Rule
from skchoice.schedule import auto_batch_size, auto_learning_rate, linear_schedule
from skchoice.training import TrainingState, standardise, train
from skchoice.warm import WarmAllocator

# Rows, and numbers, looked at to find the centre and scale of X.
_STANDARDISATION_ROWS = 16384
_STANDARDISATION_ENTRIES = 1 << 22
_RECORDS = 100  # records in history_ for each fit
# A tenth of the rows is set aside for calibration, of this many or more, up to:
_MIN_ROWS_TO_SPLIT = 4096
_MAX_CALIBRATION_ROWS = 65536


class ChoiceSAE(FittedSAE):
    """Base of the sparse autoencoders; the subclasses say how matches are allocated."""

    _parameter_constraints: dict = {
        "n_features": [Interval(Integral, 1, None, closed="left"), None],
        "k": [Interval(Real, 0, None, closed="neither")],
        "aux": [StrOptions({"zipf", "k"}), None],
        "aux_coef": [Interval(Real, 0, None, closed="left")],
        "aux_k": [Interval(Integral, 1, None, closed="left"), None],
        "dead_after": [Interval(Integral, 1, None, closed="left"), None],
        "importance": [StrOptions({"relative", "absolute"})],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "warmup_fraction": [Interval(Real, 0, 1, closed="both")],
        "decay_fraction": [Interval(Real, 0, 1, closed="both")],
        "n_calibration": [Interval(Integral, 0, None, closed="left"), None],
        "sparse_output": ["boolean"],
        "device": [str, torch.device],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "checkpoint_dir": [str, PathLike, None],
        "checkpoint_interval": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="left"),
        ],
    }

    def __init__(
        self,
        n_features=None,
        k=32,
        *,
        aux="zipf",
        aux_coef=1 / 32,
        aux_k=None,
        dead_after=None,
        importance="relative",
        batch_size="auto",
        max_iter=10,
        learning_rate="auto",
        warmup_fraction=0.05,
        decay_fraction=0.5,
        n_calibration=None,
        sparse_output=True,
        device="auto",
        warm_start=False,
        random_state=None,
        verbose=0,
        checkpoint_dir=None,
        checkpoint_interval="auto",
    ):
        self.n_features = n_features
        self.k = k
        self.aux = aux
        self.aux_coef = aux_coef
        self.aux_k = aux_k
        self.dead_after = dead_after
        self.importance = importance
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.warmup_fraction = warmup_fraction
        self.decay_fraction = decay_fraction
        self.n_calibration = n_calibration
        self.sparse_output = sparse_output
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_interval = checkpoint_interval

    # ------------------------------------------------- what the subclasses define

    def _rule(
        self, state: TrainingState, n_tokens: int, progress: float | None
    ) -> Rule:
        """Return the rule of a training step.

        ``progress`` is the share of the steps already done, None in partial_fit.
        """
        raise NotImplementedError

    def _calibrate(
        self, state: TrainingState, affinities: EncoderAffinities
    ) -> Calibration:
        """Find the thresholds on a sample."""
        raise NotImplementedError

    def _publish_rule(self, state: TrainingState, calibration: Calibration) -> None:
        """Set the fitted attributes that only this estimator has."""

    # ------------------------------------------------------------------ fitting

    @_fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(mode=False)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the dictionary from the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
            Activations: a numpy array, pandas frame, torch Tensor on any device, or
            anything with rows that can be sliced (memmap, h5py, zarr), which is
            streamed. Rows may hold float16, float32 or float64.
        y : None
            Ignored.

        Returns
        -------
        self
            The estimator itself, fitted.

        Raises
        ------
        ValueError
            If X is not a finite 2-D array of real numbers, or parameters do not fit
            each other. The estimator is then as it was before.
        DivergenceError
            If the error ends a thousand times as large as the variance. Likewise.
        """
        rows, names = self._open(X, reset=True)
        n_train = rows.shape[0] - self._n_held(rows)
        self._check_parameters(rows, self._rows_per_step(rows, n_train, self.max_iter))
        seed = self._seed()
        state, n_iter = None, self.max_iter
        before = None
        if self.warm_start:
            state = self._state_to_go_on_from(rows, seed)
        if state is not None:
            n_iter += self.n_iter_
            before = getattr(self, "provenance_", None)
        names["provenance_"] = provenance.describe(rows, before)
        identity: dict[str, Any] = {}
        if self.checkpoint_dir is not None:
            identity = identity_of(self, rows, names["provenance_"], seed, state)
        with Checkpoints(
            self.checkpoint_dir, self.checkpoint_interval, identity
        ) as checkpoints:
            shape = (self._n_features(rows.shape[1]), rows.shape[1])
            progress = checkpoints.newest(*shape)
            if progress is None:
                progress = Progress(state or self._new_state(rows, seed), seed)
            progress.state = progress.state.to(rows.device)
            train_units, held_units = self._split(rows, progress.seed)
            n_train = rows.count(train_units)
            batch_size = self._rows_per_step(rows, n_train, self.max_iter)
            n_steps = math.ceil(self.max_iter * n_train / batch_size)
            schedule = linear_schedule(
                n_steps,
                self._peak_learning_rate(rows),
                self.warmup_fraction,
                self.decay_fraction,
            )
            batches = shuffled_batches(
                rows, train_units, batch_size, progress.seed, progress.step
            )
            with checkpoints.deferring_interrupts():
                self._train(
                    progress,
                    batches,
                    n_steps,
                    lambda state, step, n: self._rule(state, n, step / n_steps),
                    schedule,
                    checkpoints.after_step,
                )
            diagnosis.check_convergence(progress.state)
            sample = _Sample(rows, held_units)
            self._finish(
                progress.state, sample, names, n_iter, keep_state=self.warm_start
            )
            checkpoints.clear()
        self._reservoir = None
        return self

    def _split(self, rows: Rows, seed: int) -> tuple[NDArray, NDArray]:
        """Return the units to train on and those to calibrate on.

        Features come to fire less often on rows that they were trained on, so the
        thresholds need rows set aside; only few rows are too dear for that.
        """
        units, n_held = rows.units(), self._n_held(rows)
        if n_held == 0:
            return units, units
        n_units = math.ceil(n_held * len(units) / rows.shape[0])
        n_units = min(n_units, len(units) - 1)
        order = np.random.default_rng([seed, 1]).permutation(units)
        return np.sort(order[n_units:]), np.sort(order[:n_units])

    def _n_held(self, rows: Rows) -> int:
        """Return how many rows to set aside for calibration."""
        if self.n_calibration is not None:
            if self.n_calibration >= rows.shape[0]:
                raise ValueError(
                    f"n_calibration={self.n_calibration} rows are set aside from "
                    f"training, but X has only {rows.shape[0]}. Lower it, or calibrate "
                    "on the training rows with 0."
                )
            return self.n_calibration
        few = rows.shape[0] < _MIN_ROWS_TO_SPLIT
        return 0 if few else min(rows.shape[0] // 10, _MAX_CALIBRATION_ROWS)

    @_fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(mode=False)
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train on the rows of X once, going on from earlier calls.

        The learning rate is constant. A uniform sample of all rows seen so far is
        kept: after each call the thresholds are calibrated on it, and where it shows
        that the first calls were far from the centre and scale of the data, training
        goes on with its own.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
            As for :meth:`fit`.
        y : None
            Ignored.

        Returns
        -------
        self
            The estimator itself, fitted.
        """
        first = not hasattr(self, "components_")
        rows, names = self._open(X, reset=first)
        batch_size = self._rows_per_step(rows, rows.shape[0], 1)
        self._check_parameters(rows, batch_size)
        if first:
            state = self._new_state(rows, self._seed())
        else:
            state = self._state_to_go_on_from(rows, self._seed())
        seed = int(state.rng.integers(2**31))
        held = getattr(self, "_reservoir", None)
        reservoir = (
            Reservoir(self.n_calibration or 8192, seed) if held is None else held
        )
        # Reads all rows, and so refuses bad ones before the model has changed.
        reservoir = reservoir.updated(rows)
        if held is not None:
            seen = reservoir.sample(_sample_size(rows.shape[1]), rows.device)
            standardisation, _ = standardise(seen)
            if standardisation.far_from(state.standardisation):
                state.restandardise(standardisation)
        before = None if first else getattr(self, "provenance_", None)
        names["provenance_"] = provenance.describe(rows, before)
        n_steps = math.ceil(rows.shape[0] / batch_size)
        batch_size = math.ceil(rows.shape[0] / n_steps)
        rate = self._peak_learning_rate(rows)
        self._train(
            Progress(state, seed),
            shuffled_batches(rows, rows.units(), batch_size, seed),
            n_steps,
            lambda state, step, n: self._rule(state, n, None),
            lambda step: rate,
            lambda progress: None,
        )
        n_iter = 1 if first else self.n_iter_ + 1
        sample = reservoir.chunks(rows.device)
        self._finish(state, sample, names, n_iter, keep_state=True)
        self._reservoir = reservoir
        return self

    def _train(
        self, progress, batches, n_steps, rule_for, schedule, after_step
    ) -> None:
        state = progress.state
        auxiliary = AuxiliaryOptions(
            self.aux if self.aux_coef > 0 else None,
            self.aux_coef,
            self.aux_k or max(1, state.parameters.encoder.shape[1] // 2),
        )
        record_every = max(1, n_steps // _RECORDS)
        with tqdm(
            total=n_steps,
            initial=progress.step,
            desc=type(self).__name__,
            unit="step",
            disable=not self.verbose,
        ) as bar:

            def show(record: dict) -> None:
                bar.set_postfix(
                    loss=f"{record['loss']:.4f}",
                    fvu=f"{record['fvu']:.4f}",
                    l0=f"{record['l0']:.1f}",
                    dead=record["n_dead"],
                    refresh=False,
                )
                bar.update(min(record_every, n_steps - bar.n))

            def step_done(step: int, tally) -> None:
                progress.step, progress.tally = step, tally
                after_step(progress)

            train(
                state,
                batches,
                n_steps,
                rule_for,
                schedule,
                auxiliary,
                show,
                record_every,
                progress.step,
                progress.tally,
                step_done,
            )

    def _check_parameters(self, rows: Rows, batch_size: int) -> None:
        """Raise where parameters do not fit each other or the data."""
        n_features = self._n_features(rows.shape[1])
        if self.k > n_features:
            raise ValueError(
                f"k={self.k} must be at most n_features={n_features}: a token cannot "
                "match more features than there are. Lower k or raise n_features."
            )
        n_matches = self.k * batch_size
        if round(n_matches) == 0:
            raise ValueError(
                f"k={self.k} leaves a batch of {batch_size} rows with "
                f"{n_matches:.3g} matches, which rounds to none. Raise k, or "
                "batch_size and the number of rows."
            )

    def _n_features(self, n_columns: int) -> int:
        if self.n_features is None:
            return max(8 * n_columns, math.ceil(4 * self.k))
        return self.n_features

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _rows_per_step(self, rows: Rows, n_train: int, n_passes: int) -> int:
        """Return the given batch size, or one for the length of training."""
        batch_size = self.batch_size
        if batch_size == "auto":
            n_features = self._n_features(rows.shape[1])
            batch_size = auto_batch_size(n_passes * n_train, n_features, self.k)
        return min(batch_size, n_train)

    def _peak_learning_rate(self, rows: Rows) -> float:
        if self.learning_rate == "auto":
            return auto_learning_rate(rows.shape[1])
        return float(self.learning_rate)

    def _new_state(self, rows: Rows, seed: int) -> TrainingState:
        rng = np.random.default_rng([seed, 0])
        units = rows.units()
        n_units = max(1, _sample_size(rows.shape[1]) // rows.unit_rows)
        if n_units < len(units):
            units = np.sort(rng.choice(units, n_units, replace=False))
        sample = rows.gather(units)
        standardisation, outlying = standardise(sample)
        n_features = self._n_features(rows.shape[1])
        diagnosis.check_rows(rows.shape[0], n_features, sample, outlying)
        diagnosis.check_settings(
            self.n_calibration, self.dead_after, n_features, self.k
        )
        parameters = random_parameters(
            n_features,
            rows.shape[1],
            self.importance == "relative",
            torch.Generator().manual_seed(seed),
        ).to(rows.device, torch.float32)
        # The average feature fires a hundred times in a window.
        window = self.dead_after or math.ceil(100 * n_features / self.k)
        return TrainingState(
            parameters=parameters,
            optimizer=Adam(parameters.arrays()),
            tracker=FiringTracker(n_features, self.k, window, rows.device),
            standardisation=standardisation,
            rng=rng,
        )

    def _state_to_go_on_from(self, rows: Rows, seed: int) -> TrainingState | None:
        """Return a copy of what the last fit left; None before the first."""
        if not hasattr(self, "components_"):
            return None
        shape = (self._n_features(rows.shape[1]), rows.shape[1])
        if self.components_.shape != shape:
            raise ValueError(
                "warm_start=True and partial_fit go on from parameters of shape "
                f"{self.components_.shape}, but n_features and X ask for {shape}. "
                "Keep them as they were, or fit anew with warm_start=False."
            )
        if self._importance != self.importance:
            raise ValueError(
                f"warm_start=True and partial_fit go on with importance="
                f"{self._importance!r}, not {self.importance!r}. Keep it as it was, or "
                "fit anew with warm_start=False."
            )
        state = getattr(self, "_state", None)
        if state is None:
            state = self._restored_state(rows, seed)
        state = copy.deepcopy(state).to(rows.device)
        if state.tracker.k != self.k:
            state.tracker.k = self.k
            state.caps, state.demand = None, None
            state.allocator = WarmAllocator()
        return state

    def _restored_state(self, rows: Rows, seed: int) -> TrainingState:
        """Return a state with the published parameters and a fresh optimizer."""
        state = self._new_state(rows, seed)
        if self._standardisation is None:  # a model of another library has none
            standardisation = state.standardisation
        else:
            standardisation = self._standardisation.to(rows.device)
        public = self._public_parameters().to(rows.device, torch.float64)
        unit = 1.0 if public.relative else standardisation.scale
        decoder_bias = public.decoder_bias - standardisation.centre
        values = (
            public.encoder,
            public.encoder_bias / unit,
            public.decoder,
            decoder_bias / standardisation.scale,
        )
        for array, value in zip(state.parameters.arrays(), values, strict=True):
            array.copy_(value)
        state.standardisation = standardisation
        state.history = list(self.history_)
        return state

    # --------------------------------------------------------------- publishing

    def _finish(self, state, sample, names, n_iter, keep_state) -> None:
        """Calibrate on a sample, and only then set the fitted attributes."""
        standardisation = state.standardisation
        affinities = EncoderAffinities(
            state.parameters,
            lambda: token_chunks(
                map(standardisation.apply, sample.read()), state.parameters
            ),
            sample.n_rows,
        )
        calibration = self._calibrate(state, affinities)
        diagnosis.check_fit(state, calibration)

        unit = 1.0 if state.parameters.relative else standardisation.scale
        centre = standardisation.centre
        encoder, encoder_bias, decoder, decoder_bias = state.parameters.arrays()
        decoder_bias = centre + standardisation.scale * decoder_bias.double()
        decoder_bias = decoder_bias.to(sample.dtype)
        if keep_state:  # the state goes on changing, what is published must not
            encoder, decoder = encoder.clone(), decoder.clone()
        self.components_ = _to_numpy(decoder)
        self.encoder_weights_ = _to_numpy(encoder)
        self.encoder_bias_ = _to_numpy(encoder_bias * unit)
        self.decoder_bias_ = _to_numpy(decoder_bias)
        self.thresholds_ = _to_numpy(calibration.thresholds * unit)
        self.feature_density_ = calibration.density
        self.dead_features_ = _to_numpy(state.tracker.dead())
        self.history_ = list(state.history)
        self.n_iter_ = n_iter
        for name, value in names.items():
            setattr(self, name, value)
        if "feature_names_in_" not in names and hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        # What the arrays were fitted with, whatever set_params says later.
        self._importance, self._k = self.importance, self.k
        self._standardisation = standardisation.to(torch.device("cpu"))
        self._publish_rule(state, calibration)
        self._state = state if keep_state else None

    def __getstate__(self) -> dict:
        # A pickle must open where there is no CUDA.
        state = super().__getstate__().copy()
        if state.get("_state") is not None:
            state["_state"] = state["_state"].to(torch.device("cpu"))
        return state


class _Sample:
    """Some units of rows, read anew in every pass."""

    def __init__(self, rows: Rows, units: NDArray):
        self._rows, self._units = rows, units
        self.n_rows, self.dtype = rows.count(units), rows.dtype

    def read(self) -> Iterator[Tensor]:
        step = self._rows.per_chunk()
        for first in range(0, len(self._units), step):
            yield self._rows.gather(self._units[first : first + step])


def _sample_size(n_columns: int) -> int:
    """Return how many rows to find the centre and scale from."""
    return max(1, min(_STANDARDISATION_ROWS, _STANDARDISATION_ENTRIES // n_columns))


def _to_numpy(array: Tensor) -> NDArray:
    return array.detach().cpu().numpy()
