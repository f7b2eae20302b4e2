"""Anything with rows, read in checked chunks: arrays, tensors, memmaps, lazy arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from torch import Tensor

from skchoice.files import check_not_cut
from skchoice.lazy import LazyArray

# Rows are read for inference in chunks of at most this many entries and rows.
_CHUNK_ENTRIES = 1 << 22
_CHUNK_ROWS = 4096
# A streamed source is shuffled and sampled in blocks of this many neighbouring rows.
_BLOCK_ROWS = 512
# A mapped file up to this size is cached by the system, so single rows can be read: it
# gives the same batches as the array in memory, also where joblib did the mapping.
_STREAM_BYTES = 1 << 30
# Of a short source the blocks are smaller, so that there are as many as this.
_MIN_BLOCKS = 8

_FLOATS = (np.float64, np.float32, np.float16)


class Rows:
    """Rows of X as float Tensors on a device, checked as they are read.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_columns)
        A torch Tensor, anything that scikit-learn takes for a dense array, or any
        object with a 2-D ``shape``, a ``dtype`` and row slicing (memmap, h5py, zarr):
        that is streamed, never read whole.
    estimator : object
        Named in error messages.
    device : torch.device

    Attributes
    ----------
    shape : tuple (n_rows, n_columns)
    dtype : torch.dtype
        float64 where X is, else float32.
    streamed : bool
        Whether X is read in blocks of neighbouring rows.
    unit_rows : int
        Rows of such a block; 1 where rows are read singly.
    """

    def __init__(self, X: Any, estimator: Any, device: torch.device):
        self._name = type(estimator).__name__
        self._source, self.streamed = _as_sliceable(X, estimator)
        self._mapped = _mapped(self._source)
        self.shape = tuple(int(n) for n in self._source.shape)
        self.device = device
        few = max(1, self.shape[0] // _MIN_BLOCKS)
        self.unit_rows = min(_BLOCK_ROWS, few) if self.streamed else 1
        self.dtype = torch.float64 if _is_double(self._source) else torch.float32

    def read(self, part: slice | NDArray) -> Tensor:
        """Return some rows; raise if one of them is not finite."""
        rows = self._given(part)
        if isinstance(rows, Tensor):
            rows = rows.detach().to(self.device)
        else:
            rows = np.asarray(rows)
            if rows.dtype != np.float16:  # torch widens that several times faster
                double = self.dtype == torch.float64
                rows = rows.astype(np.float64 if double else np.float32, copy=False)
            rows = np.require(rows, requirements=["C", "W"])
            # Flat first: an axis of length one may have any stride, and torch takes
            # no negative one.
            rows = torch.from_numpy(rows.reshape(-1)).view(rows.shape)
        # Moved first: in one call torch widens on the host, and moves twice as much.
        chunk = rows.to(self.device).to(self.dtype).contiguous()
        if not torch.isfinite(chunk.sum()):
            self._refuse_nonfinite(chunk, part)
        return chunk

    def _given(self, part: slice | NDArray) -> Any:
        if self._mapped is not None:
            check_not_cut(self._mapped, ValueError)
        return self._source[part]

    def _refuse_nonfinite(self, chunk: Tensor, part: slice | NDArray) -> None:
        bad = (~torch.isfinite(chunk)).any(dim=1).nonzero()
        if not len(bad):
            return  # finite values whose sum overflows
        first = int(bad[0])
        row = int(part[first]) if isinstance(part, np.ndarray) else part.start + first
        what = (
            "NaN"
            if chunk[first].isnan().any()
            else "infinity or a value too large for " + str(self.dtype).split(".")[1]
        )
        raise ValueError(
            f"Input X contains {what}, first in row {row}. {self._name} needs finite "
            "values: drop or replace such rows."
        )

    def content_digest(self) -> str:
        """Return a checksum of all rows, as they were given.

        A store that checks its shards knows it from their checksums. Of anything else
        all rows are read, about a gigabyte in a second.
        """
        if isinstance(self._source, LazyArray):
            known = self._source.content_digest()
            if known is not None:
                return known
        digest = hashlib.sha256(str(self._source.dtype).encode())
        for part in self._chunk_slices():
            rows = self._given(part)
            if isinstance(rows, Tensor):
                rows = rows.detach().cpu().contiguous().view(torch.uint8).numpy()
            digest.update(np.ascontiguousarray(rows).view(np.uint8).data)
        return digest.hexdigest()

    def chunks(self, start: int = 0) -> Iterator[Tensor]:
        """Yield all rows in order, a chunk at a time."""
        for part in self._chunk_slices(start):
            yield self.read(part)

    def _chunk_slices(self, start: int = 0) -> Iterator[slice]:
        n_rows, n_columns = self.shape
        size = min(_CHUNK_ROWS, max(1, _CHUNK_ENTRIES // n_columns))
        for first in range(start, n_rows, size):
            yield slice(first, min(first + size, n_rows))

    def check_finite(self) -> None:
        """Read all rows once, for the check alone."""
        for _ in self.chunks():
            pass

    def units(self) -> NDArray:
        """Return the first row of each unit that is shuffled and sampled as a whole.

        A unit is one row where rows are in memory, a block of neighbours where they are
        streamed.
        """
        return np.arange(0, self.shape[0], self.unit_rows)

    def gather(self, units: NDArray) -> Tensor:
        """Return the rows of some units."""
        if not self.streamed:
            return self.read(units)
        n_rows = self.shape[0]
        return torch.cat(
            [
                self.read(slice(int(first), min(int(first) + self.unit_rows, n_rows)))
                for first in units
            ]
        )

    def count(self, units: NDArray) -> int:
        """Return the number of rows in some units."""
        return int(np.minimum(self.unit_rows, self.shape[0] - units).sum())

    def per_chunk(self) -> int:
        """Return how many units to gather at a time."""
        n_rows = min(_CHUNK_ROWS, max(1, _CHUNK_ENTRIES // self.shape[1]))
        return max(1, n_rows // self.unit_rows)


def as_array(values: Any) -> Any:
    """Return a Tensor's values as an array of numpy, and anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    # numpy knows no bfloat16.
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _as_sliceable(X: Any, estimator: Any) -> tuple[Any, bool]:
    """Return an object with shape, dtype and row slicing, and whether to stream it."""
    if isinstance(X, str | os.PathLike):
        raise TypeError(
            f"X is a path, {os.fspath(X)!r}, and not an array. Open it first: np.load("
            "path, mmap_mode='r') for a file, skchoice.ActivationStore(path) for a "
            "store."
        )
    if isinstance(X, np.lib.npyio.NpzFile):
        names = ", ".join(map(repr, X.files))
        raise TypeError(f"X is an archive of arrays. Pass one of {names}: X[name].")
    _check_two_axes(X, estimator)
    if isinstance(X, Tensor):
        if X.is_complex():
            raise ValueError("Complex data not supported: X is a complex Tensor.")
        if X.layout is not torch.strided:
            raise TypeError("Sparse Tensors are not supported: pass X.to_dense().")
        _check_shape(X, estimator)
        return X, False
    if _is_lazy(X):
        kind = np.dtype(X.dtype).kind
        if kind not in "fiub":
            raise ValueError(
                f"X has dtype {X.dtype}; {type(estimator).__name__} needs real numbers."
            )
        _check_shape(X, estimator)
        return X, True
    if isinstance(X, np.ndarray) and X.dtype.kind in "fiub":
        usable = X.dtype.isnative and X.dtype in _FLOATS
        if _mapped(X) is not None and not usable:  # converted chunk by chunk
            _check_shape(X, estimator)
            return X, X.nbytes > _STREAM_BYTES
        X = X.astype(X.dtype.newbyteorder("="), copy=False)
    array = check_array(
        X, dtype=_FLOATS, ensure_all_finite=False, estimator=estimator, input_name="X"
    )
    return array, _mapped(array) is not None and array.nbytes > _STREAM_BYTES


def _check_two_axes(X: Any, estimator: Any) -> None:
    """Raise where rows are spread over several axes, as in a model's hidden states."""
    shape = tuple(getattr(X, "shape", ()))
    if len(shape) > 2:
        raise ValueError(
            f"Found array with dim {len(shape)} and shape {shape}; "
            f"{type(estimator).__name__} needs rows by columns. Where the last axis "
            f"has the columns, pass X.reshape(-1, {shape[-1]})."
        )


def _is_lazy(X: Any) -> bool:
    # numpy and pandas are in memory; sparse containers are scikit-learn's to refuse.
    known = isinstance(X, np.ndarray) or hasattr(X, "iloc") or hasattr(X, "tocsr")
    needed = ("shape", "dtype", "__getitem__")
    return not known and all(hasattr(X, name) for name in needed)


def _is_double(array: Any) -> bool:
    if isinstance(array, Tensor):
        return array.dtype == torch.float64
    return np.dtype(array.dtype).newbyteorder("=") == np.float64


def _mapped(array: Any) -> np.memmap | None:
    """Return the mapped file that an array is part of, if it is."""
    found = None
    while array is not None:
        if isinstance(array, np.memmap):
            found = array
        array = getattr(array, "base", None)
    return found


def _check_shape(X: Any, estimator: Any) -> None:
    """Raise in scikit-learn's words where a shape is not (>= 1, >= 1)."""
    # An empty array of that shape costs nothing and asks scikit-learn itself.
    stand_in = np.broadcast_to(np.float32(0), tuple(X.shape))
    check_array(stand_in, ensure_all_finite=False, estimator=estimator, input_name="X")
