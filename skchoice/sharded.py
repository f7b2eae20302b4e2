"""One array in several .npy files, each mapped and checked when it is needed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skchoice.exceptions import StoreError
from skchoice.files import (
    check_not_cut,
    open_recorded,
    other_than_written,
    sha256_of,
)
from skchoice.lazy import LazyArray, Places

# Maps held open at a time: each takes a file handle.
_OPEN_SHARDS = 64
_LONGEST_HEADER = 10_000  # that numpy reads
# What numpy raises on a header that makes no sense.
_MALFORMED = (ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError)


class ShardedArray(LazyArray):
    """One array whose rows lie in several .npy files, mapped when they are needed.

    The first time that a row of a file is asked for, the whole file is compared with
    its checksum, and again if it was changed since.

    Parameters
    ----------
    folder : Path
    records : sequence of dict
        Of each file, as `skchoice.files.write_atomically` returned it.
    lengths : sequence of int
        Rows of each file.
    row_shape : tuple of int
    dtype : numpy dtype
    checked : bool, default=True
        False leaves the comparison out.

    Raises
    ------
    StoreError
        If the files cannot have these sizes; when rows are read, if a file is not the
        one that was recorded.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[dict[str, Any]],
        lengths: Sequence[int],
        row_shape: tuple[int, ...],
        dtype: DTypeLike,
        checked: bool = True,
    ):
        self._folder, self._records, self._lengths = folder, records, lengths
        self._checked = checked
        self._row_shape, self.dtype = row_shape, np.dtype(dtype)
        row_bytes = math.prod(row_shape) * self.dtype.itemsize
        for record, length in zip(records, lengths, strict=True):
            if not 0 <= record["bytes"] - length * row_bytes <= _LONGEST_HEADER:
                raise StoreError(
                    f"{folder / record['name']} has {record['bytes']} bytes, which "
                    f"are not {length} rows of {row_bytes}: its manifest is wrong."
                )
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.shape = (int(self._starts[-1]), *row_shape)
        self._forget()

    def _forget(self) -> None:
        # Of each file that was compared: what changes with its contents.
        self._compared: dict[int, tuple[int, ...]] = {}
        self._map = lru_cache(_OPEN_SHARDS)(self._map_shard)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_map", "_compared")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def content_digest(self) -> str | None:
        """Return a checksum of all values, by those that the files were written with.

        Returns
        -------
        str or None
            Equal only where all values are. None where files are not checked when they
            are read, because it could then be of other values.
        """
        if not self._checked:
            return None
        files = [record["sha256"] for record in self._records]
        what = [str(self.dtype), self.shape, files]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _shard(self, number: int) -> NDArray:
        mapped = self._map(number)
        check_not_cut(mapped, StoreError)
        return mapped

    def _map_shard(self, number: int) -> np.memmap:
        with open_recorded(self._folder, self._records[number]) as file:
            if self._checked:
                self._compare(number, file)
            shape = (self._lengths[number], *self._row_shape)
            return _mapped(file, shape, self.dtype)

    def _compare(self, number: int, file: BufferedReader) -> None:
        found = os.fstat(file.fileno())
        state = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        if self._compared.get(number) == state:
            return
        record = self._records[number]
        same_size = found.st_size == record["bytes"]
        if not same_size or sha256_of(file) != record["sha256"]:
            raise other_than_written(file, record)
        self._compared[number] = state

    def _read(self, places: Places) -> NDArray:
        if not len(places):
            return np.empty((0, *self.shape[1:]), self.dtype)
        if isinstance(places, range):
            if places.step == 1:
                return self._read_run(places.start, places.stop)
            places = np.arange(places.start, places.stop, places.step)
        return self._gather(places)

    def _read_run(self, start: int, stop: int) -> NDArray:
        """Return neighbouring rows: a view of the map where one shard has them all."""
        first, last = self._shard_of(start), self._shard_of(stop - 1)
        pieces = []
        for number in range(first, last + 1):
            offset = int(self._starts[number])
            pieces.append(self._shard(number)[max(start - offset, 0) : stop - offset])
        return np.asarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))

    def _gather(self, places: NDArray) -> NDArray:
        """Return rows from anywhere, read shard by shard and in order within each."""
        out = np.empty((len(places), *self.shape[1:]), self.dtype)
        order = np.argsort(places, kind="stable")
        ascending = places[order]
        bounds = np.searchsorted(ascending, self._starts)
        for number in np.flatnonzero(np.diff(bounds)):
            part = slice(bounds[number], bounds[number + 1])
            local = ascending[part] - self._starts[number]
            out[order[part]] = self._shard(int(number))[local]
        return out

    def _shard_of(self, place: int) -> int:
        return int(np.searchsorted(self._starts, place, side="right")) - 1


def _mapped(file: BufferedReader, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """Map the array in a .npy file that was opened; it must be as stated."""
    file.seek(0)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is of another version of the format")
        header = np.lib.format.read_array_header_1_0(file, _LONGEST_HEADER)
        if header != (shape, False, dtype):
            raise ValueError(
                f"it holds {header}, and the manifest says {(shape, False, dtype)}"
            )
        nbytes = math.prod(shape) * dtype.itemsize
        if file.tell() + nbytes != os.fstat(file.fileno()).st_size:
            raise ValueError("it has another size than its array")
    except (*_MALFORMED, TypeError, ValueError) as error:
        raise StoreError(
            f"{file.name} is no .npy file of its store: {error}. Restore it from a "
            "copy."
        ) from error
    return np.memmap(file, dtype, "r", file.tell(), shape)
