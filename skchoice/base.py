"""How the estimators are fitted: their life cycle and published arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context
from torch import Tensor
from tqdm.auto import tqdm

from skchoice import diagnosis, provenance
from skchoice.batches import shuffled_batches
from skchoice.calibration import Calibration
from skchoice.checkpoints import Checkpoints, Progress
from skchoice.fitted import FittedSAE
from skchoice.identity import identity_of
from skchoice.inference import token_chunks
from skchoice.inputs import Rows, as_array
from skchoice.model import Parameters, Tokens
from skchoice.reservoir import Reservoir
from skchoice.revival import AuxiliaryOptions
from skchoice.rules import Rule
from skchoice.samples import Sample, UnitsSample
from skchoice.schedule import endless_schedule, linear_schedule
from skchoice.standardisation import Standardisation, standardise
from skchoice.start import new_state, sample_size, state_to_go_on_from
from skchoice.state import TrainingState
from skchoice.tiles import EncoderAffinities
from skchoice.training import Tally, train

_RECORDS = 100  # records in history_ for each fit


class ChoiceSAE(FittedSAE):
    """Base of the sparse autoencoders; the subclasses say how matches are allocated."""

    _reservoir: Reservoir | None
    _standardisation: Standardisation | None  # a model of another library has none

    # ------------------------------------------------- what the subclasses define

    def _rule(
        self, state: TrainingState, n_tokens: int, progress: float | None
    ) -> Rule:
        """Return the rule of the next allocation in training.

        ``progress`` is the share of the steps already done, None in partial_fit.
        """
        raise NotImplementedError

    def _rows_together(self, state: TrainingState, progress: float | None) -> int:
        """Return how many rows to allocate together, if a batch has fewer."""
        return 1

    def _calibrate(
        self, state: TrainingState, affinities: EncoderAffinities, unit: float
    ) -> Calibration:
        """Find the thresholds on a sample, whose affinities are of the published model.

        They are ``unit`` times those of training.
        """
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
            If the error ends a thousand times as large as the variance, or parameters
            have left the range of float32. Likewise.
        """
        rows, names = self._open(X, reset=True)
        n_train = rows.shape[0] - self._n_held(rows)
        self._check_parameters(rows, self._rows_per_step(rows, n_train, self.max_iter))
        diagnosis.check_size(n_train, self._n_features(rows.shape[1]))
        seed = self._seed()
        state, n_iter = None, self.max_iter
        before = None
        if self.warm_start and hasattr(self, "components_"):
            state = state_to_go_on_from(self, rows, seed)
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
                progress = Progress(state or new_state(self, rows, seed), seed)
            progress.state = progress.state.to(rows.device)
            train_units, held_units = self._split(rows, progress.seed)
            n_train = rows.count(train_units)
            batch_size = self._rows_per_step(rows, n_train, self.max_iter)
            n_steps = math.ceil(self.max_iter * n_train / batch_size)
            schedule = linear_schedule(
                n_steps,
                self._peak_learning_rate(rows, batch_size),
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
                    batch_size,
                    n_steps,
                    lambda step: step / n_steps,
                    schedule,
                    checkpoints.after_step,
                )
            diagnosis.check_convergence(progress.state)
            sample = UnitsSample(rows, held_units)
            trained = UnitsSample(rows, train_units) if self._few_held(rows) else None
            self._finish(
                progress.state,
                sample,
                names,
                n_iter,
                keep_state=self.warm_start,
                trained=trained,
            )
            checkpoints.clear()
        self._reservoir = None
        return self

    def _split(self, rows: Rows, seed: int) -> tuple[NDArray, NDArray]:
        """Return the units to train on and those to calibrate on.

        Features come to fire less often on rows that they were trained on, so the
        thresholds need rows set aside.
        """
        units, n_held = rows.units(), self._n_held(rows)
        if n_held == 0:
            return units, units
        n_units = math.ceil(n_held * len(units) / rows.shape[0])
        n_units = min(n_units, len(units) - 1)
        order = np.random.default_rng([seed, 1]).permutation(units)
        return np.sort(order[n_units:]), np.sort(order[:n_units])

    @_fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(mode=False)
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train on the rows of X once, going on from earlier calls.

        The learning rate falls with the root of all rows seen so far, those of an
        earlier :meth:`fit` too. A uniform sample of all rows that came this way
        is kept (those of an earlier :meth:`fit` are not): after each call the
        thresholds are calibrated on it, and where it shows that the first calls were
        far from the centre and scale of the data, training goes on with its own.

        It is for rows that come in pieces. To train longer on rows that :meth:`fit` has
        been through, whose schedule has ended at a small learning rate, call it again
        with ``warm_start=True``.

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

        Raises
        ------
        ValueError
            As in :meth:`fit`.
        DivergenceError
            If parameters have left the range of float32. The estimator is then as it
            was before.
        """
        first = not hasattr(self, "components_")
        rows, names = self._open(X, reset=first)
        n_steps = math.ceil(rows.shape[0] / self._rows_per_step(rows, rows.shape[0], 1))
        batch_size = math.ceil(rows.shape[0] / n_steps)
        self._check_parameters(rows, batch_size)
        if first:
            diagnosis.check_size(rows.shape[0], self._n_features(rows.shape[1]))
            state = new_state(self, rows, self._seed())
        else:
            state = state_to_go_on_from(self, rows, self._seed())
        seed = int(state.rng.integers(2**31))
        held = getattr(self, "_reservoir", None)
        reservoir = (
            Reservoir(self.n_calibration or 8192, seed) if held is None else held
        )
        # Reads all rows, and so refuses bad ones before the model has changed.
        reservoir = reservoir.updated(rows)
        if held is not None:
            seen = reservoir.sample(sample_size(rows.shape[1]), rows.device)
            standardisation, _ = standardise(seen)
            if standardisation.refutes(state.standardisation):
                state.restandardise(standardisation)
        before = None if first else getattr(self, "provenance_", None)
        names["provenance_"] = provenance.describe(rows, before)
        schedule = endless_schedule(
            self._peak_learning_rate(rows, batch_size),
            max((one["n_tokens"] for one in state.history), default=0),
            batch_size,
            self._n_features(rows.shape[1]),
            self.k,
        )
        self._train(
            Progress(state, seed),
            shuffled_batches(rows, rows.units(), batch_size, seed),
            batch_size,
            n_steps,
            lambda step: None,
            schedule,
            lambda progress: None,
        )
        n_iter = 1 if first else self.n_iter_ + 1
        sample = reservoir.chunks(rows.device)
        self._finish(state, sample, names, n_iter, keep_state=True)
        self._reservoir = reservoir
        return self

    def _train(
        self,
        progress: Progress,
        batches: Iterator[Tensor],
        batch_size: int,
        n_steps: int,
        share_done: Callable[[int], float | None],
        schedule: Callable[[int], float],
        after_step: Callable[[Progress], None],
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

            def step_done(step: int, tally: Tally) -> None:
                bar.update(step - bar.n)
                progress.step, progress.tally = step, tally
                after_step(progress)

            def n_together(state: TrainingState, step: int) -> int:
                rows = self._rows_together(state, share_done(step))
                return math.ceil(rows / batch_size)

            train(
                state,
                batches,
                n_steps,
                lambda state, step, n: self._rule(state, n, share_done(step)),
                n_together,
                schedule,
                auxiliary,
                show,
                record_every,
                progress.step,
                progress.tally,
                step_done,
            )

    # --------------------------------------------------------------- publishing

    def _finish(
        self,
        state: TrainingState,
        sample: Sample,
        names: dict[str, Any],
        n_iter: int,
        keep_state: bool,
        trained: Sample | None = None,
    ) -> None:
        """Calibrate on a sample, and only then set the fitted attributes.

        Where the sample is small, the rows trained on tell how the thresholds compare,
        and the sample how high they must be.
        """
        diagnosis.check_parameters(state)
        standardisation = state.standardisation
        relative = state.parameters.relative
        unit = 1.0 if relative else standardisation.scale
        centre = standardisation.centre
        encoder, encoder_bias, decoder, decoder_bias = state.parameters.arrays()
        encoder_bias = encoder_bias * unit
        decoder_bias = centre + standardisation.scale * decoder_bias.double()
        decoder_bias = decoder_bias.to(sample.dtype)

        published = Parameters(encoder, encoder_bias, decoder, decoder_bias, relative)
        affinities = _affinities(published, trained or sample)
        calibration = self._calibrate(state, affinities, unit)
        if trained is not None:
            thresholds = calibration.thresholds
            over = _affinities(published, sample).over(thresholds)
            calibration = calibration.scaled_to(over)
        diagnosis.check_fit(state, calibration, self.k)

        if keep_state:  # the state goes on changing, what is published must not
            encoder, decoder = encoder.clone(), decoder.clone()
        self.components_ = as_array(decoder)
        self.encoder_weights_ = as_array(encoder)
        self.encoder_bias_ = as_array(encoder_bias)
        self.decoder_bias_ = as_array(decoder_bias)
        self.thresholds_ = as_array(calibration.thresholds)
        self.feature_density_ = calibration.density
        self.dead_features_ = as_array(state.tracker.dead())
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


def _affinities(published: Parameters, sample: Sample) -> EncoderAffinities:
    """Return the affinities of a sample, as encoding finds them, in float32.

    Rows are centred in their own dtype: after that float32 can tell them apart.
    """
    centred = replace(
        published, decoder_bias=torch.zeros_like(published.decoder_bias).float()
    )

    def chunks() -> Iterable[Tokens]:
        rows = ((chunk - published.decoder_bias).float() for chunk in sample.read())
        return token_chunks(rows, centred)

    first = next(iter(chunks()))
    # Of one chunk, a tile holds all tokens: its features are settled while it is there.
    alone = len(first.scaled) == sample.n_rows
    return EncoderAffinities(centred, first if alone else chunks, sample.n_rows)
