"""What a report says of all rows together, summed up in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from skchoice import metrics
from skchoice.firing import UNDERUSED_FRACTION
from skchoice.pages.text import legible

_MAX_CLASSES = 16
_OTHERS = "others"


@dataclass(frozen=True)
class ClassSummary:
    """Rows of one class: how many, and how well and densely they are coded."""

    name: str
    n_rows: int
    explained_variance: float
    l0: float


@dataclass(frozen=True)
class Overview:
    """What was measured on all rows.

    Attributes
    ----------
    n_rows : int
    explained_variance : float
        Pooled over rows and columns.
    l0 : float
        Mean matches per token.
    l0_counts : int array
        Rows with 0, 1, 2, ... matches.
    classes : list of ClassSummary
        In the order of their labels.
    """

    n_rows: int
    explained_variance: float
    l0: float
    l0_counts: NDArray
    classes: list[ClassSummary]


class Totals:
    """Sums over rows, from which an `Overview` follows.

    Parameters
    ----------
    origin : array of shape (n_columns,)
        Near the mean, so that the squares do not cancel.
    labels : array of shape (n_rows,) or None
        Class of each row.
    """

    def __init__(self, origin: ArrayLike, labels: ArrayLike | None = None):
        self._origin = np.asarray(origin, dtype=np.float64)
        self._names: list[str] = [""]
        self._labels: NDArray | None = None
        if labels is not None:
            self._names, self._labels = _few(labels)
        n_classes = len(self._names)
        self._rows = np.zeros(n_classes)
        self._matches = np.zeros(n_classes)
        self._error = np.zeros(n_classes)
        self._squares = np.zeros(n_classes)
        self._sums = np.zeros((n_classes, len(self._origin)))
        self._l0_counts = np.zeros(0, dtype=np.int64)
        self._seen = 0

    def add(self, x: NDArray, codes: sp.csr_matrix, x_hat: NDArray) -> None:
        """Add the next rows, their codes and their reconstructions."""
        n_rows, n_classes = len(x), len(self._names)
        label = np.zeros(n_rows, dtype=np.int64)
        if self._labels is not None:
            label = self._labels[self._seen : self._seen + n_rows]
        self._seen += n_rows
        shifted = x.astype(np.float64) - self._origin
        error = np.square(x.astype(np.float64) - x_hat).sum(1)
        l0 = metrics.l0_per_token(codes)
        for total, values in (
            (self._rows, np.ones(n_rows)),
            (self._matches, l0),
            (self._error, error),
            (self._squares, np.square(shifted).sum(1)),
        ):
            total += np.bincount(label, values, minlength=n_classes)
        member = sp.csr_array((np.ones(n_rows), (label, np.arange(n_rows))))
        self._sums[: member.shape[0]] += member @ shifted
        counts = np.bincount(l0, minlength=len(self._l0_counts))
        counts[: len(self._l0_counts)] += self._l0_counts
        self._l0_counts = counts

    def overview(self) -> Overview:
        """Return what the sums say."""
        n_rows = self._rows.sum()
        mean = self._sums.sum(0) / n_rows
        variance = (
            self._squares - 2.0 * self._sums @ mean + self._rows * np.dot(mean, mean)
        ).clip(min=0.0)
        # Rows that are all equal have no variance but for rounding.
        variance[variance <= 1e-12 * self._squares] = 0.0
        classes = [
            ClassSummary(
                self._names[index],
                int(self._rows[index]),
                _explained(self._error[index], variance[index]),
                float(self._matches[index] / self._rows[index]),
            )
            for index in range(len(self._names))
            if self._rows[index]
        ]
        return Overview(
            n_rows=int(n_rows),
            explained_variance=_explained(self._error.sum(), variance.sum()),
            l0=float(self._matches.sum() / n_rows),
            l0_counts=self._l0_counts,
            classes=classes if self._labels is not None else [],
        )


def underused(density: NDArray, n_rows: int) -> NDArray:
    """Tell which features fire far less than Zipf's law has it at their rank.

    Parameters
    ----------
    density : array of shape (n_features,)
        Measured on ``n_rows`` rows.
    n_rows : int

    Returns
    -------
    bool array of shape (n_features,)
        Density below a tenth of the fit to the middle ranks, where that tenth is a
        match or more; features that never fired are dead, not underused.
    """
    if not density.any():
        return np.zeros(len(density), dtype=bool)
    fit = metrics.zipf_fit(density)
    wanted = np.empty(len(density))
    order = np.argsort(-density, kind="stable")
    wanted[order] = UNDERUSED_FRACTION * fit.predict(np.arange(1, len(density) + 1))
    return (density > 0) & (density < wanted) & (wanted * n_rows >= 1.0)


def _few(labels: ArrayLike) -> tuple[list[str], NDArray]:
    """Return the names of classes and each row's class; the rare ones are one."""
    names, index, counts = np.unique(
        np.asarray(labels), return_inverse=True, return_counts=True
    )
    kept = np.arange(len(names))
    if len(names) > _MAX_CLASSES:
        kept = np.sort(np.argsort(-counts, kind="stable")[: _MAX_CLASSES - 1])
    new = np.full(len(names), len(kept))
    new[kept] = np.arange(len(kept))
    shown = [legible(names[place]) for place in kept]
    return shown + [_OTHERS] * (len(kept) < len(names)), new[index]


def _explained(error: float, variance: float) -> float:
    if variance == 0.0:
        return 1.0 if error == 0.0 else 0.0
    return float(1.0 - error / variance)
