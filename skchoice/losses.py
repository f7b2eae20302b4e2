"""The losses and their gradients: pure functions of Tensors.

No graph is recorded, so that what a gradient needs is not held longer than that.
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
    squares = _squares(x)
    weights = (norm_limit**2 / squares).clamp(max=1.0).pow(1.5)
    errors = _squares(error)
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


class Auxiliary(NamedTuple):
    """What :func:`auxiliary_loss` returns."""

    loss: Tensor  # scalar
    of_preactivations: Tensor  # (n_tokens, n_masked), the gradient
    of_decoder: Tensor  # (n_masked, d), the gradient


def auxiliary_loss(
    error: Tensor, preactivations: Tensor, decoder: Tensor, k_aux: int
) -> Auxiliary:
    """Loss of reconstructing the error with the masked features alone.

    With the features that are dead this is ``aux_k_loss`` (OpenAI 2024,
    arXiv 2406.04093, section 2.4), with those that are underused ``aux_zipf_loss``
    (Ayonrinde 2024, arXiv 2411.02124, section 3.4).

    Parameters
    ----------
    error : Tensor of shape (n_tokens, d)
        ``e = x_hat - x``; it is taken as given, there is no gradient of it.
    preactivations : Tensor of shape (n_tokens, n_masked)
        Of the masked features, in the units of ``x``, before the cut at zero, so that
        features negative everywhere still get a gradient.
    decoder : Tensor of shape (n_masked, d)
    k_aux : int
        Largest pre-activations used for each token.

    Returns
    -------
    Auxiliary
        With the loss ``|e + e_hat|^2 / |e - mean(e)|^2``, where ``e_hat`` is what the
        masked features add; 0 where the denominator is 0.

    Examples
    --------
    >>> import torch
    >>> from skchoice.losses import auxiliary_loss
    >>> missing = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> direction = torch.tensor([[1.0, 0.0]])
    >>> auxiliary_loss(-missing, missing[:, :1], direction, k_aux=1).loss
    tensor(0.)
    """
    codes, largest = preactivations, None
    if k_aux < preactivations.shape[1]:
        largest = preactivations.topk(k_aux, dim=1, sorted=False).indices
        codes = _only(codes, largest)
    variance = _squares(error - error.mean(0)).sum()
    varies = variance > _rounding(error) * _squares(error).sum()
    scale = torch.where(varies, 1.0 / variance, 0.0)
    left = torch.addmm(error, codes, decoder)
    loss = _squares(left).sum() * scale
    left *= 2.0 * scale
    of_codes = left @ decoder.T
    if largest is not None:
        of_codes = _only(of_codes, largest)
    return Auxiliary(loss, of_codes, codes.T @ left)


def _only(array: Tensor, columns: Tensor) -> Tensor:
    """Return an array with some columns of each row kept, and zeros elsewhere."""
    kept = array.gather(1, columns)
    return torch.zeros_like(array).scatter_(1, columns, kept)


def _squares(rows: Tensor) -> Tensor:
    # Summed row by row: a norm of all entries at once loses digits.
    return torch.linalg.vector_norm(rows, dim=1).square()
