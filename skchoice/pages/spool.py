"""Codes kept in a temporary file, to be read feature by feature."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

# Matches held in memory at a time, eight bytes each.
_SEGMENT_MATCHES = 1 << 22


class Spool:
    """Codes that arrive row by row and are read column by column.

    A transposition of more matches than fit in memory: runs of rows are turned into
    CSC and appended to a file, which is gone when the spool is closed.

    Parameters
    ----------
    n_features : int
    folder : path-like
        Where the file lies.
    segment_matches : int, default=2**22
        Matches in a run of rows.
    """

    def __init__(
        self,
        n_features: int,
        folder: str | os.PathLike,
        segment_matches: int = _SEGMENT_MATCHES,
    ):
        self.n_rows, self.n_features = 0, n_features
        self.counts = np.zeros(n_features, dtype=np.int64)
        self._limit = segment_matches
        self._file = tempfile.TemporaryFile(dir=os.fspath(folder))  # noqa: SIM115, see __exit__
        self._held: list[sp.csr_matrix] = []
        self._segments: list[_Segment] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, codes: sp.csr_matrix) -> None:
        """Add rows, (n, n_features); stored zeros are not matches."""
        codes.eliminate_zeros()
        self._held.append(codes)
        if sum(chunk.nnz for chunk in self._held) >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Write what is held: to be called after the last rows."""
        if not self._held:
            return
        by_feature = sp.vstack(self._held, format="csr").tocsc()
        place = self._file.seek(0, 2)
        # Not by tofile, which says nothing where the disk is full.
        self._file.write(by_feature.indices.astype(np.int32, copy=False).data)
        self._file.write(by_feature.data.astype(np.float32, copy=False).data)
        self._file.flush()
        pointers = by_feature.indptr.astype(np.int64)
        n_rows = by_feature.shape[0]
        self._segments.append(_Segment(place, n_rows, pointers))
        self.counts += np.diff(pointers)
        self.n_rows += n_rows
        self._held = []

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield (first, stop) of runs of features that are small enough to read."""
        first, size = 0, 0
        for feature, count in enumerate(self.counts.tolist()):
            if feature > first and size + count > self._limit:
                yield first, feature
                first, size = feature, 0
            size += count
        yield first, self.n_features

    def read(self, first: int, stop: int) -> sp.csc_array:
        """Return the codes of some neighbouring features, rows ascending."""
        return sp.vstack(
            [self._slice(segment, first, stop) for segment in self._segments],
            format="csc",
        )

    def segments(self, first: int, stop: int) -> Iterator[tuple]:
        """Yield, for runs of rows, the codes of all features and those of some."""
        for segment in self._segments:
            everything = self._slice(segment, 0, self.n_features)
            low, high = segment.pointers[first], segment.pointers[stop]
            some = sp.csc_array(
                (
                    everything.data[low:high],
                    everything.indices[low:high],
                    segment.pointers[first : stop + 1] - low,
                ),
                shape=(segment.n_rows, stop - first),
            )
            yield everything, some

    def _slice(self, segment: _Segment, first: int, stop: int) -> sp.csc_array:
        low, high = segment.pointers[first], segment.pointers[stop]
        rows = self._read(segment.place + 4 * low, high - low, np.int32)
        start_of_values = segment.place + 4 * segment.pointers[-1]
        values = self._read(start_of_values + 4 * low, high - low, np.float32)
        pointers = segment.pointers[first : stop + 1] - low
        return sp.csc_array(
            (values, rows, pointers), shape=(segment.n_rows, stop - first)
        )

    def _read(self, place: int, count: int, dtype: type) -> NDArray:
        self._file.seek(int(place))
        return np.fromfile(self._file, dtype, int(count))


class _Segment:
    """A run of rows in the file: row indices of all matches, then their values."""

    def __init__(self, place: int, n_rows: int, pointers: NDArray):
        self.place, self.n_rows = place, n_rows
        self.pointers = pointers
