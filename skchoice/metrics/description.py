"""How many bits it takes to send data by way of sparse codes."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from skchoice.metrics.codes import density
from skchoice.metrics.errors import check_pair, row_chunks


class DescriptionLength(NamedTuple):
    """Bits per row, by what they say.

    Parameters
    ----------
    features : float
        Which features fire.
    values : float
        The codes of those that fire.
    error : float
        What the reconstruction leaves to be corrected.

    Examples
    --------
    >>> from skchoice.metrics import DescriptionLength
    >>> DescriptionLength(features=30.0, values=20.0, error=50.0).total
    100.0
    """

    features: float
    values: float
    error: float

    @property
    def total(self) -> float:
        """Sum of the three."""
        return self.features + self.values + self.error


def description_length(
    X: Any, X_hat: Any, codes: Any, *, precision: float
) -> DescriptionLength:
    r"""Measure the bits per row that an ideal code needs for X, to a precision.

    A dictionary explains data well if it makes them short to describe: few features,
    with values that are cheap to name, and little left over. With more features each
    row needs fewer or better ones, but saying *which* takes more bits; the shortest
    description tells how many features the data support.

    - ``features``: each feature fires on its own with its measured density
      :math:`p_j`, so :math:`\sum_j H(p_j)` bits.
    - ``values``: the entropy of the nonzero codes, rounded to ``precision``, pooled
      over features. It is that of the histogram of these rows, so no more than the
      logarithm of how many codes there are: give more rows the finer the precision.
    - ``error``: entries of ``X - X_hat`` as a normal variable of their pooled mean
      square :math:`\sigma^2`, rounded to ``precision`` :math:`\delta`:
      :math:`\frac{d}{2} \log_2 2 \pi e (\sigma^2 / \delta^2 + 1/12)` bits. Of
      ``X_hat`` as it is: that of rounded codes is a little further off.

    The dictionary itself is not counted: it is sent once, for any number of rows. Where
    rows are few it costs more than it saves, and ``n_features * n_columns`` numbers
    over the number of rows should be added.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_columns)
        Rows that the dictionary was not fitted on, or it will seem cheaper than it is.
    X_hat : array-like of shape (n_rows, n_columns)
        Their reconstructions from the codes.
    codes : {array-like, sparse matrix} of shape (n_rows, n_features)
        The codes.
    precision : float
        To which values and entries of X are sent, in the units of X.

    Returns
    -------
    DescriptionLength
        Bits per row: ``features``, ``values``, ``error`` and their ``total``.

    Raises
    ------
    ValueError
        If shapes do not agree, numbers are not finite, or ``precision`` is not a
        positive number.

    References
    ----------
    .. [1] K. Ayonrinde, M. Pearce and L. Sharkey, "Interpretability as Compression:
           Reconsidering SAE Explanations of Neural Activations with MDL-SAEs", 2024,
           arXiv:2410.11179.

    Examples
    --------
    >>> import numpy as np
    >>> from skchoice.metrics import description_length
    >>> codes = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    >>> bits = description_length(codes, codes, codes, precision=1.0)
    >>> bits.features, bits.values, round(bits.error, 3)
    (2.0, 0.0, 0.509)
    """
    number: bool = isinstance(precision, Real)
    if not (number and 0 < precision < np.inf):
        raise ValueError(f"precision must be a positive number, got {precision!r}.")
    X, X_hat = check_pair(X, X_hat)
    n_rows, n_columns = X.shape
    # By way of triples, which adds up those of one place.
    sparsely = sparse.issparse(codes)
    codes = sparse.coo_array(codes).tocsr() if sparsely else np.asarray(codes)
    if codes.ndim != 2 or codes.shape[0] != n_rows:
        raise ValueError(
            f"codes must have one row for each of the {n_rows} rows of X, got shape "
            f"{codes.shape}."
        )
    values = codes.data if sparsely else codes[codes != 0]
    values = values[values != 0]
    if not np.isfinite(values).all():
        raise ValueError("codes must be finite, got NaN or infinity.")
    _, counts = np.unique(np.round(values / precision), return_counts=True)
    squares = sum(np.vdot(x - y, x - y) for x, y in row_chunks(X, X_hat))
    if not np.isfinite(squares):
        raise ValueError("X and X_hat must be finite, got NaN or infinity.")
    variance = squares / (n_rows * n_columns) / precision**2
    of_error = 0.5 * np.log2(2.0 * np.pi * np.e * (variance + 1 / 12))
    p = density(codes)
    return DescriptionLength(
        features=float(_bits(p).sum() + _bits(1.0 - p).sum()),
        values=float(_bits(counts / max(1, len(values))).sum() * len(values) / n_rows),
        error=float(n_columns * of_error),
    )


def _bits(p: np.ndarray) -> np.ndarray:
    """Return ``-p log2 p``, 0 at 0."""
    positive = np.where(p > 0, p, 1.0)
    return -positive * np.log2(positive)
