"""How far reconstructions are from what they reconstruct."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

# Rows are widened to float64 a chunk at a time: 2 MB of float64, so that a chunk
# of X and one of X_hat stay in cache and a memory-mapped float16 file stays on disk.
_CHUNK_ELEMENTS = 2**18


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
    X, X_hat = check_pair(X, X_hat)
    # Measured from the first row, a constant X has a variance of exactly zero, and
    # an X far from the origin loses no digits of its mean.
    origin = _widen(X[:1])
    mean = sum((x - origin).sum(axis=0) for (x,) in row_chunks(X)) / len(X)
    error = total = 0.0
    for x, x_hat in row_chunks(X, X_hat):
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
    X, X_hat = check_pair(X, X_hat)
    total = 0.0
    for x, x_hat in row_chunks(X, X_hat):
        error = np.square(x - x_hat).sum(axis=1)
        power = np.square(x).sum(axis=1)
        silent = power == 0
        total += (error[~silent] / power[~silent]).sum()
        total += np.count_nonzero(error[silent])
    return float(total / len(X))


def check_pair(X: Any, X_hat: Any) -> tuple[Any, Any]:
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


def row_chunks(*arrays: Any) -> Iterator[tuple[Float64Array, ...]]:
    """Walk arrays of one shape together, in float64 chunks of rows."""
    n_rows, n_columns = arrays[0].shape
    step = max(1, _CHUNK_ELEMENTS // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield tuple(_widen(a[start : start + step]) for a in arrays)


def _widen(rows: Any) -> Float64Array:
    if hasattr(rows, "detach"):  # a torch Tensor, wherever it is
        rows = rows.detach().cpu().double()
    return np.asarray(rows, dtype=np.float64)


def _sum_of_squares(a: Float64Array) -> float:
    return float(np.vdot(a, a))


def _ratio(error: float, total: float) -> float:
    """Divide, with 0 / 0 = 0 and otherwise anything / 0 = 1."""
    if total == 0.0:
        return 0.0 if error == 0.0 else 1.0
    return error / total
