"""Screening in bfloat16: find candidates cheaply, then compute them in float32.

On a processor with instructions for bfloat16 such a product takes a fraction of the
time of a float32 one. Rounding both operands moves an affinity by at most::

    |w . x - w~ . x~|  <=  |w - w~| |x| + |w~| |x - x~|

(Cauchy-Schwarz). The tokens' rounding errors are measured; those of the weights, which
are many more, are bounded by their norms, at fewer passes. The right side is a
product of vectors of length two: three more columns on each operand, with the bias, and
the bfloat16 product itself is an upper bound of the affinity. A pair whose bound stays
under its threshold cannot match; the affinities of the others are computed in float32,
one by one, or of a row that has many all at once. So no match is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skchoice.ops import eager

# Columns of bounds, and then of zeros: the product likes a multiple of this.
_MULTIPLE = 32
# Share of the inputs from which on to multiply a row with all of them is faster.
_MANY = 0.2
_FAST_IF = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
# Rounding to bfloat16 moves a float by at most this share of it, or by next to nothing
# where it is so small that it has fewer digits.
_ROUNDING, _NOTHING = 2.0**-8, torch.finfo(torch.float32).tiny


def supported(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices fast."""
    # An old torch that does not tell is taken for a slow one.
    known = (getattr(torch.cpu, name, bool) for name in _FAST_IF)
    return device.type == "cpu" and any(supported() for supported in known)


class CoarseInputs:
    """Encoder inputs with the bfloat16 operand that bounds their affinities.

    Parameters
    ----------
    inputs : float32 Tensor of shape (n_tokens, d)
    """

    def __init__(self, inputs: Tensor):
        self.inputs = inputs
        norms = torch.linalg.vector_norm(inputs, dim=1)
        # Sums of d products are rounded in float32, once here and once in the end.
        summing = 2.0 * inputs.shape[1] * torch.finfo(torch.float32).eps
        self.operand = _operand(inputs)
        error = self.operand[:, : inputs.shape[1]].float().sub_(inputs)
        rounding = torch.linalg.vector_norm(error, dim=1)
        # Exactly one for the bias: more would enlarge a negative bias.
        self.operand[:, inputs.shape[1]] = 1.0
        columns = (norms, rounding + summing * norms)
        _append(self.operand, inputs.shape[1] + 1, columns)


def upper_bounds(
    weight: Tensor, bias: Tensor, inputs: CoarseInputs, out: Tensor
) -> Tensor:
    """Bound the entries of ``weight @ inputs.T + bias`` from above.

    Parameters
    ----------
    weight : float32 Tensor of shape (n_rows, d)
    bias : Tensor of shape (n_rows, 1)
    inputs : CoarseInputs of shape (n_columns, d)
    out : bfloat16 Tensor of shape (n_rows, n_columns)

    Returns
    -------
    out
    """
    operand = _operand(weight)
    norms = torch.linalg.vector_norm(weight, dim=1)
    rounding = norms * _ROUNDING + _NOTHING
    _append(operand, weight.shape[1], (bias[:, 0], rounding, norms + rounding))
    return torch.mm(operand, inputs.operand.T, out=out)


def find_hits(
    bounds: Tensor,
    weight: Tensor,
    bias: Tensor,
    inputs: Tensor,
    threshold: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the entries of ``weight @ inputs.T + bias`` that reach a threshold.

    Parameters
    ----------
    bounds : Tensor
        From :func:`upper_bounds` of the next three.
    weight, bias : Tensors
    inputs : float32 Tensor of shape (n_columns, d)
        Best no more of them than the cache holds: each is read again and again.
    threshold : Tensor of shape (n_rows, 1), (1, n_columns) or (1, 1), nonnegative

    Returns
    -------
    rows, columns : int32 Tensors of shape (n_hits,)
        In any order of rows; of a row, columns ascend.
    values : float32 Tensor of shape (n_hits,)
    """
    # Rounding is monotonic, so the rounded threshold is as safe as the threshold. The
    # bits of nonnegative floats sort as integers, and negative floats are negative
    # integers: that is how numpy, which knows no bfloat16, compares them.
    lower = threshold.bfloat16().view(torch.int16).numpy()
    bits = bounds.view(torch.int16).numpy()
    rows, columns = eager.positions(torch.from_numpy(bits >= lower))
    few = int(_MANY * len(inputs))
    n_more = max(0, len(rows) - few)
    if not (rows[len(rows) - n_more :] == rows[:n_more]).any():  # rows ascend
        return _one_by_one(weight, bias, inputs, threshold, rows, columns)
    many = torch.bincount(rows, minlength=len(weight)) > few
    others = (~many).index_select(0, rows).nonzero().view(-1)
    rows, columns = (x.index_select(0, others) for x in (rows, columns))
    found = _one_by_one(weight, bias, inputs, threshold, rows, columns)
    those = many.nonzero().view(-1)
    products = torch.mm(weight[those], inputs.T)
    least = threshold[those] if len(threshold) > 1 else threshold
    rows, columns, values = eager.find_hits(products, bias[those], least)
    more = those.int()[rows], columns, values
    rows, columns, values = map(torch.cat, zip(found, more, strict=True))
    return rows, columns, values


def _one_by_one(
    weight: Tensor,
    bias: Tensor,
    inputs: Tensor,
    threshold: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return those of some entries that reach the threshold, with their values."""
    values = eager.pair_dots(weight, inputs, rows, columns)
    values += bias[:, 0].index_select(0, rows)
    return eager.reaching(threshold, rows, columns, values)


def _operand(array: Tensor) -> Tensor:
    """Return the array in bfloat16 with room to append to."""
    n_rows, width = array.shape
    padded = -(-(width + 3) // _MULTIPLE) * _MULTIPLE
    operand = torch.empty(n_rows, padded, dtype=torch.bfloat16)
    operand[:, width:] = 0
    operand[:, :width] = array
    return operand


def _append(operand: Tensor, width: int, columns: tuple[Tensor, ...]) -> None:
    """Write columns behind the first ``width``, rounded up to bfloat16."""
    for number, column in enumerate(columns, start=width):
        # Twice what rounding to nearest can take away.
        operand[:, number] = column + column.abs() * 2.0**-7
