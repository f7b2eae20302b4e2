"""Adam on some rows at a time, so that a gradient is used while it is in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

# A feature fires on few rows, and by far not on as many in every batch. The usual 0.9
# and 0.999 remember so long that its steps are scaled by gradients that are long gone:
# they overshoot, and above some learning rate features die of it.
_BETAS = (0.5, 0.95)
# Of the mean square of a row's gradient, where there is one number for a row.
_ROW_BETA = 0.9
# From so many features on, moments of every weight would take most of the memory, and
# moving all of them most of the time: in a step, few features have a match.
COMPACT_FROM = 1 << 18
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
    moments : list of tuples of Tensors
        First and second moment of each array.
    """

    moments: list[tuple[Tensor, ...]]

    def __init__(self, arrays: tuple[Tensor, ...]):
        self.arrays = arrays
        self.moments = [
            tuple(array.new_zeros(shape) for shape in self.moment_shapes(array.shape))
            for array in arrays
        ]
        self.step = 0

    @staticmethod
    def moment_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the moments of an array of this shape."""
        return shape, shape

    def to(self, arrays: tuple[Tensor, ...]) -> Adam:
        """Return an optimizer of other arrays that goes on from the same moments."""
        moved = type(self)(arrays)
        moved.step = self.step
        moved.moments = [
            tuple(moment.to(array.device) for moment in moments)
            for array, moments in zip(arrays, self.moments, strict=True)
        ]
        return moved

    def begin_step(self, learning_rate: float) -> None:
        """Start an update of all arrays."""
        self.step += 1
        self._learning_rate = learning_rate
        self._count = self.arrays[0].new_full((), float(self.step))

    def update(
        self,
        which: int,
        gradient: Tensor,
        rows: slice | Tensor = slice(None),
        unit_norm: bool = False,
    ) -> Tensor:
        """Update rows of an array, give them unit norm if asked to, and return them."""
        values = self.arrays[which][rows]
        self._move(values, which, gradient, rows)
        if unit_norm:
            torch.nn.functional.normalize(values, dim=1, out=values)
        if isinstance(rows, Tensor):  # what was updated is a copy
            self.arrays[which][rows] = values
        return values

    def _move(
        self, values: Tensor, which: int, gradient: Tensor, rows: slice | Tensor
    ) -> None:
        """Move rows of an array, which are a range, along their gradient."""
        first, second = self.moments[which]
        torch._fused_adam_(
            [values],
            [gradient],
            [first[rows]],
            [second[rows]],
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

    def forget(self, which: int, rows: Tensor | slice) -> None:
        """Clear the moments of some rows, where they were moved by other means."""
        for moment in self.moments[which]:
            moment[rows] = 0.0


class CompactAdam(Adam):
    """Adam that remembers one number for each row of a matrix.

    It has no first moment, and its second is the mean over the row. A row without a
    gradient stays where it is, so a step need not come near it. Of vectors it is Adam.

    Attributes
    ----------
    moments : list of tuples of Tensors
        Of a matrix the second moment of each row, (n_rows,).
    """

    @staticmethod
    def moment_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the moments of an array of this shape."""
        return (shape[:1],) if len(shape) > 1 else (shape, shape)

    def begin_step(self, learning_rate: float) -> None:
        """Start an update of all arrays."""
        super().begin_step(learning_rate)
        for array, moments in zip(self.arrays, self.moments, strict=True):
            if array.dim() > 1:
                moments[0].mul_(_ROW_BETA)

    def _move(
        self, values: Tensor, which: int, gradient: Tensor, rows: slice | Tensor
    ) -> None:
        """Move rows of an array, of a matrix any, along their gradient."""
        if gradient.dim() == 1:
            super()._move(values, which, gradient, rows)
            return
        squares = torch.linalg.vector_norm(gradient, dim=1).square_()
        (second,) = self.moments[which]
        second[rows] += (1.0 - _ROW_BETA) / gradient.shape[1] * squares
        typical = (second[rows] / (1.0 - _ROW_BETA**self.step)).sqrt_()
        steps = self._learning_rate / (typical + _EPSILON)
        values.addcmul_(gradient, steps[:, None], value=-1)


def new_optimizer(arrays: tuple[Tensor, ...]) -> Adam:
    """Return the optimizer for as many features as the first array has rows."""
    return CompactAdam(arrays) if len(arrays[0]) >= COMPACT_FROM else Adam(arrays)
