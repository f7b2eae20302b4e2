"""Mutual Choice: a batch shares its matches freely."""

from __future__ import annotations

import torch

from skchoice.base import ChoiceSAE
from skchoice.calibration import Calibration, calibrate_mutual
from skchoice.docs import shared_docs
from skchoice.rules import MutualChoice, Rule
from skchoice.state import TrainingState
from skchoice.tiles import EncoderAffinities


@shared_docs
class MutualChoiceSAE(ChoiceSAE):
    """Sparse autoencoder in which a batch shares its matches freely.

    Of all pairs of a token and a feature in a batch, the ``round(k * n_tokens)`` with
    the largest affinities match (Ayonrinde 2024, arXiv 2411.02124, section 3.1; in
    training the same as BatchTopK, Bussmann et al. 2024, arXiv 2412.06410). Hard tokens
    get more features, easy ones fewer. At inference one threshold, calibrated so that
    ``k`` matches per token are expected, decides for each row alone.

    Parameters
    ----------
    {size}
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    FeatureChoiceSAE : Gives each feature a share of the matches.
    TokenChoiceSAE : Gives each token the same number of matches.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import MutualChoiceSAE
    >>> X = load_digits().data
    >>> sae = MutualChoiceSAE(n_features=256, k=8, max_iter=5, random_state=0).fit(X)
    >>> sae.allocate(X).nnz == 8 * len(X)
    True
    """

    def _rule(
        self, state: TrainingState, n_tokens: int, progress: float | None
    ) -> Rule:
        return MutualChoice(self.k)

    def _calibrate(
        self, state: TrainingState, affinities: EncoderAffinities, unit: float
    ) -> Calibration:
        start = unit * state.allocator.below(0.95)
        return calibrate_mutual(affinities, self.k, start)

    def _allocation_rule(self, n_rows: int) -> Rule:
        return MutualChoice(self._k)

    def _start_thresholds(self, affinities: EncoderAffinities) -> torch.Tensor:
        return super()._start_thresholds(affinities)[:1]
