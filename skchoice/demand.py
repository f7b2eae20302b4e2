"""What the features want: how often each would fire if none had a cap."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from skchoice.firing import FiringTracker
from skchoice.rules import FALL

# Demands are averaged over this many windows of the tracker.
_WINDOWS = 4
# One batch says no more than that a feature wants so many times its cap.
_MOST = 4.0


class Demand:
    """Densities at which all features would have the same cut.

    Under Feature Choice a feature fires as often as its cap allows, so how often it
    fires says nothing about how often it should. Its cut does, the smallest affinity
    that matched: where it is above that of others, a match is worth more here
    than there. The number of affinities above a level falls with about its fourth
    power, so a feature with ``m`` matches and the cut ``c`` has about
    ``m * (c / level) ** 4`` affinities above a common ``level``: as many matches as
    Mutual Choice would give it.

    Parameters
    ----------
    tracker : FiringTracker
        Its densities, of a time without caps, are where the average begins.

    Attributes
    ----------
    density : float64 Tensor of shape (n_features,)
        Matches per token, up to a factor that all features have in common.
    """

    def __init__(self, tracker: FiringTracker):
        self.density = tracker.density().clone()
        self._weight = float(min(tracker.window, tracker.n_tokens))
        self._longest = float(_WINDOWS * tracker.window)

    def update(self, caps: Tensor, cuts: Tensor, n_tokens: int) -> None:
        """Add an allocation: caps and cuts of the features, (n_features,)."""
        caps, cuts = caps.double(), cuts.double()
        level = (caps @ cuts) / caps.sum()
        if level > 0:
            ratio = (cuts / level).pow(FALL).clamp(1.0 / _MOST, _MOST)
            total = self.density * self._weight + caps * ratio
            self.density = total / (self._weight + n_tokens)
            self._weight = min(self._weight + n_tokens, self._longest)

    def to(self, device: torch.device) -> Demand:
        """Return the same on a device."""
        moved = copy.copy(self)
        moved.density = self.density.to(device)
        return moved
