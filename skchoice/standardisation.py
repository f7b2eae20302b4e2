"""What rows are centred and scaled by before training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_SMALLEST_SCALE = 1e-30
# So many rows tell a centre and a scale as well as more do.
_TELLING_ROWS = 1000


@dataclass(frozen=True)
class Standardisation:
    """What is subtracted from X and what it is divided by before training."""

    centre: Tensor  # (d,) float64
    scale: float
    n_rows: int = 0  # that it was found from

    def apply(self, x: Tensor) -> Tensor:
        """Return the float32 rows that are trained on."""
        return (x - self.centre.to(x.dtype)).mul_(1.0 / self.scale).float()

    def refutes(self, other: Standardisation) -> bool:
        """Whether it shows that another is far off, and rests on rows enough to tell.

        The scales differ twofold, or the centres by more than the scale.
        """
        if self.n_rows < min(other.n_rows, _TELLING_ROWS):
            return False
        apart = (self.centre - other.centre).norm().item()
        low, high = sorted((self.scale, other.scale))
        return high > 2.0 * low or apart > low

    def to(self, device: torch.device) -> Standardisation:
        """Return the same on a device."""
        return replace(self, centre=self.centre.to(device))


def standardise(sample: Tensor) -> tuple[Standardisation, float]:
    """Find the centre and the scale of X from a sample of its rows.

    Returns
    -------
    Standardisation
        The mean and the median distance from it, both of the rows that are not
        outliers: at most ten times the median distance away.
    outlying : float
        Share of the sample's variance that lies in its outliers.

    Raises
    ------
    ValueError
        If the scale is beyond what training in float32 can return to.
    """
    sample = sample.double()
    largest = sample.abs().max().item()
    if 0.0 < largest < _SMALLEST_SCALE:
        raise ValueError(
            f"The largest number in X is {largest:.3g}, which float32 cannot square. "
            "Rescale X."
        )
    centre = sample.median(0).values
    for _ in range(2):
        squares = (sample - centre).square().sum(1)
        typical = squares.median()
        # Where most rows are equal, the median says nothing about the others.
        ordinary = squares <= (100.0 * typical if typical > 0 else torch.inf)
        centre = sample[ordinary].mean(0)
    scale = (sample[ordinary] - centre).square().sum(1).median().sqrt().item()
    if scale == 0.0:  # more than half of the rows are equal
        scale = (sample - centre).square().sum(1).mean().sqrt().item()
    constant = scale <= 1e-12 * centre.norm().item() < math.inf
    if constant:  # what differs is rounding
        centre, scale = sample[0], 1.0
    if not _SMALLEST_SCALE < scale < 1.0 / _SMALLEST_SCALE:
        raise ValueError(
            f"The typical distance of a row of X from the mean is {scale:.3g}, which "
            "float32 cannot square. Rescale X."
        )
    total = squares.sum().item()
    outlying = squares[~ordinary].sum().item() / total if total else 0.0
    return Standardisation(centre, scale, len(sample)), outlying
