"""A fitted sparse autoencoder as a torch module, for steering and patching."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skchoice.model import Parameters, row_norms

__all__ = ["SAEModule"]


class SAEModule(nn.Module):
    """Differentiable encode and decode of a fitted estimator.

    Made by :meth:`skchoice.FeatureChoiceSAE.to_torch` and its siblings; see there.

    Parameters
    ----------
    parameters : Parameters
        In the units of X.
    thresholds : Tensor of shape (n_features,)
        A feature fires where its affinity is larger.
    k : int or None
        Matches of each token under Token Choice; None where thresholds decide.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import MutualChoiceSAE
    >>> X = load_digits().data
    >>> sae = MutualChoiceSAE(n_features=64, k=4, max_iter=1, random_state=0).fit(X)
    >>> module = sae.to_torch()
    >>> hidden = torch.tensor(X[:2], dtype=torch.float32, requires_grad=True)
    >>> codes = module.encode(hidden)
    >>> codes.shape, module.decode(codes).shape
    (torch.Size([2, 64]), torch.Size([2, 64]))
    >>> codes.sum().backward()
    >>> hidden.grad.shape
    torch.Size([2, 64])
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
        """Return the codes of some rows.

        Parameters
        ----------
        x : Tensor of shape (..., d)
            Rows, in the units of X; of any float type.

        Returns
        -------
        Tensor of shape (..., n_features)
            Dense, as ``transform`` has them, in the type of the parameters.

        Raises
        ------
        TypeError
            If ``x`` is no Tensor.
        ValueError
            If the last dimension of ``x`` is not d.
        """
        _check("x", x, len(self.decoder_bias))
        residual = x.to(self.decoder_bias.dtype) - self.decoder_bias
        norms = None
        if self.relative:
            norms = row_norms(residual)[..., None]
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
        """Return the rows that some codes stand for.

        Parameters
        ----------
        codes : Tensor of shape (..., n_features)
            Dense, of any sign.

        Returns
        -------
        Tensor of shape (..., d)
            Rows, in the units of X.

        Raises
        ------
        TypeError
            If ``codes`` are no Tensor.
        ValueError
            If their last dimension is not n_features.
        """
        _check("codes", codes, len(self.decoder))
        return codes.to(self.decoder.dtype) @ self.decoder + self.decoder_bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of some rows.

        Parameters
        ----------
        x : Tensor of shape (..., d)
            Rows, in the units of X.

        Returns
        -------
        Tensor of shape (..., d)
            What codes of ``encode`` stand for.
        """
        return self.decode(self.encode(x))


def _check(name: str, array: Tensor, n_columns: int) -> None:
    if not isinstance(array, Tensor):
        raise TypeError(
            f"{name} must be a torch Tensor, got {type(array).__name__}. The estimator "
            "itself takes other arrays."
        )
    if array.shape[-1:] != (n_columns,):
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}, and its last dimension must be "
            f"{n_columns}, as for this autoencoder."
        )
