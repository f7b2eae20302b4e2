"""The operations in plain torch, for CPU and CUDA."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Columns of a row that are screened together.
_BLOCK = 32


def find_hits(
    tile: Tensor, bias: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the entries of ``tile + bias`` that reach a threshold.

    Parameters
    ----------
    tile : Tensor of shape (n_rows, n_columns)
        Where columns have a threshold each, the bias is added to it in place: a copy
        would take memory, and time to get it from the system.
    bias : Tensor of shape (n_rows, 1)
    threshold : Tensor of shape (n_rows, 1), (1, n_columns) or (1, 1)

    Returns
    -------
    rows, columns : int32 Tensors of shape (n_hits,), in row-major order
    values : Tensor of shape (n_hits,)
        Of ``tile + bias``.
    """
    if threshold.shape[1] > 1:
        tile.add_(bias)
        rows, columns = positions(_reached(tile, threshold))
        return rows, columns, _entries(tile, rows, columns)
    if tile.device.type == "cpu" and tile.shape[1] % _BLOCK == 0:
        return _find_in_blocks(tile, bias, threshold)
    # Adding the bias to the hits alone saves a pass.
    rows, columns = positions(_reached(tile, lowered(threshold, bias)))
    values = _entries(tile, rows, columns).add_(bias[:, 0].index_select(0, rows))
    return reaching(threshold, rows, columns, values)


def _reached(tile: Tensor, threshold: Tensor) -> Tensor:
    if tile.device.type == "cpu":
        return torch.from_numpy(tile.numpy() >= threshold.numpy())
    return tile >= threshold


def _find_in_blocks(
    tile: Tensor, bias: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find hits in those blocks whose largest entry tells that they may hold some.

    Most hold none, so all but one pass are over few entries.
    """
    n_across = tile.shape[1] // _BLOCK
    blocks = tile.view(-1, _BLOCK)
    largest = blocks.amax(1).view(-1, n_across)
    # Of a block with NaN the largest is NaN: it is looked at.
    under = largest.numpy() < lowered(threshold, bias).numpy()
    block = np.flatnonzero(~under).astype(np.int32)
    row = block // np.int32(n_across)
    place = torch.from_numpy(block - row * np.int32(n_across))
    row_of = torch.from_numpy(row)
    if len(threshold) > 1:
        threshold = threshold.index_select(0, row_of)
    values = blocks.index_select(0, torch.from_numpy(block))
    values += bias.index_select(0, row_of)
    of_block, column = positions(_reached(values, threshold))
    return (
        row_of.index_select(0, of_block),
        place.index_select(0, of_block).mul_(_BLOCK).add_(column),
        _entries(values, of_block, column),
    )


def _entries(tile: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # Several times faster than with two indices.
    stride = tile.stride(0)
    flat = tile.as_strided(((len(tile) - 1) * stride + tile.shape[1],), (1,))
    return flat.index_select(0, rows * stride + columns)


def positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns, int32, where a mask of shape (m, n) is true."""
    width = mask.shape[1]
    if mask.device.type == "cpu":
        flat = _true(mask.reshape(-1)).astype(np.int32)
        row = flat // np.int32(width)
        return torch.from_numpy(row), torch.from_numpy(flat - row * np.int32(width))
    rows, columns = mask.nonzero().int().unbind(1)
    return rows, columns


def _true(flags: Tensor) -> NDArray:
    """Return where flags on the CPU are true.

    numpy's scan is several times faster than nonzero of flags. nonzero of words of
    eight is faster yet, where most of them hold none.
    """
    if len(flags) % 8:
        return np.flatnonzero(flags.numpy())
    words = flags.view(torch.int64)
    at = words.nonzero().view(-1)
    there = np.flatnonzero(words.index_select(0, at).view(torch.bool).numpy())
    return (at.numpy()[there >> 3] << 3) | (there & 7)


def reaching(
    threshold: Tensor, rows: Tensor, columns: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return those of some entries that reach a threshold, which broadcasts."""
    if threshold.shape[0] > 1:
        threshold = threshold[:, 0].index_select(0, rows)
    elif threshold.shape[1] > 1:
        threshold = threshold[0].index_select(0, columns)
    # Positions, not a mask: a mask is searched anew by each array it selects from.
    kept = (values >= threshold.view(-1)).nonzero().view(-1)
    rows, columns, values = (x.index_select(0, kept) for x in (rows, columns, values))
    return rows, columns, values


def lowered(threshold: Tensor, bias: Tensor) -> Tensor:
    """Return what ``x`` reaches at least where ``x + bias`` reaches the threshold.

    A little less than ``threshold - bias``, since rounding moves both sums.
    """
    lower = threshold - bias
    largest = torch.finfo(lower.dtype).max
    rounding = 4 * torch.finfo(lower.dtype).eps
    return lower - rounding * (lower.abs().clamp(max=largest) + bias.abs())


def bag_sum(table: Tensor, index: Tensor, pointers: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of table rows, one bag per output row.

    Parameters
    ----------
    table : Tensor of shape (n_table, d)
    index : int32 Tensor of shape (n_members,)
        Row of ``table`` of each member.
    pointers : int32 Tensor of shape (n_bags + 1,)
        Bag ``i`` holds the members ``pointers[i]:pointers[i + 1]``.
    weights : Tensor of shape (n_members,)

    Returns
    -------
    Tensor of shape (n_bags, d)
    """
    return torch.nn.functional.embedding_bag(
        index,
        table,
        pointers,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )


def counts(index: Tensor, size: int) -> Tensor:
    """Return how often each of ``range(size)`` occurs, int64."""
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=size)
    # There bincount waits, to learn how long its result will be.
    zeros = torch.zeros(size, dtype=torch.int64, device=index.device)
    return zeros.index_add_(0, index, torch.ones_like(index, dtype=torch.int64))


def sums(index: Tensor, values: Tensor, size: int) -> Tensor:
    """Return the sum of the values at each of ``range(size)``."""
    if index.device.type == "cpu":
        return torch.bincount(index, values, size).to(values.dtype)
    return values.new_zeros(size).index_add_(0, index, values)


def pair_dots(
    left: Tensor, right: Tensor, left_rows: Tensor, right_rows: Tensor
) -> Tensor:
    """Dot products of pairs of rows.

    With bags for left rows this is the gradient of :func:`bag_sum` with respect to its
    weights.

    Parameters
    ----------
    left : Tensor of shape (n_left, d)
    right : Tensor of shape (n_right, d)
    left_rows, right_rows : int32 Tensors of shape (n_pairs,)

    Returns
    -------
    Tensor of shape (n_pairs,)
    """
    # The gather-and-sum form of the same thing costs fourteen times as much.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, right_rows, right_rows[:1], left_rows, 0
    )
