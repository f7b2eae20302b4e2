"""The operations in plain torch, for CPU and CUDA."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def find_hits(
    tile: Tensor, bias: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the entries of ``tile + bias`` that reach a threshold.

    Parameters
    ----------
    tile : Tensor of shape (n_rows, n_columns), contiguous
        May be overwritten.
    bias : Tensor of shape (n_rows, 1)
    threshold : Tensor of shape (n_rows, 1), (1, n_columns) or (1, 1)

    Returns
    -------
    rows, columns : int64 Tensors of shape (n_hits,), in row-major order
    values : Tensor of shape (n_hits,)
        Of ``tile + bias``.
    """
    if threshold.shape[1] > 1:
        rows, columns, values = _scan(tile.add_(bias), threshold)
        return rows, columns, values
    # Adding the bias to the hits alone saves a pass.
    rows, columns, values = _scan(tile, lowered(threshold, bias))
    return reaching(threshold, rows, columns, values + bias[rows, 0])


def reaching(
    threshold: Tensor, rows: Tensor, columns: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return those of some entries that reach a threshold, which broadcasts."""
    if threshold.shape[0] > 1:
        threshold = threshold[rows, 0]
    elif threshold.shape[1] > 1:
        threshold = threshold[0, columns]
    # Positions, not a mask: a mask is searched anew by each array it selects from.
    kept = (values >= threshold.view(-1)).nonzero().view(-1)
    return rows[kept], columns[kept], values[kept]


def lowered(threshold: Tensor, bias: Tensor) -> Tensor:
    """Return what ``x`` reaches at least where ``x + bias`` reaches the threshold.

    A little less than ``threshold - bias``, since rounding moves both sums.
    """
    lower = threshold - bias
    largest = torch.finfo(lower.dtype).max
    rounding = 4 * torch.finfo(lower.dtype).eps
    return lower - rounding * (lower.abs().clamp(max=largest) + bias.abs())


def _scan(tile: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if tile.device.type == "cpu":
        # numpy's scan of a boolean array is several times faster than nonzero.
        flat = torch.from_numpy(np.flatnonzero(tile.numpy() >= threshold.numpy()))
    else:
        flat = (tile >= threshold).view(-1).nonzero().view(-1)
    rows = torch.div(flat, tile.shape[1], rounding_mode="floor")
    return rows, flat - rows * tile.shape[1], tile.view(-1)[flat]


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


def bag_dots(
    upstream: Tensor, table: Tensor, index: Tensor, pointers: Tensor
) -> Tensor:
    """Dot product of each bag's upstream row with each member of the bag.

    This is the gradient of :func:`bag_sum` with respect to its weights.

    Parameters
    ----------
    upstream : Tensor of shape (n_bags, d)
    table : Tensor of shape (n_table, d)
    index : int32 Tensor of shape (n_members,)
    pointers : int32 Tensor of shape (n_bags + 1,)

    Returns
    -------
    Tensor of shape (n_members,)
    """
    bags = torch.repeat_interleave(pointers.diff().long(), output_size=len(index)).int()
    # The gather-and-sum form of the same thing costs fourteen times as much.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        upstream, table, index, pointers[:-1], bags, 0
    )
