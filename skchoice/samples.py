"""The rows that thresholds are calibrated on, read anew in every pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from skchoice.inputs import Rows

# Rows read at a time, of those in memory.
_CHUNK_ROWS = 4096


class Sample(Protocol):
    """Some rows, to be read in chunks as often as needed."""

    n_rows: int
    dtype: torch.dtype

    def read(self) -> Iterator[Tensor]:
        """Yield chunks of the rows."""
        ...


class UnitsSample:
    """Some units of rows."""

    def __init__(self, rows: Rows, units: NDArray):
        self._rows, self._units = rows, units
        self.n_rows, self.dtype = rows.count(units), rows.dtype

    def read(self) -> Iterator[Tensor]:
        """Yield chunks of the rows."""
        step = self._rows.per_chunk()
        for first in range(0, len(self._units), step):
            yield self._rows.gather(self._units[first : first + step])


class HeldSample:
    """Rows held in memory, read onto a device."""

    def __init__(self, held: Tensor, device: torch.device):
        self._held, self._device = held, device
        self.n_rows, self.dtype = len(held), held.dtype

    def read(self) -> Iterator[Tensor]:
        """Yield chunks of the rows."""
        return (chunk.to(self._device) for chunk in self._held.split(_CHUNK_ROWS))
