"""What a report says of one feature, from all of its matches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from skchoice.pages.text import Windows

N_BINS = 24  # of a histogram
N_BANDS = 5  # of equally many matches, for the contexts sampled across quantiles
_PER_BAND = 2


@dataclass(frozen=True)
class Context:
    """A row on which a feature fires, with its neighbours.

    Attributes
    ----------
    row : int
    first : int
        First row of the window.
    values : float32 array of shape (n_rows_in_window,)
        Codes of the feature there.
    """

    row: int
    first: int
    values: NDArray

    @property
    def activation(self) -> float:
        """Code of the row itself."""
        return float(self.values[self.row - self.first])


@dataclass(frozen=True)
class FeatureMatches:
    """The matches of one feature.

    Attributes
    ----------
    count : int
    mean, largest : float
        Of its codes where it fires; 0 where it never does.
    histogram : int array of shape (N_BINS,)
        Matches in equal bins from 0 to the largest code.
    top : list of Context
        The largest codes first. A row inside a window that is already there is passed
        over.
    bands : list of list of Context
        Some of each fifth of the matches, the fifth with the largest codes first; empty
        where ``top`` shows them all.
    """

    count: int
    mean: float
    largest: float
    histogram: NDArray
    top: list[Context]
    bands: list[list[Context]]


def feature_matches(
    codes: sp.csc_array, windows: Windows, n_contexts: int
) -> Iterator[FeatureMatches]:
    """Yield what is shown of each feature of a block.

    Parameters
    ----------
    codes : CSC array of shape (n_rows, n_features_in_block)
        Sorted, without stored zeros.
    windows : Windows
    n_contexts : int
        Top contexts of each feature, at most.
    """
    for feature in range(codes.shape[1]):
        inside = slice(codes.indptr[feature], codes.indptr[feature + 1])
        yield _one(codes.indices[inside], codes.data[inside], windows, n_contexts)


def _one(
    rows: NDArray, values: NDArray, windows: Windows, n_contexts: int
) -> FeatureMatches:
    if not len(rows):
        return FeatureMatches(0, 0.0, 0.0, np.zeros(N_BINS, dtype=int), [], [])

    def context(match: int) -> Context:
        first, stop = windows.around(int(rows[match]))
        here = slice(*np.searchsorted(rows, [first, stop]))
        window = np.zeros(stop - first, dtype=np.float32)
        window[rows[here] - first] = values[here]
        return Context(int(rows[match]), first, window)

    order = np.argsort(-values, kind="stable")  # the earlier row first among equals
    top: list[Context] = []
    bands: list[list[Context]] = []
    for match in order:
        if any(0 <= rows[match] - held.first < len(held.values) for held in top):
            continue
        if len(top) == n_contexts:  # and there is more to see
            bands = [
                [context(match) for match in _spread(band, _PER_BAND)]
                for band in np.array_split(order, N_BANDS)
            ]
            break
        top.append(context(match))
    largest = float(values[order[0]])
    # In float64 the largest lies in the last bin, however it was rounded.
    shares = values.astype(np.float64) / largest
    histogram = np.bincount(
        np.minimum((shares * N_BINS).astype(np.int64), N_BINS - 1), minlength=N_BINS
    )
    mean = float(values.mean(dtype=np.float64))
    return FeatureMatches(len(rows), mean, largest, histogram, top, bands)


def _spread(band: NDArray, n: int) -> NDArray:
    """Return some of a band, evenly spaced inside it."""
    places = (np.arange(n) + 0.5) / n * len(band)
    return band[np.unique(places.astype(int))[: len(band)]]
