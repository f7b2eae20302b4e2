"""How often features fire: densities over a window, silence, and who is underused."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from skchoice.metrics import ZipfFit, zipf_fit
from skchoice.profiles import zipf_density

# A feature is underused below this fraction of the density its rank should have.
UNDERUSED_FRACTION = 0.1


class FiringTracker:
    """Densities over a recent window and tokens since each feature's last match.

    Parameters
    ----------
    n_features : int
    k : float
        Matches per token, the sum of the target densities.
    window : int
        Tokens over which densities are averaged (exponentially), and after which a
        silent feature is dead.
    device : torch.device
    """

    def __init__(self, n_features: int, k: float, window: int, device: torch.device):
        self.k = k
        self.window = window
        self.n_tokens = 0
        self.silence = torch.zeros(n_features, dtype=torch.int64, device=device)
        self._sums = torch.zeros(n_features, dtype=torch.float64, device=device)
        self._weight = 0.0

    def update(self, counts: Tensor, n_tokens: int) -> None:
        """Add a batch: matches of each feature, (n_features,), over its tokens."""
        keep = max(0.0, 1.0 - n_tokens / self.window)
        self._sums.mul_(keep).add_(counts)
        self._weight = self._weight * keep + n_tokens
        self.n_tokens += n_tokens
        self.silence = torch.where(counts > 0, 0, self.silence + n_tokens)

    def to(self, device: torch.device) -> FiringTracker:
        """Return the same tracker on a device."""
        moved = copy.copy(self)
        moved.silence, moved._sums = self.silence.to(device), self._sums.to(device)
        return moved

    @property
    def ready(self) -> bool:
        """Whether a whole window has been seen."""
        return self.n_tokens >= self.window

    def density(self) -> Tensor:
        """Return the share of recent tokens on which each feature fired."""
        return self._sums / max(self._weight, 1.0)

    def dead(self) -> Tensor:
        """Return a mask of the features without a match in the last window."""
        return self.silence >= self.window

    def zipf_fit(self) -> ZipfFit:
        """Fit Zipf's law to the densities of the window."""
        return zipf_fit(self.density().cpu().numpy())

    def underused(self) -> Tensor:
        """Return a mask of the features far below the density of their rank.

        The target of rank ``r`` is Zipf's law: the fit to the middle ranks, so that
        the tail it judges does not bend it, once a window has been seen; exponent 1
        before.
        """
        density = self.density()
        n_features = len(density)
        if self.ready and density.any():
            fit = self.zipf_fit()
            target = fit.predict(np.arange(1, n_features + 1))
        else:
            target = zipf_density(n_features, min(self.k, n_features))
        order = density.argsort(descending=True, stable=True)
        wanted = torch.empty_like(density)
        wanted[order] = torch.as_tensor(target, dtype=torch.float64).to(density.device)
        # Before a feature could be expected to fire, its silence says nothing.
        expected = UNDERUSED_FRACTION * wanted * self._weight
        return (density < UNDERUSED_FRACTION * wanted) & (expected >= 1.0) | self.dead()
