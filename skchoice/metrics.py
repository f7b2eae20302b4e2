"""Measures of sparse codes, of reconstructions and of rank-density curves.

Pure functions of arrays, on numpy and scipy alone, so that activations and
codes kept on disk can be judged on a machine without torch. Sparsity is always
*measured*: L0 counts the codes that are there, whatever ``k`` asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import minimize_scalar

__all__ = [
    "ZipfFit",
    "dead_features",
    "density",
    "explained_variance",
    "fvu",
    "l0",
    "l0_per_token",
    "nmse",
    "sparsity_scores",
    "zipf_fit",
]

Float64Array = NDArray[np.float64]

# Rows are widened to float64 a chunk at a time: 2 MB of float64, so that a chunk
# of X and one of X_hat stay in cache and a memory-mapped float16 file stays on disk.
_CHUNK_ELEMENTS = 2**18


# --------------------------------------------------------------------------- codes


def l0_per_token(codes: Any) -> NDArray[np.int64]:
    """Count the matches of every token.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix} of shape (n_tokens, n_features)
        Codes; whatever is not zero is a match. Stored zeros do not count.

    Returns
    -------
    ndarray of shape (n_tokens,), int64
        Matches per token.

    Examples
    --------
    >>> from skchoice.metrics import l0_per_token
    >>> l0_per_token([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    array([2, 1])
    """
    return _count_matches(codes, axis=1)


def l0(codes: Any) -> float:
    """Average the matches per token: the measured L0.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix} of shape (n_tokens, n_features)
        Codes of at least one token.

    Returns
    -------
    float
        Mean matches per token.

    Examples
    --------
    >>> from skchoice.metrics import l0
    >>> l0([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    1.5
    """
    return float(l0_per_token(codes).sum() / _n_tokens(codes))


def density(codes: Any) -> Float64Array:
    """Measure the share of tokens on which each feature fires.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix} of shape (n_tokens, n_features)
        Codes of at least one token.

    Returns
    -------
    ndarray of shape (n_features,), float64
        Matches of each feature divided by ``n_tokens``, in [0, 1]. The densities
        sum to `l0`.

    Examples
    --------
    >>> from skchoice.metrics import density
    >>> density([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    array([0. , 0.5, 1. ])
    """
    return _count_matches(codes, axis=0) / _n_tokens(codes)


def dead_features(codes: Any) -> NDArray[np.bool_]:
    """Tell which features fire on none of the tokens.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix} of shape (n_tokens, n_features)
        Codes. What "dead" means depends on how many tokens are given: a rare
        feature is silent on a short sample.

    Returns
    -------
    ndarray of shape (n_features,), bool
        True where no code of the feature is nonzero.

    Examples
    --------
    >>> from skchoice.metrics import dead_features
    >>> dead_features([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    array([ True, False, False])
    """
    return np.asarray(_count_matches(codes, axis=0) == 0)


def _count_matches(codes: Any, axis: int) -> NDArray[np.int64]:
    """Count nonzero codes per feature (axis 0) or per token (axis 1)."""
    codes = codes if sparse.issparse(codes) else np.asarray(codes)
    if codes.ndim != 2:
        raise ValueError(
            f"codes must be 2-D (n_tokens, n_features), got shape {codes.shape}."
        )
    if isinstance(codes, np.ndarray):
        return np.asarray(np.count_nonzero(codes, axis=axis), dtype=np.int64)
    # scipy's own count_nonzero(axis=) sorts its input in place and walks the rows
    # in Python where zeros are stored.
    coo = _canonical(codes).tocoo(copy=False)
    ids = coo.col if axis == 0 else coo.row
    n_kept = codes.shape[1 - axis]
    return np.asarray(np.bincount(ids[coo.data != 0], minlength=n_kept), np.int64)


def _canonical(codes: Any) -> Any:
    """Give CSR or CSC codes without duplicate entries, leaving the input as it is."""
    compressed = codes if codes.format in ("csr", "csc") else codes.tocsr()
    if not compressed.has_canonical_format:
        compressed = compressed.copy()
        compressed.sum_duplicates()
    return compressed


def _n_tokens(codes: Any) -> int:
    n_tokens = int(np.shape(codes)[0])
    if n_tokens == 0:
        raise ValueError("codes hold no token: the mean over tokens is undefined.")
    return n_tokens


# ----------------------------------------------------------------- reconstructions


def fvu(X: Any, X_hat: Any) -> float:
    r"""Compute the fraction of variance unexplained.

    .. math:: \frac{\sum_i \lVert x_i - \hat x_i \rVert^2}
                   {\sum_i \lVert x_i - \bar x \rVert^2}

    Both sums run over all rows and columns before they are divided (pooled), so
    the number does not depend on how rows are batched.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in)
        Inputs. Anything that slices by rows will do, a float16 ``np.memmap`` for
        one: chunks of rows are widened to float64 and summed, in two passes.
    X_hat : array-like of shape (n_samples, n_features_in)
        Reconstructions, in the units of ``X``.

    Returns
    -------
    float
        0 is exact, 1 is no better than the mean, and there is no upper limit.
        If all rows of ``X`` are the same there is no variance to explain: 0.0 if
        ``X_hat`` is exact, else 1.0 (so that `explained_variance` agrees with
        `sklearn.metrics.r2_score` under ``force_finite=True``).

    See Also
    --------
    explained_variance : One minus this.
    nmse : Uncentred, averaged over rows.

    Examples
    --------
    >>> from skchoice.metrics import fvu
    >>> X = [[0.0, 0.0], [2.0, 0.0]]
    >>> fvu(X, [[0.0, 0.0], [2.0, 1.0]])
    0.5
    >>> fvu(X, [[1.0, 0.0], [1.0, 0.0]])
    1.0
    """
    X, X_hat = _check_pair(X, X_hat)
    # Measured from the first row, a constant X has a variance of exactly zero, and
    # an X far from the origin loses no digits of its mean.
    origin = _widen(X[:1])
    mean = sum((x - origin).sum(axis=0) for (x,) in _row_chunks(X)) / len(X)
    error = total = 0.0
    for x, x_hat in _row_chunks(X, X_hat):
        error += _sum_of_squares(x - x_hat)
        total += _sum_of_squares(x - origin - mean)
    return _ratio(error, total)


def explained_variance(X: Any, X_hat: Any) -> float:
    """Compute the pooled fraction of variance explained, ``1 - fvu(X, X_hat)``.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in)
        Inputs.
    X_hat : array-like of shape (n_samples, n_features_in)
        Reconstructions, in the units of ``X``.

    Returns
    -------
    float
        At most 1. Columns are pooled, which is not the average over columns of
        `sklearn.metrics.explained_variance_score`, and a constant offset of
        ``X_hat`` counts as error.

    See Also
    --------
    fvu : One minus this; says what happens if ``X`` is constant.

    Examples
    --------
    >>> from skchoice.metrics import explained_variance
    >>> explained_variance([[0.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [2.0, 1.0]])
    0.5
    """
    return 1.0 - fvu(X, X_hat)


def nmse(X: Any, X_hat: Any) -> float:
    r"""Compute the normalised mean squared error, uncentred.

    .. math:: \frac{1}{n} \sum_i \frac{\lVert x_i - \hat x_i \rVert^2}
                                      {\lVert x_i \rVert^2}

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features_in)
        Inputs.
    X_hat : array-like of shape (n_samples, n_features_in)
        Reconstructions, in the units of ``X``.

    Returns
    -------
    float
        0 is exact, 1 is what reconstructing zeros scores. Every row weighs the
        same, however small its norm; a row of zeros counts 0 if its
        reconstruction is exact, else 1.

    See Also
    --------
    fvu : Centred, and pooled over rows.

    References
    ----------
    .. [1] L. Gao et al., "Scaling and evaluating sparse autoencoders", 2024,
           arXiv:2406.04093.

    Examples
    --------
    >>> from skchoice.metrics import nmse
    >>> nmse([[3.0, 4.0], [1.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]])
    0.5
    """
    X, X_hat = _check_pair(X, X_hat)
    total = 0.0
    for x, x_hat in _row_chunks(X, X_hat):
        error = np.square(x - x_hat).sum(axis=1)
        power = np.square(x).sum(axis=1)
        silent = power == 0
        total += (error[~silent] / power[~silent]).sum()
        total += np.count_nonzero(error[silent])
    return float(total / len(X))


def sparsity_scores(estimator: Any, X: Any, y: Any = None) -> dict[str, float]:
    """Measure explained variance and L0 together: a ``scoring`` for searches.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``transform`` and ``inverse_transform``: an autoencoder, or a
        Pipeline that ends in one.
    X : array-like of shape (n_samples, n_features_in)
        Held-out rows.
    y : None
        Ignored.

    Returns
    -------
    dict
        ``explained_variance`` of X in its own units, and the mean ``l0`` per row.

    See Also
    --------
    skchoice.plots.FrontierDisplay : Draws what a search found with it.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skchoice import MutualChoiceSAE
    >>> from skchoice.metrics import sparsity_scores
    >>> search = GridSearchCV(
    ...     MutualChoiceSAE(n_features=128, random_state=0),
    ...     {"k": [4, 8]},
    ...     scoring=sparsity_scores,
    ...     refit="explained_variance",
    ...     cv=2,
    ... ).fit(load_digits().data)
    >>> search.best_params_, search.cv_results_["mean_test_l0"].round()
    ({'k': 8}, array([4., 8.]))
    """
    codes = estimator.transform(X)
    x_hat = estimator.inverse_transform(codes)
    return {"explained_variance": explained_variance(X, x_hat), "l0": l0(codes)}


def _check_pair(X: Any, X_hat: Any) -> tuple[Any, Any]:
    """Check that two row-sliceable arrays are 2-D, alike in shape and not empty."""
    # Only nested lists are converted here: np.asarray would read a whole HDF5 file.
    X, X_hat = (a if hasattr(a, "shape") else np.asarray(a) for a in (X, X_hat))
    if X.shape != X_hat.shape:
        raise ValueError(
            "X and X_hat must have the same shape, "
            f"got {tuple(X.shape)} and {tuple(X_hat.shape)}."
        )
    if len(X.shape) != 2:
        raise ValueError(
            f"X must be 2-D (n_samples, n_features_in), got shape {tuple(X.shape)}."
        )
    if X.shape[0] == 0:
        raise ValueError("X has no rows: its reconstruction error is undefined.")
    return X, X_hat


def _row_chunks(*arrays: Any) -> Iterator[tuple[Float64Array, ...]]:
    """Walk arrays of one shape together, in float64 chunks of rows."""
    n_rows, n_columns = arrays[0].shape
    step = max(1, _CHUNK_ELEMENTS // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield tuple(_widen(a[start : start + step]) for a in arrays)


def _widen(rows: Any) -> Float64Array:
    return np.asarray(rows, dtype=np.float64)


def _sum_of_squares(a: Float64Array) -> float:
    return float(np.vdot(a, a))


def _ratio(error: float, total: float) -> float:
    """Divide, with 0 / 0 = 0 and otherwise anything / 0 = 1."""
    if total == 0.0:
        return 0.0 if error == 0.0 else 1.0
    return error / total


# --------------------------------------------------------------- rank-density curve


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
