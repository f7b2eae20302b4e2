"""Token Choice: each token keeps its largest affinities."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils._param_validation import Interval

from skchoice.base import ChoiceSAE
from skchoice.calibration import Calibration
from skchoice.docs import shared_docs
from skchoice.inference import TopKEncoder
from skchoice.model import Parameters
from skchoice.rules import Rule, TokenChoice
from skchoice.state import TrainingState
from skchoice.tiles import EncoderAffinities


@shared_docs
class TokenChoiceSAE(ChoiceSAE):
    """Sparse autoencoder in which each token keeps its ``k`` largest affinities.

    The TopK autoencoder of Gao et al. 2024 (arXiv 2406.04093), as a baseline for
    :class:`MutualChoiceSAE` and :class:`FeatureChoiceSAE`.

    Parameters
    ----------
    {size}
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    MutualChoiceSAE : Shares the matches of a batch freely.
    FeatureChoiceSAE : Gives each feature a share of the matches.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import TokenChoiceSAE
    >>> X = load_digits().data
    >>> sae = TokenChoiceSAE(n_features=256, k=8, max_iter=5, random_state=0).fit(X)
    >>> codes = sae.transform(X)
    >>> codes.shape, int(codes.getnnz(axis=1).max())
    ((1797, 256), 8)
    """

    _parameter_constraints: dict = {
        **ChoiceSAE._parameter_constraints,
        "k": [Interval(Integral, 1, None, closed="left")],
    }

    _needs_thresholds = False

    def __init__(
        self,
        n_features=None,
        k=32,
        *,
        aux="k",
        aux_coef=1 / 32,
        aux_k=None,
        dead_after=None,
        importance="absolute",
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

    def _rule(
        self, state: TrainingState, n_tokens: int, progress: float | None
    ) -> Rule:
        return TokenChoice(self.k)

    def _calibrate(
        self, state: TrainingState, affinities: EncoderAffinities, unit: float
    ) -> Calibration:
        encode = TopKEncoder(affinities.parameters, self.k)
        counts = np.zeros(affinities.shape[1])
        for tokens in affinities.chunks():
            counts += encode.matches(tokens).counts().cpu().numpy()
        density = counts / affinities.shape[0]
        thresholds = torch.zeros_like(state.parameters.encoder_bias)
        return Calibration(thresholds, density, density, 1.0 - density.sum() / self.k)

    def _encoder(self, parameters: Parameters) -> TopKEncoder:
        return TopKEncoder(parameters, self._k)

    def allocate(self, X: Any) -> sp.csr_matrix:
        """Return the codes of X: each row on its own, so the same as transform.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
            As for :meth:`fit`.

        Returns
        -------
        CSR matrix of shape (n_rows, n_features)
            Codes, at most ``k`` in a row.
        """
        return self._encode_sparse(X)

    def _module_k(self) -> int:
        return self._k
