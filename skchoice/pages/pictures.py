"""Rows and decoder directions that are images, as bytes for a page to draw."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skchoice.inputs import Rows


class RowPictures:
    """Rows of X as grey images, all on one scale.

    Parameters
    ----------
    rows : Rows
    image_shape : (int, int)
        Height and width.
    """

    def __init__(self, rows: Rows, image_shape: tuple[int, int]):
        self._rows = rows
        self.image_shape = image_shape
        self._low, self._high = np.inf, -np.inf

    def note(self, chunk: Tensor) -> None:
        """Widen the scale to some rows."""
        self._low = min(self._low, chunk.min().item())
        self._high = max(self._high, chunk.max().item())

    def of(self, row: int) -> str:
        """Return the bytes of a row, 0 the least and 255 the most, in base64."""
        values = self._rows.read(slice(row, row + 1))[0].double().cpu().numpy()
        span = self._high - self._low
        shares = (values - self._low) / (span if span > 0 else 1.0)
        return _base64(np.rint(255 * shares).astype(np.uint8))


def direction_picture(direction: NDArray) -> str:
    """Return the bytes of a direction in base64: 128 is zero, its extreme 1 or 255."""
    extreme = np.abs(direction).max()
    shares = direction / (extreme if extreme > 0 else 1.0)
    return _base64((128 + np.rint(127 * shares)).astype(np.uint8))


def _base64(values: NDArray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
