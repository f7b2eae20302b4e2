"""Shuffled batches without end, from rows in memory or streamed.

The order of pass ``p`` is a pure function of the seed and ``p``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skchoice.inputs import Rows

# Several blocks of a streamed source are mixed in a buffer of this many float32.
_BUFFER_ENTRIES = 1 << 23


def shuffled_batches(
    rows: Rows, units: NDArray, batch_size: int, seed: int, skip: int = 0
) -> Iterator[Tensor]:
    """Yield batches of exactly ``batch_size`` rows, pass after pass.

    A batch that begins in one pass may end in the next, so that every row is used
    equally often and no batch is small.

    Parameters
    ----------
    rows : Rows
    units : int array
        Which of ``rows.units()`` take part.
    batch_size : int
    seed : int
    skip : int, default=0
        Batches to leave out at the start, without reading their rows.

    Yields
    ------
    Tensor of shape (batch_size, n_columns)
    """
    # A batch is a stretch of the passes joined end to end.
    first, left_out = divmod(skip * batch_size, rows.count(units))
    passes = (np.random.default_rng([seed, number]) for number in count(first))
    orders = ((rng.permutation(units), rng) for rng in passes)
    if rows.streamed:
        buffers = (
            buffer
            for number, (order, rng) in enumerate(orders)
            for buffer in _mixed(rows, order, rng, 0 if number else left_out)
        )
        yield from map(torch.cat, _regrouped(buffers, batch_size))
    else:
        pieces = (
            order if number else order[left_out:]
            for number, (order, _) in enumerate(orders)
        )
        wanted = _regrouped(pieces, batch_size)
        yield from map(rows.read, map(np.concatenate, wanted))


def _mixed(
    rows: Rows, order: NDArray, rng: np.random.Generator, left_out: int = 0
) -> Iterator[Tensor]:
    """Yield buffers of several blocks, their rows shuffled, from some row on."""
    n_rows = max(1, _BUFFER_ENTRIES // rows.shape[1])
    n_blocks = max(1, n_rows // rows.unit_rows)
    for first in range(0, len(order), n_blocks):
        blocks = order[first : first + n_blocks]
        places = rng.permutation(rows.count(blocks))
        if left_out < len(places):
            yield rows.gather(blocks)[torch.from_numpy(places[left_out:])]
        left_out = max(0, left_out - len(places))


def _regrouped(pieces: Iterator, size: int) -> Iterator[list]:
    """Cut a stream of arrays anew: lists of pieces that together have a given size."""
    held: list = []
    for piece in pieces:
        while len(piece):
            held.append(piece[: size - sum(map(len, held))])
            piece = piece[len(held[-1]) :]
            if sum(map(len, held)) == size:
                yield held
                held = []
