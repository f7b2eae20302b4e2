"""Codes on disk: streamed out of an encoder, read back as CSR by ranges of rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from tqdm.auto import tqdm

from skchoice.arguments import check_integer
from skchoice.exceptions import StoreError
from skchoice.fitted import FittedSAE, check_autoencoder
from skchoice.manifest import Manifest
from skchoice.sharded import ShardedArray
from skchoice.shards import ShardWriter

__all__ = ["CodeStore", "encode_store"]

_KIND = "codes"
# Of each shard: values, features, and where each row ends, counted over all shards.
_ARRAYS = ("data", "indices", "ends")
_NOTE = "rows_sha256"  # of the rows that a shard has the codes of
_HASHED_ENTRIES = 1 << 22  # read at a time


class CodeStore:
    """Sparse codes in a folder, read as CSR by ranges of rows.

    Parameters
    ----------
    folder : str or Path
        As `encode_store` wrote it.
    check_shards : bool, default=True
        As for `ActivationStore`.

    Attributes
    ----------
    shape : tuple (n_tokens, n_features)
    dtype : numpy dtype
    nnz : int
        Matches, all rows together; may be larger than 2**31.
    folder : Path
    configuration : dict
        Which model gave the codes, and of what.
    complete : bool
        Whether all rows there were are encoded.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    StoreError
        As `ActivationStore`.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import TokenChoiceSAE, encode_store
    >>> X = load_digits().data
    >>> sae = TokenChoiceSAE(n_features=256, k=8, max_iter=2, random_state=0).fit(X)
    >>> codes = encode_store(sae, X, tempfile.mkdtemp())
    >>> codes.shape, codes[100:110].shape
    ((1797, 256), (10, 256))
    """

    def __init__(self, folder: str | Path, *, check_shards: bool = True):
        self.folder = Path(folder)
        self._manifest = Manifest.read(self.folder, _KIND)
        self._manifest.check_files(self.folder)
        self.configuration = self._manifest.configuration
        self.complete = self._manifest.complete
        self.shape = (self._manifest.n_rows, self._manifest.n_columns)
        self.dtype = np.dtype(self._manifest.dtype)
        self._checked = check_shards
        self._data = self._joined("data", "matches", self.dtype)
        self._indices = self._joined("indices", "matches", np.dtype(np.int32))
        self._ends = self._joined("ends", "rows", np.dtype(np.int64))
        self.nnz = len(self._data)

    def _joined(self, name: str, length: str, dtype: np.dtype) -> ShardedArray:
        shards = self._manifest.shards
        records = [shard["files"][name] for shard in shards]
        lengths = [shard[length] for shard in shards]
        return ShardedArray(self.folder, records, lengths, (), dtype, self._checked)

    def __repr__(self) -> str:
        return (
            f"CodeStore({str(self.folder)!r}): shape={self.shape}, nnz={self.nnz}, "
            f"dtype={self.dtype}"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        """Return neighbouring rows as CSR, in memory."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            # No IndexError, which to an iteration would mean that there are no more.
            raise TypeError(
                "codes in a store are read by ranges of rows, codes[start:stop], or "
                f"codes[:] for all of them, got {rows!r}."
            )
        start, stop, _ = rows.indices(len(self))
        stop = max(start, stop)
        first = int(self._ends[start - 1]) if start else 0
        ends = np.concatenate([[first], self._ends[start:stop]])
        matches = slice(first, int(ends[-1]))
        indices = self._indices[matches]
        in_order = 0 <= first and (ends[:-1] <= ends[1:]).all()
        if not in_order or ends[-1] > len(self._data) or not self._holds(indices):
            raise StoreError(
                f"codes {start} to {stop} in {str(self.folder)!r} are damaged: they "
                f"name others than its {self.shape[1]} features, or end outside of "
                "its matches. Restore the folder from a copy."
            )
        pointers = ends - first
        # scipy wants both index arrays of one kind, the narrow one where it fits.
        kind = np.int32 if pointers[-1] < 2**31 else np.int64
        arrays = (
            np.array(self._data[matches]),
            indices.astype(kind),
            pointers.astype(kind),
        )
        return sp.csr_matrix(arrays, shape=(stop - start, self.shape[1]))

    def _holds(self, features: NDArray) -> bool:
        return (
            not len(features) or 0 <= features.min() <= features.max() < self.shape[1]
        )

    def chunks(self, n_rows: int = 1 << 16) -> Iterator[sp.csr_matrix]:
        """Yield all rows in order, a piece at a time.

        Parameters
        ----------
        n_rows : int, default=65536
            Of a piece; the last may be shorter.

        Yields
        ------
        codes : CSR matrix of shape (n_rows, n_features)
            In memory.
        """
        check_integer("n_rows", n_rows, 1)
        for start in range(0, len(self), n_rows):
            yield self[start : start + n_rows]

    def verify(self) -> None:
        """Read all files and compare them with their checksums.

        Raises
        ------
        StoreError
            If a file is not as it was written; the message has both checksums.
        """
        self._manifest.check_files(self.folder, whole=True)


def encode_store(
    sae: FittedSAE,
    store: Any,
    folder: str | Path,
    *,
    shard_rows: int = 1 << 17,
    verbose: int = 0,
) -> CodeStore:
    """Encode rows and stream the codes to disk.

    Memory holds the codes of one shard, however many rows there are. A run that was
    broken off goes on where it stopped; rows that a store has gained since are added.
    The rows that are encoded already are read again then, and compared with a checksum
    that is noted with their codes.

    Parameters
    ----------
    sae : fitted estimator
        Gives the codes.
    store : ActivationStore or array-like of shape (n_rows, n_columns)
        Rows to encode; a store is streamed.
    folder : str or Path
        Made if it is not there.
    shard_rows : int, default=131072
        Rows of a shard: 34 MB at 32 matches per row.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    codes : CodeStore
        The same as ``sae.transform(store)``, row by row; on some processors but for
        rounding, where shards are of other lengths.

    Raises
    ------
    ValueError
        If the rows are not as wide as those of the fit; nothing is written then.
    StoreError
        If the codes in the folder are of another model, or any row is another than the
        one that was encoded.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import CodeStore, MutualChoiceSAE, encode_store
    >>> X = load_digits().data
    >>> sae = MutualChoiceSAE(n_features=64, k=8, max_iter=2, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     codes = encode_store(sae, X, folder, shard_rows=500)
    ...     bool(abs(CodeStore(folder)[:] - sae.transform(X)).max() < 1e-4)
    True
    """
    check_autoencoder(sae)
    check_integer("shard_rows", shard_rows, 1)
    if isinstance(store, str | PathLike):
        raise TypeError(
            f"store must be an array, got a path: open ActivationStore({store!r})."
        )
    if not isinstance(getattr(store, "dtype", None), np.dtype):
        store = np.asarray(store)
    if len(store.shape) != 2 or store.shape[1] != sae.n_features_in_:
        raise ValueError(
            f"the rows must be of shape (n_rows, {sae.n_features_in_}), as those that "
            f"the model was fitted to, got {tuple(store.shape)}."
        )
    dtype = "float64" if store.dtype == np.float64 else "float32"
    configuration = {
        "model": {"class": type(sae).__name__, "sha256": _model_hash(sae)},
        "rows": {"dtype": str(np.dtype(store.dtype))},
    }
    empty = Manifest(_KIND, dtype, len(sae.components_), configuration)
    writer = ShardWriter(Path(folder), empty)
    n_rows, done = store.shape[0], writer.manifest.n_rows
    if done > n_rows:
        raise StoreError(
            f"the store in {str(folder)!r} has codes of {done:,} rows, and there are "
            f"only {n_rows:,} to encode: give another folder."
        )
    _check_rows(store, writer)
    n_matches = sum(shard["matches"] for shard in writer.manifest.shards)
    with tqdm(
        total=n_rows, initial=done, desc="Encoding", unit=" rows", disable=not verbose
    ) as bar:
        for start in range(done, n_rows, shard_rows):
            # A view of a store, so that transform streams it too.
            codes = sae._encode_sparse(store[start : start + shard_rows, ...])
            progress = {_NOTE: _digest(store, start, start + codes.shape[0])}
            ends = codes.indptr[1:].astype(np.int64) + n_matches
            arrays = (codes.data, codes.indices.astype(np.int32, copy=False), ends)
            writer.append(
                dict(zip(_ARRAYS, arrays, strict=True)),
                codes.shape[0],
                progress,
                matches=int(codes.nnz),
            )
            n_matches += int(codes.nnz)
            bar.update(codes.shape[0])
    writer.finish({})
    return CodeStore(folder)


def _model_hash(sae: FittedSAE) -> str:
    """Return a checksum of all that the codes depend on."""
    digest = hashlib.sha256(f"{sae._importance} {sae._module_k()}".encode())
    for name in ("encoder_weights_", "encoder_bias_", "decoder_bias_", "thresholds_"):
        digest.update(np.ascontiguousarray(getattr(sae, name)).data)
    return digest.hexdigest()


def _check_rows(store: Any, writer: ShardWriter) -> None:
    """Raise StoreError where codes are of other rows than the ones given."""
    start = 0
    for shard in writer.manifest.shards:
        stop = start + shard["rows"]
        noted = json.loads(shard["progress"]).get(_NOTE)
        if noted != _digest(store, start, stop):
            raise StoreError(
                f"the store in {str(writer.folder)!r} has codes of other rows: between "
                f"{start:,} and {stop:,} something has changed. Give another folder."
            )
        start = stop


def _digest(store: Any, start: int, stop: int) -> str:
    digest = hashlib.sha256()
    size = max(1, _HASHED_ENTRIES // store.shape[1])
    for first in range(start, stop, size):
        rows = store[first : min(first + size, stop)]
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()
