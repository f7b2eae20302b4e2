"""Slow, obvious forms of the operations: what the fast ones must equal."""

from __future__ import annotations

import torch
from torch import Tensor


def find_hits(
    tile: Tensor, bias: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of ``tile + bias`` at or over ``threshold``."""
    biased = tile + bias
    rows, columns = (biased >= threshold).nonzero(as_tuple=True)
    return rows.int(), columns.int(), biased[rows, columns]


def bag_sum(table: Tensor, index: Tensor, pointers: Tensor, weights: Tensor) -> Tensor:
    """Row ``i`` is the weighted sum of ``table[index]`` over bag ``i``."""
    return _incidence(table, index, pointers, weights) @ table


def pair_dots(
    left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor
) -> Tensor:
    """``left[left_rows[m]] @ right[right_rows[m]]`` for each pair ``m``."""
    return (left[left_rows.long()] * right[right_rows.long()]).sum(dim=1)


def _incidence(
    table: Tensor, index: Tensor, pointers: Tensor, weights: Tensor
) -> Tensor:
    bags = torch.repeat_interleave(pointers.diff().long())
    dense = table.new_zeros(len(pointers) - 1, len(table))
    return dense.index_put((bags, index.long()), weights, accumulate=True)
