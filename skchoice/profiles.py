"""Cap profiles: how densely features may fire.

A profile is a density vector ``p`` of shape (n_features,): the matches that each
feature is allowed per token, ``0 <= p <= 1``, summing to ``k``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skchoice.arguments import check_each, check_integer, check_number

__all__ = [
    "by_rank",
    "fill_to",
    "learned_density",
    "uniform_density",
    "zipf_density",
]

_LEARNED_FLOOR = 0.05  # of the mean density: a feature dead once may come back


def fill_to(
    weights: NDArray,
    total: float,
    lower: NDArray | float = 0.0,
    upper: NDArray | float = 1.0,
) -> NDArray:
    """Scale weights so that, clipped to bounds, they sum to a total (water-filling).

    Parameters
    ----------
    weights : array of shape (n_features,)
        Not negative.
    total : float
        Sum to reach. Where the bounds do not allow it, the nearest bound is returned.
    lower, upper : float or array of shape (n_features,), default=0, 1
        Bounds of each value.

    Returns
    -------
    array of shape (n_features,), float64
        ``clip(s * weights, lower, upper)`` with the scalar ``s`` that makes the sum
        equal ``total``.

    Raises
    ------
    ValueError
        If a weight is negative or not finite.

    Examples
    --------
    >>> from skchoice.profiles import fill_to
    >>> fill_to([4.0, 1.0, 1.0], total=2.0)
    array([1. , 0.5, 0.5])
    """
    weights = np.asarray(weights, dtype=np.float64)
    fine = (weights >= 0) & np.isfinite(weights)
    check_each("weights", weights, fine, "finite and not negative")
    lower, upper = np.broadcast_arrays(lower, upper)
    lower = np.broadcast_to(lower, weights.shape).astype(np.float64)
    upper = np.broadcast_to(upper, weights.shape).astype(np.float64)
    positive = weights > 0
    if positive.any():
        # Weights too small to be scaled up would turn the breaks below into infinity.
        weights = weights / weights.max()
        weights = np.where(positive, np.maximum(weights, 1e-250), 0.0)
    if np.where(positive, upper, lower).sum() <= total:
        return np.where(positive, upper, lower)
    if lower.sum() >= total:
        return lower.copy()
    # The sum is piecewise linear and increasing in s: find the piece, then solve it.
    breaks = np.concatenate([lower[positive], upper[positive]])
    breaks = np.unique(breaks / np.tile(weights[positive], 2))

    def filled(scale: float) -> NDArray:
        return np.clip(scale * weights, lower, upper)

    low, high = 0, len(breaks) - 1
    while low < high:
        middle = (low + high) // 2
        if filled(breaks[middle]).sum() >= total:
            high = middle
        else:
            low = middle + 1
    at, below = filled(breaks[high]), filled(breaks[high - 1] if high else 0.0)
    span = at.sum() - below.sum()
    share = 1.0 if span == 0 else (total - below.sum()) / span
    return below + share * (at - below)


def uniform_density(n_features: int, k: float) -> NDArray:
    """Return the same density ``k / n_features`` for every feature.

    Parameters
    ----------
    n_features : int
        Number of features.
    k : float
        Matches per token; the sum of the densities.

    Returns
    -------
    array of shape (n_features,)
        Densities.

    Raises
    ------
    ValueError
        If ``k`` is not from 0 to ``n_features``.

    Examples
    --------
    >>> from skchoice.profiles import uniform_density
    >>> uniform_density(4, k=1)
    array([0.25, 0.25, 0.25, 0.25])
    """
    _check_budget(n_features, k)
    return np.full(n_features, k / n_features)


def zipf_density(
    n_features: int, k: float, exponent: float = 1.0, offset: float = 0.0
) -> NDArray:
    """Return Zipf densities in order of rank.

    Parameters
    ----------
    n_features : int
        Number of features.
    k : float
        Matches per token; the sum of the densities.
    exponent, offset : float, default=1, 0
        Rank ``r = 1, 2, ...`` has density proportional to
        ``(r + offset) ** -exponent``, at most 1 (Ayonrinde 2024, section 3). Neither
        may be negative.

    Returns
    -------
    array of shape (n_features,)
        Densities, descending.

    Raises
    ------
    ValueError
        If ``k`` is not from 0 to ``n_features``, or a parameter is negative.

    Examples
    --------
    >>> from skchoice.profiles import zipf_density
    >>> zipf_density(4, k=2).round(3)
    array([0.96, 0.48, 0.32, 0.24])
    """
    _check_budget(n_features, k)
    check_number("exponent", exponent, 0)
    check_number("offset", offset, 0)
    return _zipf_density(n_features, k, exponent, offset).copy()


@lru_cache(maxsize=1)
def _zipf_density(n_features: int, k: float, exponent: float, offset: float) -> NDArray:
    # Kept, since training asks for the same before every batch.
    ranks = np.arange(1, n_features + 1, dtype=np.float64)
    # Relative to the first rank, so that no exponent underflows all of the weights.
    log_weights = -exponent * np.log((ranks + offset) / (1.0 + offset))
    return fill_to(np.exp(np.maximum(log_weights, -600.0)), k)


def learned_density(measured: NDArray, k: float) -> NDArray:
    """Return measured densities, floored and scaled to sum to ``k``.

    Parameters
    ----------
    measured : array of shape (n_features,)
        Densities observed under Mutual Choice.
    k : float
        Matches per token; the sum of the densities.

    Returns
    -------
    array of shape (n_features,)
        No density is below 5% of the mean ``k / n_features``, so that a feature that
        was silent while the densities were measured can match again.

    Examples
    --------
    >>> from skchoice.profiles import learned_density
    >>> learned_density([0.9, 0.1, 0.0], k=1).round(3)
    array([0.885, 0.098, 0.017])
    """
    measured = np.asarray(measured, dtype=np.float64)
    floor = _LEARNED_FLOOR * k / len(measured)
    return fill_to(np.maximum(measured, floor), k, lower=min(floor, 1.0))


def by_rank(profile: NDArray, measured: NDArray) -> NDArray:
    """Give the r-th largest value of a profile to the r-th densest feature.

    Parameters
    ----------
    profile : array of shape (n_features,)
        Values, descending.
    measured : array of shape (n_features,)
        Measured densities; ties go to the smaller index.

    Returns
    -------
    array of shape (n_features,)
        The values of the profile, feature by feature.

    Examples
    --------
    >>> from skchoice.profiles import by_rank
    >>> by_rank([0.6, 0.3, 0.1], measured=[0.2, 0.0, 0.5])
    array([0.3, 0.1, 0.6])
    """
    density = np.empty(len(profile))
    density[np.argsort(-np.asarray(measured), kind="stable")] = profile
    return density


def _check_budget(n_features: int, k: float) -> None:
    check_integer("n_features", n_features, 1)
    if not 0 <= k <= n_features:
        raise ValueError(
            f"k must be from 0 to n_features={n_features}, got {k}: a token cannot "
            "match a feature more than once."
        )
