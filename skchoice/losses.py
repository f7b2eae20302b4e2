"""The losses: pure functions of Tensors.

The training loop takes the gradient of :func:`reconstruction_loss` by matches alone
(:mod:`skchoice.gradients`); :func:`auxiliary_loss` concerns few features and goes
through autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Reconstruction(NamedTuple):
    """What :func:`reconstruction_loss` returns."""

    loss: Tensor  # scalar
    gradient: Tensor  # (n_tokens, d), with respect to the reconstruction
    squared_error: Tensor  # scalar, sum |e|^2, all tokens alike
    variance: Tensor  # scalar, sum |x - mean|^2, all tokens alike


def reconstruction_loss(x: Tensor, error: Tensor, norm_limit: float) -> Reconstruction:
    """Fraction of variance unexplained, robust to tokens of huge norm.

    Parameters
    ----------
    x : Tensor of shape (n_tokens, d)
        Centred, so that the variance is a difference of sums without cancellation.
    error : Tensor of shape (n_tokens, d)
        ``e = x_hat - x``.
    norm_limit : float
        The squared error of a token of larger norm has the weight
        ``w = (norm_limit / |x|)^3``, that of the others ``w = 1``: the further out, the
        less it counts even relative to its own variance.

    Returns
    -------
    Reconstruction
        With the loss ``sum w |e|^2 / sum w |x - mean|^2``, the mean weighted too, and
        zero for a single row; 0 where ``x`` is constant.
    """
    squares = torch.linalg.vector_norm(x, dim=1).square()
    weights = (norm_limit**2 / squares).clamp(max=1.0).pow(1.5)
    errors = torch.linalg.vector_norm(error, dim=1).square()
    variance = _variance(x, squares, weights)
    scale = torch.where(variance > 0, 1.0 / variance, 0.0)
    return Reconstruction(
        (weights @ errors) * scale,
        error * (2.0 * scale * weights)[:, None],
        errors.sum(),
        _variance(x, squares, torch.ones_like(weights)),
    )


def _variance(x: Tensor, squares: Tensor, weights: Tensor) -> Tensor:
    total = weights @ squares
    if len(x) == 1:  # a row alone has no mean to vary about but that of X
        return total
    spread = total - (weights @ x).square().sum() / weights.sum()
    return torch.where(spread > _rounding(x) * total, spread, 0.0)


def _rounding(x: Tensor) -> float:
    """Return what share of its square rounding may leave of a constant."""
    return 4.0 * len(x) * torch.finfo(x.dtype).eps


def auxiliary_loss(
    error: Tensor, preactivations: Tensor, decoder: Tensor, k_aux: int
) -> Tensor:
    """Loss of reconstructing the error with the masked features alone.

    With the features that are dead this is ``aux_k_loss`` (OpenAI 2024,
    arXiv 2406.04093, section 2.4), with those that are underused ``aux_zipf_loss``
    (Ayonrinde 2024, arXiv 2411.02124, section 3.4).

    Parameters
    ----------
    error : Tensor of shape (n_tokens, d)
        ``x - x_hat``; it is taken as given, no gradient flows into it.
    preactivations : Tensor of shape (n_tokens, n_masked)
        Of the masked features, in the units of ``x``, before the cut at zero, so that
        features negative everywhere still get a gradient.
    decoder : Tensor of shape (n_masked, d)
    k_aux : int
        Largest pre-activations used for each token.

    Returns
    -------
    scalar Tensor
        ``|e - e_hat|^2 / |e - mean(e)|^2``, 0 where the denominator is 0.

    Examples
    --------
    >>> import torch
    >>> from skchoice.losses import auxiliary_loss
    >>> error = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> auxiliary_loss(error, error[:, :1], torch.tensor([[1.0, 0.0]]), k_aux=1)
    tensor(0.)
    """
    error = error.detach()
    if k_aux < preactivations.shape[1]:
        top = preactivations.topk(k_aux, dim=1)
        preactivations = torch.zeros_like(preactivations).scatter(
            1, top.indices, top.values
        )
    variance = (error - error.mean(0)).square().sum()
    missed = (error - preactivations @ decoder).square().sum()
    varies = variance > _rounding(error) * error.square().sum()
    return torch.where(varies, missed / torch.where(varies, variance, 1.0), 0.0)
