"""The integer caps of a batch, drawn from densities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skchoice.arguments import check_each
from skchoice.profiles import fill_to

__all__ = ["systematic_caps"]

_GRID = 1 << 26  # one match, in the units in which expected caps are added up
_ROUNDING = 1e-9  # densities that were added up may be this much over 1


def systematic_caps(
    density: NDArray, n_tokens: int, offset: float = 0.5, order: NDArray | None = None
) -> NDArray:
    """Draw integer caps for one batch by systematic sampling.

    Parameters
    ----------
    density : array of shape (n_features,)
        Expected matches per token, each in [0, 1], summing to ``k``.
    n_tokens : int
        Tokens of the batch.
    offset : float in [0, 1), default=0.5
        Where sampling starts. Over a uniform offset the caps are unbiased.
    order : int array of shape (n_features,) or None, default=None
        Order in which the features are walked. None takes their index.

    Returns
    -------
    int64 array of shape (n_features,)
        Sums to ``round(k * n_tokens)``; each entry is within 1 of
        ``density * n_tokens`` and at most ``n_tokens``.

    Raises
    ------
    ValueError
        If a density is not in [0, 1].

    Notes
    -----
    Expected caps are added up as integers, small fractions of a match each, so that the
    sum and the bounds are exact at any size (Madow 1949, systematic sampling).

    Examples
    --------
    >>> from skchoice.caps import systematic_caps
    >>> systematic_caps([0.5, 0.25, 0.25], n_tokens=6)
    array([3, 2, 1])
    """
    density = np.asarray(density, dtype=np.float64)
    fine = (density >= 0) & (density <= 1 + _ROUNDING)
    check_each("density", density, fine, "from 0 to 1")
    order = np.arange(len(density)) if order is None else order
    parts = _expected_caps(density[order], n_tokens)
    edges = np.concatenate([[0], np.cumsum(parts)]) + int(offset * _GRID)
    caps = np.empty(len(density), dtype=np.int64)
    caps[order] = np.diff(edges // _GRID)
    return caps


class CapSampler:
    """Integer caps for one batch after the other.

    A cap is the expected one, rounded down or up: up for those that are owed most of
    what was expected of all batches so far. So every feature, however rare, is served
    once about every time that one more match is expected of it, also while the density
    changes from batch to batch (a greedy form of the chairman assignment, Tijdeman
    1980).

    Parameters
    ----------
    density : array of shape (n_features,)
    rng : numpy Generator
        Draws the share of a match that each feature is owed at first, and ``order``.

    Attributes
    ----------
    order : int array of shape (n_features,)
        A fixed order of the features, in which calibration rounds their caps.
    """

    def __init__(self, density: NDArray, rng: np.random.Generator):
        self.density = density
        self.order = rng.permutation(len(density))
        self._owed = rng.integers(_GRID, size=len(density))

    def draw(self, n_tokens: int, smallest: int = 0) -> NDArray:
        """Return the caps of the next batch, int64 of shape (n_features,).

        None is below ``smallest``, if the budget allows for that.
        """
        density = self.density
        if smallest:
            density = fill_to(density, density.sum(), lower=smallest / n_tokens)
        caps, fraction = np.divmod(_expected_caps(density, n_tokens), _GRID)
        n_up = int(fraction.sum()) // _GRID
        if n_up:
            self._owed += fraction
            between = np.flatnonzero(fraction)
            # One key for each feature, so that no two are alike.
            keys = (self._owed[between] << 32) + between
            up = between[np.argpartition(keys, -n_up)[-n_up:]]
            caps[up] += 1
            self._owed[up] -= _GRID
        return caps


def _expected_caps(density: NDArray, n_tokens: int) -> NDArray:
    """Return expected caps as integers in small fractions of a match.

    They sum to whole matches, and none is above the number of tokens.
    """
    limit = n_tokens * _GRID
    parts = np.rint(density * limit).astype(np.int64).clip(0, limit)
    # The sum is k but for rounding, which must not move the budget.
    budget = round(round(float(density.sum()), 9) * n_tokens)
    return _pin_sum(parts, budget * _GRID)


def _pin_sum(parts: NDArray, total: int) -> NDArray:
    """Move parts as little as possible so that they sum to ``total``.

    No part leaves the whole matches it lies between, so what is drawn from it is still
    within one of what it was.
    """
    missing = total - int(parts.sum())
    while missing:
        room = -parts % _GRID if missing > 0 else parts % _GRID
        movable = np.flatnonzero(room)
        if not len(movable):
            break
        share = max(1, abs(missing) // len(movable))
        movable = movable[: abs(missing) // share]
        parts[movable] += np.sign(missing) * np.minimum(room[movable], share)
        missing = total - int(parts.sum())
    return parts
