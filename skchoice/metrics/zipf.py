"""The law by which densities fall with rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class ZipfFit:
    r"""A Zipf-Mandelbrot law of feature density against rank.

    .. math::
        \text{density}(r) =
        \text{scale} \cdot (r + \text{offset})^{-\text{exponent}}

    Parameters
    ----------
    exponent : float
        Slope of the tail in log-log, at least 0; 0 is a flat curve.
    offset : float
        In ranks, at least 0: ranks well below it are nearly flat.
    scale : float
        Density, in matches per token, where ``r + offset`` is 1.
    r2 : float
        Coefficient of determination of log density over all nonzero ranks, each
        weighted by 1 / rank. Ranks outside the middle took no part in the fit, so
        this can be negative.
    r2_middle : float
        The same over the middle ranks, which were fitted.

    See Also
    --------
    zipf_fit : Fits one to densities.

    Examples
    --------
    >>> from skchoice.metrics import ZipfFit
    >>> law = ZipfFit(exponent=1.0, offset=1.0, scale=0.5, r2=1.0, r2_middle=1.0)
    >>> law.predict([1, 4, 9])
    array([0.25, 0.1 , 0.05])
    """

    exponent: float
    offset: float
    scale: float
    r2: float
    r2_middle: float

    def predict(self, ranks: ArrayLike) -> Float64Array:
        """Give the density of each rank under the law.

        Parameters
        ----------
        ranks : array-like of any shape
            Ranks from 1, the densest feature; fractions are allowed.

        Returns
        -------
        ndarray of the shape of ``ranks``, float64
            Densities in matches per token. They fall with rank, are not clipped at
            1, and sum to whatever the fitted curve sums to.
        """
        ranks = np.asarray(ranks, dtype=np.float64)
        if not np.all(ranks >= 1):
            raise ValueError("ranks start at 1.")
        return self.scale * (ranks + self.offset) ** -self.exponent


def zipf_fit(
    density: ArrayLike, *, middle: tuple[float, float] = (0.002, 0.8)
) -> ZipfFit:
    """Fit a Zipf-Mandelbrot law to densities by rank.

    Densities are sorted, zeros dropped, and log density is fitted as a line in
    log (rank + offset) by least squares over the middle ranks. The offset is
    searched from 0 to the number of nonzero densities; exponent and scale are
    solved for at each offset.

    Ranks are weighted by 1 / rank, in the fit and in R2: every factor of ten in
    rank counts the same, as it does to the eye on the log-log plot. Unweighted,
    nine tenths of the weight would lie on the last factor of ten, whose
    densities are the noisiest, counted from a handful of matches each.

    Parameters
    ----------
    density : array-like of shape (n_features,)
        Densities in matches per token (or counts: the scale follows), in any order.
    middle : (float, float), default=(0.002, 0.8)
        The ranks to fit, as fractions of the number of nonzero densities. What
        lies before is a handful of features that may fire nearly everywhere and,
        having the first ranks, would weigh much; what lies after is the tail that
        the fit is there to judge. The head must not be cut deep: it is what pins
        the offset.

    Returns
    -------
    ZipfFit
        The law and its R2. Where there is no curve to fit, the law is flat
        (``exponent=0``, ``offset=0``) at the geometric mean: with fewer than 3
        nonzero densities, or with all of them equal. If the middle holds fewer
        than 3 ranks, all nonzero ranks are fitted.

    Raises
    ------
    ValueError
        If no density is above zero: there is no level to put the curve at.

    References
    ----------
    .. [1] K. Ayonrinde, "Adaptive Sparse Allocation with Mutual Choice & Feature
           Choice Sparse Autoencoders", 2024, arXiv:2411.02124 (R2 of 0.982 over
           all ranks and 0.996 over the middle ones, in its own weighting).

    Examples
    --------
    >>> import numpy as np
    >>> from skchoice.metrics import zipf_fit
    >>> ranks = np.arange(1, 2001)
    >>> fit = zipf_fit(3.0 * (ranks + 40.0) ** -1.2)
    >>> round(fit.exponent, 3), round(fit.offset, 1), round(fit.r2, 3)
    (1.2, 40.0, 1.0)
    >>> fit.predict([1, 2000]).round(6)
    array([0.034816, 0.00032 ])
    """
    log_density = np.log(_nonzero_descending(density))
    ranks = np.arange(1.0, len(log_density) + 1)
    fitted = _middle_ranks(len(ranks), middle)
    exponent, offset, log_scale = _fit_law(ranks[fitted], log_density[fitted])
    residual = log_density - (log_scale - exponent * np.log(ranks + offset))
    return ZipfFit(
        exponent=exponent,
        offset=offset,
        scale=float(np.exp(log_scale)),
        r2=_weighted_r2(ranks, log_density, residual),
        r2_middle=_weighted_r2(ranks[fitted], log_density[fitted], residual[fitted]),
    )


def _nonzero_descending(density: ArrayLike) -> Float64Array:
    values = np.asarray(density, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"density must be 1-D, got shape {values.shape}.")
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError("density must be finite and not negative.")
    values = np.sort(values[values > 0])[::-1]
    if len(values) == 0:
        raise ValueError("density is zero everywhere: there is no curve to fit.")
    return values


def _middle_ranks(n_ranks: int, middle: tuple[float, float]) -> slice:
    low, high = middle
    if not 0.0 <= low < high <= 1.0:
        raise ValueError(f"middle must be 0 <= low < high <= 1, got {middle}.")
    first, stop = int(np.floor(low * n_ranks)), int(np.ceil(high * n_ranks))
    return slice(first, stop) if stop - first >= 3 else slice(0, n_ranks)


def _fit_law(
    ranks: Float64Array, log_density: Float64Array
) -> tuple[float, float, float]:
    """Find exponent, offset and log scale by weighted least squares."""
    if len(ranks) < 3 or log_density[0] == log_density[-1]:
        level = log_density[0] + _weighted_mean(ranks, log_density - log_density[0])
        return 0.0, 0.0, level

    def squares(offset: float) -> float:
        return _fit_line(ranks, log_density, offset)[2]

    offset = _best_offset(squares, lower=0.01 * ranks[0], upper=ranks[-1])
    exponent, log_scale, _ = _fit_line(ranks, log_density, offset)
    return exponent, offset, log_scale


def _best_offset(
    squares: Callable[[float], float], lower: float, upper: float
) -> float:
    """Minimise over {0} and [lower, upper]: a coarse grid, then a bounded search.

    Below ``lower`` an offset moves the first fitted rank by less than 1%; above
    ``upper`` the law is an exponential in disguise. The grid comes first since
    nothing says that there is one minimum only.
    """
    grid = np.concatenate([[0.0], np.geomspace(lower, upper, 24)])
    best = int(np.argmin([squares(offset) for offset in grid]))
    if best == 0:
        return 0.0
    bounds = np.log([grid[max(best - 1, 1)], grid[min(best + 1, len(grid) - 1)]])
    found = minimize_scalar(
        lambda log_offset: squares(np.exp(log_offset)),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(min(grid[best], np.exp(found.x), key=squares))


def _fit_line(
    ranks: Float64Array, log_density: Float64Array, offset: float
) -> tuple[float, float, float]:
    """Solve for exponent and log scale at one offset; third, the sum of squares."""
    x = np.log(ranks + offset)
    x_mean, y_mean = _weighted_mean(ranks, x), _weighted_mean(ranks, log_density)
    x, y = x - x_mean, log_density - y_mean
    slope = _weighted_mean(ranks, x * y) / _weighted_mean(ranks, x * x)
    # Sorted densities never rise, so the lower limit only cuts rounding errors. The
    # upper one keeps the scale, a density extrapolated to r + offset = 1, finite.
    exponent = float(np.clip(-slope, 0.0, 600.0 / np.log(ranks[-1] + offset)))
    squares = _weighted_mean(ranks, np.square(y + exponent * x))
    return exponent, y_mean + exponent * x_mean, squares


def _weighted_r2(
    ranks: Float64Array, log_density: Float64Array, residual: Float64Array
) -> float:
    """R2 with weights 1 / rank; 1 or 0 where there is no variance, never infinite."""
    # From the first value, so that equal densities have no variance at all.
    y = log_density - log_density[0]
    total = _weighted_mean(ranks, np.square(y - _weighted_mean(ranks, y)))
    if total == 0.0:
        return 1.0 if np.allclose(residual, 0.0) else 0.0
    return 1.0 - _weighted_mean(ranks, np.square(residual)) / total


def _weighted_mean(ranks: Float64Array, values: Float64Array) -> float:
    """Average with weights 1 / rank: the measure that is even in log rank."""
    return float(np.average(values, weights=1.0 / ranks))
