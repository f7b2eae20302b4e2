"""A fitted sparse autoencoder as a torch module, for steering and patching."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skchoice.model import Parameters


class SAEModule(nn.Module):
    """Differentiable encode and decode of a fitted estimator.

    Made by :meth:`FeatureChoiceSAE.to_torch` and its siblings; see there.

    Parameters
    ----------
    parameters : Parameters
        In the units of X.
    thresholds : Tensor of shape (n_features,)
    k : int or None
        Matches of each token under Token Choice; None where thresholds decide.
    """

    thresholds: Tensor  # a buffer

    def __init__(self, parameters: Parameters, thresholds: Tensor, k: int | None):
        super().__init__()
        encoder, encoder_bias, decoder, decoder_bias = parameters.arrays()
        self.encoder = nn.Parameter(encoder)
        self.encoder_bias = nn.Parameter(encoder_bias)
        self.decoder = nn.Parameter(decoder)
        self.decoder_bias = nn.Parameter(decoder_bias)
        self.register_buffer("thresholds", thresholds)
        self.relative = parameters.relative
        self.k = k

    def encode(self, x: Tensor) -> Tensor:
        """Return dense codes of shape (..., n_features) for x of shape (..., d)."""
        residual = x - self.decoder_bias
        norms = None
        if self.relative:
            norms = torch.linalg.vector_norm(residual, dim=-1, keepdim=True)
            residual = residual / torch.where(norms == 0, 1.0, norms)
        affinities = residual @ self.encoder.T + self.encoder_bias
        gate = affinities > self.thresholds
        if norms is not None:
            gate &= norms > 0
        if self.k is not None:
            # Stable, so that ties go to the smaller feature index.
            order = affinities.argsort(dim=-1, descending=True, stable=True)
            top = torch.zeros_like(gate).scatter(-1, order[..., : self.k], True)
            gate &= top
        codes = torch.where(gate, affinities, 0.0)
        return codes if norms is None else codes * norms

    def decode(self, codes: Tensor) -> Tensor:
        """Return reconstructions of shape (..., d) for codes (..., n_features)."""
        return codes @ self.decoder + self.decoder_bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of x."""
        return self.decode(self.encode(x))
