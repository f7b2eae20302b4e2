"""Feature Choice: each feature chooses its tokens, up to a cap."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from skchoice import diagnosis, profiles
from skchoice.base import ChoiceSAE
from skchoice.calibration import Calibration, calibrate_features, calibrate_mutual
from skchoice.caps import systematic_caps
from skchoice.docs import shared_docs
from skchoice.inputs import Rows
from skchoice.metrics import ZipfFit, zipf_fit
from skchoice.rules import FeatureChoice, MutualChoice, Rule
from skchoice.state import TrainingState
from skchoice.tiles import EncoderAffinities

# Matches of the average feature in an allocation: half of k, within these bounds. How
# many tokens want a feature varies about its cap by the root of it: where caps are
# small, many matches are misplaced. Where they are large, features turn too far while
# their matches stay: by an angle that grows with the root of matches over k.
_FEWEST_MATCHES, _MOST_MATCHES = 8, 16
# Rows of an allocation at most, unless a batch has more.
_MOST_ROWS = 8192


@shared_docs
class FeatureChoiceSAE(ChoiceSAE):
    """Sparse autoencoder in which each feature chooses its tokens, up to a cap.

    In a batch, feature ``j`` matches the at most ``m_j`` tokens with the largest
    affinities to it, and the caps ``m_j`` sum to ``round(k * n_tokens)`` (Ayonrinde
    2024, arXiv 2411.02124, section 3.2). Since every feature has a share of the
    matches, none dies where its share is some matches or more; where rows are so few
    that the rarest expect less than one in all of them, these may be silent. In
    training the caps hold for as many rows as give the average
    feature ``k / 2`` matches, at least 8 and at most 16, but for no more than 8192, if
    that is more than a batch: these get their matches together, and then a step is
    taken on each batch. Training begins with Mutual Choice, which shows how often each
    feature wants to fire; its densities rank the features for the caps. From then on
    the ranks follow what the features want, told by their cuts: the largest affinity
    that a cap keeps from matching (:mod:`skchoice.demand`). At inference one threshold
    for each feature, calibrated to its cap, decides for each row alone.

    Parameters
    ----------
    {size}
    caps : {"zipf", "uniform", "learned"} or array of shape (n_features,), \
default="zipf"
        Expected matches per token of each feature, the *densities*. ``"zipf"``: the
        rank ``r`` by wanted density gets ``(r + offset) ** -exponent``, up to scale.
        ``"learned"``: the wanted densities themselves, floored.
        ``"uniform"``: ``k / n_features`` each. An array: these, each in [0, 1] and
        together ``k``.
    zipf_exponent, zipf_offset : float, default=None
        Of the Zipf caps. None takes the fit to the densities under Mutual Choice.
    min_cap : {0, 1}, default=0
        With 1 every feature may match in every allocation, as in the paper. Needs
        ``k * batch_size >= n_features``.
    mutual_fraction : float in [0, 1], default=0.5
        Share of the training steps that come first, under Mutual Choice. With 0 Zipf
        caps begin with the feature indices as ranks, learned ones equal.
    {parameters}

    Attributes
    ----------
    {attributes}
    caps_ : array of shape (n_features,)
        Expected matches per token of each feature; they sum to ``k``. A feature has no
        more than the calibration rows have positive affinities for, and the others
        share what it leaves.
    zipf_fit_ : ZipfFit or None
        Fit of Zipf's law to the densities under Mutual Choice; None where that phase
        did not take place.

    See Also
    --------
    MutualChoiceSAE : Shares the matches of a batch freely.
    TokenChoiceSAE : Gives each token the same number of matches.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import FeatureChoiceSAE
    >>> X = load_digits().data
    >>> sae = FeatureChoiceSAE(n_features=256, k=8, max_iter=5, random_state=0).fit(X)
    >>> codes = sae.transform(X)
    >>> sae.inverse_transform(codes).shape
    (1797, 64)
    """

    _parameter_constraints: dict = {
        **ChoiceSAE._parameter_constraints,
        "caps": [StrOptions({"zipf", "uniform", "learned"}), "array-like"],
        "zipf_exponent": [Interval(Real, 0, None, closed="left"), None],
        "zipf_offset": [Interval(Real, 0, None, closed="left"), None],
        "min_cap": [Interval(Integral, 0, 1, closed="both")],
        "mutual_fraction": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        n_features=None,
        k=32,
        *,
        caps="zipf",
        zipf_exponent=None,
        zipf_offset=None,
        min_cap=0,
        mutual_fraction=0.5,
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
        super().__init__(
            n_features,
            k,
            aux=aux,
            aux_coef=aux_coef,
            aux_k=aux_k,
            dead_after=dead_after,
            importance=importance,
            batch_size=batch_size,
            max_iter=max_iter,
            learning_rate=learning_rate,
            warmup_fraction=warmup_fraction,
            decay_fraction=decay_fraction,
            n_calibration=n_calibration,
            sparse_output=sparse_output,
            device=device,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
            checkpoint_dir=checkpoint_dir,
            checkpoint_interval=checkpoint_interval,
        )
        self.caps = caps
        self.zipf_exponent = zipf_exponent
        self.zipf_offset = zipf_offset
        self.min_cap = min_cap
        self.mutual_fraction = mutual_fraction

    def _check_parameters(self, rows: Rows, batch_size: int) -> None:
        super()._check_parameters(rows, batch_size)
        n_features = self._n_features(rows.shape[1])
        if not isinstance(self.caps, str):
            self._check_caps(np.asarray(self.caps), n_features)
            if self.min_cap and np.min(self.caps) * batch_size < 1:
                raise ValueError(
                    f"min_cap=1 asks for caps of at least 1 / {batch_size}, one match "
                    f"in a batch, but the smallest is {np.min(self.caps):.3g}. Raise "
                    "it, or set min_cap=0."
                )
        if self.min_cap and round(self.k * batch_size) < n_features:
            raise ValueError(
                f"min_cap=1 needs a match for each feature in each batch, but a batch "
                f"of {batch_size} rows has {round(self.k * batch_size)} matches for "
                f"n_features={n_features}. Raise batch_size or k, or set min_cap=0."
            )

    def _check_caps(self, given: np.ndarray, n_features: int) -> None:
        if given.shape != (n_features,) or given.dtype.kind not in "fiu":
            raise ValueError(
                f"caps must hold one number for each feature, shape ({n_features},), "
                f"got shape {given.shape} and dtype {given.dtype}."
            )
        if not (np.isfinite(given).all() and given.min() >= 0 and given.max() <= 1):
            raise ValueError(
                "caps are expected matches per token, each in [0, 1]; got values from "
                f"{given.min()} to {given.max()}. Divide matches per batch by the "
                "batch size."
            )
        if not np.isclose(given.sum(), self.k, rtol=1e-6, atol=0):
            raise ValueError(
                f"caps must sum to k={self.k}, the matches per token, but sum to "
                f"{given.sum():.6g}. Scale them: caps * k / caps.sum()."
            )

    def _begins_mutual(self, state: TrainingState, progress: float | None) -> bool:
        """Whether the first phase goes on."""
        if state.caps is not None:
            return False
        if progress is None:  # without a plan, until the densities are known
            return not state.tracker.ready
        return progress < self.mutual_fraction

    def _rows_together(self, state: TrainingState, progress: float | None) -> int:
        if self._begins_mutual(state, progress):
            return 1
        n_features = state.parameters.n_features
        matches = min(max(_FEWEST_MATCHES, self.k / 2), _MOST_MATCHES)
        return min(math.ceil(matches * n_features / self.k), _MOST_ROWS)

    def _rule(
        self, state: TrainingState, n_tokens: int, progress: float | None
    ) -> Rule:
        if self._begins_mutual(state, progress):
            return MutualChoice(self.k)
        # A chunk of partial_fit may be of few rows, which are no measure.
        n_rows = max(n_tokens, self._rows_together(state, progress))
        if state.caps is None:
            measured = state.tracker.density().cpu().numpy()
            if measured.any():
                state.zipf_fit = zipf_fit(measured)
            profile = self._profile(measured, state.zipf_fit, n_rows)
            state.begin_feature_choice(profile)
        elif state.demand is not None:
            wanted = state.demand.density.cpu().numpy()
            state.caps.density = self._profile(wanted, state.zipf_fit, n_rows)
        assert state.caps is not None
        return FeatureChoice(torch.from_numpy(state.caps.draw(n_tokens, self.min_cap)))

    def _profile(
        self, wanted: np.ndarray, fit: ZipfFit | None, n_rows: int
    ) -> np.ndarray:
        """Return the caps, as densities, for the densities that features want.

        Under ``min_cap=1`` each has a match in ``n_rows``.
        """
        n_features, known = len(wanted), wanted.any()
        if not isinstance(self.caps, str):
            return np.asarray(self.caps, dtype=np.float64)
        if self.caps == "uniform" or (self.caps == "learned" and not known):
            profile = profiles.uniform_density(n_features, self.k)
        elif self.caps == "learned":
            profile = profiles.learned_density(wanted, self.k)
        else:
            exponent, offset = self.zipf_exponent, self.zipf_offset
            if exponent is None:
                exponent = fit.exponent if fit else 1.0
            if offset is None:
                offset = fit.offset if fit else 0.0
            ranked = profiles.zipf_density(n_features, self.k, exponent, offset)
            profile = profiles.by_rank(ranked, wanted)
        if self.min_cap:
            profile = profiles.fill_to(profile, self.k, lower=1.0 / n_rows)
        return profile

    def _calibrate(
        self, state: TrainingState, affinities: EncoderAffinities, unit: float
    ) -> Calibration:
        if state.caps is None:
            start = unit * state.allocator.below(0.95)
            found = calibrate_mutual(affinities, self.k, start)
            # Measured densities miss k by what a sample rounds off, and by ties.
            reachable = self.k * (1.0 - found.unfilled)
            return found._replace(target=profiles.fill_to(found.density, reachable))
        diagnosis.check_calibration(*affinities.shape, self.k)
        start = unit * state.allocator.below(0.9)
        return calibrate_features(
            affinities, state.caps.density, start, state.caps.order
        )

    def _publish_rule(self, state: TrainingState, calibration: Calibration) -> None:
        self.caps_ = calibration.target.copy()
        self.zipf_fit_ = state.zipf_fit

    def _allocation_rule(self, n_rows: int) -> Rule:
        if not hasattr(self, "caps_"):
            raise ValueError(
                "A model from another library has no caps_. Set them, matches per "
                "token of each feature, or go on training with partial_fit."
            )
        feature_caps = systematic_caps(self.caps_, n_rows)
        return FeatureChoice(torch.from_numpy(feature_caps))
