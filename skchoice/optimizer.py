"""Adam on ranges of rows, so that a gradient is used while it is in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

# A feature fires on few rows, and by far not on as many in every batch. The usual 0.9
# and 0.999 remember so long that its steps are scaled by gradients that are long gone:
# they overshoot, and above some learning rate features die of it.
_BETAS = (0.5, 0.95)
# The loss is a fraction of variance, so gradients are small: a larger epsilon would
# freeze the features that seldom fire.
_EPSILON = 1e-10


class Adam:
    """Adam (Kingma and Ba 2015) for a fixed list of arrays.

    Parameters
    ----------
    arrays : sequence of Tensors
        Updated in place.

    Attributes
    ----------
    step : int
        Updates begun.
    moments : list of (Tensor, Tensor)
        First and second moment of each array.
    """

    def __init__(self, arrays: tuple[Tensor, ...]):
        self.arrays = arrays
        self.moments = [(torch.zeros_like(a), torch.zeros_like(a)) for a in arrays]
        self.step = 0

    def to(self, arrays: tuple[Tensor, ...]) -> Adam:
        """Return an optimizer of other arrays that goes on from the same moments."""
        moved = Adam(arrays)
        moved.step = self.step
        moved.moments = [
            (first.to(array.device), second.to(array.device))
            for array, (first, second) in zip(arrays, self.moments, strict=True)
        ]
        return moved

    def begin_step(self, learning_rate: float) -> None:
        """Start an update of all arrays."""
        self.step += 1
        self._learning_rate = learning_rate
        self._count = self.arrays[0].new_full((), float(self.step))

    def update(
        self, which: int, gradient: Tensor, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Update rows ``start:stop`` of an array and return them."""
        rows = self.arrays[which][start:stop]
        first, second = self.moments[which]
        torch._fused_adam_(
            [rows],
            [gradient],
            [first[start:stop]],
            [second[start:stop]],
            [],
            [self._count],
            lr=self._learning_rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )
        return rows

    def forget(self, which: int, rows: Tensor | slice) -> None:
        """Clear the moments of some rows, where they were moved by other means."""
        for moment in self.moments[which]:
            moment[rows] = 0.0
