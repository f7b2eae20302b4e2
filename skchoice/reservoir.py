"""A uniform sample of all rows of a stream."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from skchoice.inputs import Rows
from skchoice.samples import HeldSample


class Reservoir:
    """A uniform sample of the rows seen so far (Vitter 1985, algorithm R).

    Parameters
    ----------
    size : int
        Rows held at most.
    seed : int
    """

    def __init__(self, size: int, seed: int):
        self._size = size
        self._rng = np.random.default_rng([seed, 2])
        self._held = torch.empty(0, 0)
        self._n_seen = 0

    def updated(self, rows: Rows) -> Reservoir:
        """Return a reservoir that has seen these rows too; this one stays as it is."""
        new = copy.copy(self)
        new._rng = copy.deepcopy(self._rng)
        new._held = self._held.clone()
        for chunk in rows.chunks():
            new._add(chunk.cpu())
        return new

    def _add(self, chunk: Tensor) -> None:
        if self._n_seen == 0:
            self._held = chunk[:0]
        room = self._size - len(self._held)
        self._held = torch.cat([self._held, chunk[:room].to(self._held.dtype)])
        first = self._n_seen + min(room, len(chunk))
        rest = chunk[room:]
        # Row number t replaces a held row with probability size / (t + 1).
        place = self._rng.integers(0, first + 1 + np.arange(len(rest)))
        hit = np.flatnonzero(place < self._size)
        # Of several rows for one place the last stays: index assignment in order.
        for row in hit:
            self._held[place[row]] = rest[row]
        self._n_seen += len(chunk)

    def sample(self, n_rows: int, device: torch.device) -> Tensor:
        """Return some of the held rows, at most ``n_rows``."""
        return self._held[:n_rows].to(device)

    def chunks(self, device: torch.device) -> HeldSample:
        """Return the held rows, to be read in chunks."""
        return HeldSample(self._held, device)
