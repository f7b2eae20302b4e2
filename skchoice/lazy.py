"""Arrays that are elsewhere, indexed as numpy does and read where they are asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from operator import index
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ITERATED_ROWS = 4096

Places = range | NDArray[np.int64]


class LazyArray:
    """What indexing means, once rows can be read; the subclasses read them.

    ``x[key]`` is what numpy gives for the whole array, for integers, slices, integer
    and boolean arrays, and pairs of these for rows and columns. ``x[rows, ...]``, with
    an Ellipsis that is written, is a `RowView` that reads nothing yet.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def _read(self, places: Places) -> NDArray:
        """Return some rows, all places being in [0, len(self))."""
        raise NotImplementedError

    def _view(self, places: Places) -> RowView:
        return RowView(self, places)

    def content_digest(self) -> str | None:
        """Return a checksum of all values, if it is known without reading them."""
        return None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray]:
        for start in range(0, len(self), _ITERATED_ROWS):
            yield from self._read(range(len(self))[start : start + _ITERATED_ROWS])

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray:
        if copy is False:
            raise ValueError("a lazy array is copied from disk: copy=False cannot be.")
        return np.array(self._read(range(len(self))), dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._read(range(len(self)))[key]
        rows, *columns, lazy = self._axes(key)
        places = _places(rows, len(self))
        if lazy and not isinstance(places, int):
            return self._view(places)
        if isinstance(places, int):
            return self._read(range(places, places + 1))[(0, *columns)]
        if isinstance(places, range):
            return self._read(places)[(slice(None), *columns)]
        if columns and not isinstance(columns[0], slice):
            # Indices of both axes go together, pair by pair, as numpy has it.
            places, column = np.broadcast_arrays(places, columns[0])
            distinct, inverse = np.unique(places, return_inverse=True)
            return self._read(distinct)[inverse.reshape(places.shape), column]
        read = self._read(places.ravel())
        return read.reshape(*places.shape, *self.shape[1:])[(..., *columns)]

    def _axes(self, key: Any) -> tuple[Any, ...]:
        """Return an index for each axis, and whether an Ellipsis asks for a view."""
        parts = list(key) if isinstance(key, tuple) else [key]
        if len(parts) == 1 and _is_mask(parts[0]) and np.ndim(parts[0]) == self.ndim:
            if np.shape(parts[0]) != self.shape:
                raise IndexError(
                    f"boolean index has shape {np.shape(parts[0])}, the array "
                    f"{self.shape}."
                )
            parts = list(np.nonzero(parts[0]))
        dots = [i for i, part in enumerate(parts) if isinstance(part, EllipsisType)]
        if len(dots) > 1:
            raise IndexError("an index can only have a single ellipsis ('...').")
        n_given = len(parts) - len(dots)
        if n_given > self.ndim or any(part is None for part in parts):
            raise IndexError(
                f"an index of at most {self.ndim} axes was expected, got {key!r}."
            )
        at = dots[0] if dots else n_given
        missing = self.ndim - n_given
        parts[at : at + len(dots)] = [slice(None)] * missing
        everything = all(_is_everything(part) for part in parts[1:])
        columns = [
            _column(part, n) for part, n in zip(parts[1:], self.shape[1:], strict=True)
        ]
        return parts[0], *columns, bool(dots) and everything


class RowView(LazyArray):
    """Some rows of a lazy array, in some order; read when they are asked for.

    Parameters
    ----------
    source : LazyArray
    places : range or int array of shape (n_rows,)
        Rows of ``source``.
    """

    def __init__(self, source: LazyArray, places: Places):
        if isinstance(places, np.ndarray) and places.ndim != 1:
            raise IndexError("rows of a view are given by a slice or a 1-D array.")
        self._source, self._places = source, places
        self.shape = (len(places), *source.shape[1:])
        self.dtype = source.dtype

    @property
    def tokens(self) -> RowView | None:
        """Where in the text each row is from, if the source knows."""
        known = getattr(self._source, "tokens", None)
        return None if known is None else RowView(known, self._places)

    def __repr__(self) -> str:
        return f"RowView(shape={self.shape}, dtype={self.dtype}) of {self._source!r}"

    def content_digest(self) -> str | None:
        """Return a checksum of all values, if the source knows its own."""
        known = self._source.content_digest()
        if known is None:
            return None
        digest = hashlib.sha256(known.encode())
        if isinstance(self._places, range):
            digest.update(repr(self._places).encode())
        else:
            digest.update(np.ascontiguousarray(self._places, np.int64).data)
        return digest.hexdigest()

    def _read(self, places: Places) -> NDArray:
        return self._source._read(self._compose(places))

    def _view(self, places: Places) -> RowView:
        return RowView(self._source, self._compose(places))

    def _compose(self, places: Places) -> Places:
        if isinstance(self._places, range):
            start, step = self._places.start, self._places.step
            if isinstance(places, range):
                return self._places[slice_of(places)]
            return start + step * places
        return self._places[slice_of(places) if isinstance(places, range) else places]


def slice_of(places: range) -> slice:
    """Return the slice that selects a range of places, also a descending one."""
    stop = places.stop if places.stop >= 0 else None
    return slice(places.start, stop, places.step) if len(places) else slice(0, 0)


def _places(rows: Any, length: int) -> int | Places:
    """Return rows as places in [0, length): one, a range, or an array of any shape."""
    if isinstance(rows, slice):
        return range(length)[rows]
    if isinstance(rows, range):
        rows = np.arange(rows.start, rows.stop, rows.step)
    if np.ndim(rows) == 0 and not isinstance(rows, (bool, np.bool_)):
        return int(_checked(np.int64(index(rows)), length))
    return _checked(_integers(rows, length), length)


def _column(part: Any, length: int) -> Any:
    if isinstance(part, slice) or np.ndim(part) == 0:
        return part
    return _checked(_integers(part, length), length)


def _integers(part: Any, length: int) -> NDArray[np.int64]:
    """Return an index array; of a mask, where it is true."""
    array = np.asarray(part)
    if _is_mask(array):
        if array.shape != (length,):
            raise IndexError(
                f"boolean index has shape {array.shape}, the axis length {length}."
            )
        return np.flatnonzero(array)
    if array.size == 0 and not isinstance(part, np.ndarray):
        array = array.astype(np.int64)  # an empty list
    if array.dtype.kind not in "iu":
        raise IndexError(
            f"an index is an integer, a slice, or an array of integers or booleans, "
            f"got {part!r}."
        )
    return array.astype(np.int64)


def _checked(places: Any, length: int) -> Any:
    """Return places counted from the start; raise where one is outside."""
    outside = (places < -length) | (places >= length)
    if np.any(outside):
        worst = np.asarray(places)[outside].flat[0]
        raise IndexError(f"index {worst} is out of bounds for {length} rows.")
    return np.where(places < 0, places + length, places)


def _is_mask(part: Any) -> bool:
    if isinstance(part, (slice, EllipsisType, str)) or part is None:
        return False
    return np.asarray(part).dtype == bool


def _is_everything(part: Any) -> bool:
    return isinstance(part, slice) and part == slice(None)
