"""Screening in bfloat16: find candidates cheaply, then compute them in float32.

On a processor with matrix units a bfloat16 product takes a fraction of the time of a
float32 one. Rounding both operands moves ``w . u`` by at most::

    |w . u - w~ . u~|  <=  |w - w~| |u| + |w~| |u - u~|

(Cauchy-Schwarz), where both rounding errors are known, not guessed. So every pair whose
float32 value reaches a threshold reaches the threshold less this bound in bfloat16: no
match is lost, and the candidates' values are then computed in float32 one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skchoice.ops import eager


def supported(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices fast."""
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class CoarseInputs:
    """Encoder inputs with their rounding to bfloat16.

    Parameters
    ----------
    inputs : float32 Tensor of shape (n_tokens, d)
    """

    inputs: Tensor
    rounded: Tensor
    norm: Tensor  # scalar, largest of a row
    rounding: Tensor  # scalar, largest norm of a row's rounding error

    @classmethod
    def of(cls, inputs: Tensor) -> CoarseInputs:
        """Round some inputs."""
        rounded, rounding = _round(inputs)
        norm = torch.linalg.vector_norm(inputs, dim=1)
        return cls(inputs, rounded, norm.max(), rounding.max())


def find_hits(
    weight: Tensor, bias: Tensor, inputs: CoarseInputs, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the entries of ``weight @ inputs.T + bias`` that reach a threshold.

    Parameters
    ----------
    weight : float32 Tensor of shape (n_rows, d)
    bias : Tensor of shape (n_rows, 1)
    inputs : CoarseInputs of shape (n_columns, d)
    threshold : Tensor of shape (n_rows, 1) or (1, 1)

    Returns
    -------
    rows, columns : int64 Tensors of shape (n_hits,), in row-major order
    values : float32 Tensor of shape (n_hits,)
    """
    rounded, rounding = _round(weight)
    size = torch.linalg.vector_norm(weight, dim=1) + rounding
    # Sums of d products in float32, once in each of the two products.
    summing = 2.0 * weight.shape[1] * torch.finfo(torch.float32).eps
    bound = rounding * inputs.norm + size * (inputs.rounding + summing * inputs.norm)
    lower = eager.lowered(threshold, bias) - bound[:, None]
    # Rounding is monotonic, so the rounded threshold is as safe as the threshold.
    rows, columns = _reach(rounded @ inputs.rounded.T, lower.bfloat16())
    counts = torch.bincount(rows, minlength=len(weight))
    pointers = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    values = eager.bag_dots(weight, inputs.inputs, columns.int(), pointers)
    values += bias[rows, 0]
    keep = values >= threshold.expand(len(weight), 1)[rows, 0]
    return rows[keep], columns[keep], values[keep]


def _round(array: Tensor) -> tuple[Tensor, Tensor]:
    """Return the array in bfloat16 and the norm of each row's rounding error."""
    rounded = array.bfloat16()
    error = rounded.float().sub_(array)
    return rounded, torch.linalg.vector_norm(error, dim=1)


def _reach(tile: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a bfloat16 tile is at least the lower bound of each row."""
    # The bits of positive floats sort like integers, and negative floats are negative
    # integers: numpy, which knows no bfloat16, can compare with a positive bound.
    mask = tile.view(torch.int16).numpy() >= lower.view(torch.int16).numpy()
    awkward = (lower[:, 0] <= 0).nonzero().view(-1)
    if len(awkward):
        mask[awkward.numpy()] = (tile[awkward] >= lower[awkward]).numpy()
    flat = torch.from_numpy(np.flatnonzero(mask))
    rows = torch.div(flat, tile.shape[1], rounding_mode="floor")
    return rows, flat - rows * tile.shape[1]
