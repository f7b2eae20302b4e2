"""Activations on disk: written shard by shard, read as one array."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skchoice.arguments import check_choice, check_integer, check_number
from skchoice.lazy import RowView
from skchoice.manifest import DTYPES, Manifest
from skchoice.sharded import ShardedArray
from skchoice.shards import ShardWriter, as_stored

__all__ = ["TOKEN", "ActivationStore", "StoreWriter"]

_KIND = "activations"
_NORM_ROWS = 4096
# Where in the text a row is from.
TOKEN = np.dtype([("token_id", "<i4"), ("document", "<i8"), ("position", "<i4")])


class ActivationStore(ShardedArray):
    """Rows of activations in a folder, as one array of shape (n_tokens, d).

    Opened for reading: the files are mapped when their rows are asked for, so that a
    store may be larger than memory. It can be the X of every estimator, which streams
    it. Indexing is numpy's, and copies only the rows asked for; ``store[rows, ...]``,
    the form in which scikit-learn splits data, gives a view that reads nothing yet.

    Parameters
    ----------
    folder : str or Path
        As `StoreWriter` or `skchoice.lm.store_activations` wrote it. Rows that are
        appended later are seen by opening it anew.
    check_shards : bool, default=True
        Compare each shard with its checksum when its first row is asked for, which
        reads all of it. False leaves that to `verify`: a damaged byte is then read as
        it is.

    Attributes
    ----------
    shape : tuple (n_tokens, d)
    dtype : numpy dtype
        float16 or float32.
    tokens : ShardedArray of shape (n_tokens,), or None
        Of each row its ``token_id``, ``document`` (index into the texts) and
        ``position`` (that the model saw): ``store.tokens[:100]["position"]``. None if
        the rows were appended without.
    folder : Path
    configuration : dict
        How the rows were made: for a language model the model, layer, hook, tokenizer
        and context length.
    progress : dict
        How far the writer came; for a language model with the tokens it ``dropped``.
    complete : bool
        Whether the writer said that no more rows will come.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    StoreError
        If it was written by a newer version, its manifest is damaged, or a shard is
        missing, truncated or exchanged, which the sizes of the files and checksums of
        their first and last bytes tell. When rows are read, if their shard has any
        byte that was not written.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from skchoice.store import ActivationStore, StoreWriter
    >>> folder = tempfile.mkdtemp()
    >>> writer = StoreWriter(folder, n_columns=3)
    >>> writer.append(np.zeros((4, 3)))
    >>> writer.append(np.ones((2, 3)))
    >>> store = ActivationStore(folder)
    >>> store.shape, store.dtype
    ((6, 3), dtype('float16'))
    >>> store[3:5, 0]
    array([0., 1.], dtype=float16)
    >>> store[[5, 0], ...].shape  # nothing is read yet
    (2, 3)
    """

    def __init__(self, folder: str | Path, *, check_shards: bool = True):
        self.folder = Path(folder)
        manifest = Manifest.read(self.folder, _KIND)
        manifest.check_files(self.folder)
        self._manifest = manifest
        self.configuration, self.progress = manifest.configuration, manifest.progress
        self.complete = manifest.complete
        width = (manifest.n_columns,)
        super().__init__(
            *self._files("activations"), width, manifest.dtype, check_shards
        )
        self.tokens = None
        if all("tokens" in shard["files"] for shard in manifest.shards):
            self.tokens = ShardedArray(*self._files("tokens"), (), TOKEN, check_shards)

    def _files(self, name: str) -> tuple[Path, list[dict[str, Any]], list[int]]:
        shards = self._manifest.shards
        records = [shard["files"][name] for shard in shards]
        return self.folder, records, [shard["rows"] for shard in shards]

    def __repr__(self) -> str:
        return (
            f"ActivationStore({str(self.folder)!r}): shape={self.shape}, "
            f"dtype={self.dtype}"
        )

    def without_outliers(self, ratio: float = 10.0) -> RowView:
        """Leave out the rows whose norm is above ``ratio`` times the median norm.

        Language models make attention sinks of tokens at other positions than the
        first, too: a few such rows may hold half of the variance.

        Parameters
        ----------
        ratio : float, default=10.0
            Of a row's norm to the median of all rows; at least 1.

        Returns
        -------
        rows : RowView
            The other rows, with their ``tokens``. All rows are read once, for their
            norms.
        """
        check_number("ratio", ratio, 1)
        norms = np.empty(len(self), np.float32)
        for start in range(0, len(self), _NORM_ROWS):
            part = slice(start, start + _NORM_ROWS)
            norms[part] = np.linalg.norm(self[part].astype(np.float32), axis=1)
        return self[norms <= ratio * np.median(norms), ...]

    def verify(self) -> None:
        """Read all files and compare them with their checksums.

        Raises
        ------
        StoreError
            If a file is not as it was written; the message has both checksums.
        """
        self._manifest.check_files(self.folder, whole=True)


class StoreWriter:
    """Append rows to a store.

    Each `append` makes one shard, which is safe on disk when the call returns; a crash
    at any instant leaves a store with the shards before it. Append tens of thousands
    of rows at a time: a shard is a file or two.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there. A store in it that the same configuration wrote is
        continued; one without rows yet is begun anew.
    n_columns : int
        Of every row.
    dtype : {"float16", "float32"}, default="float16"
        Of the stored rows.
    configuration : dict, default=None
        How the rows are made, in JSON's types: noted in the manifest, with its hash.

    Attributes
    ----------
    n_rows, n_shards : int
        What is safe on disk.
    progress : dict
        As it was given with the last append.
    complete : bool

    Raises
    ------
    StoreError
        If the store in the folder was written by another configuration, or a shard of
        it is damaged.

    Examples
    --------
    A writer that was broken off goes on after what is safe:

    >>> import numpy as np, tempfile
    >>> from skchoice.store import StoreWriter
    >>> folder = tempfile.mkdtemp()
    >>> X = np.random.default_rng(0).normal(size=(5000, 16))
    >>> StoreWriter(folder, n_columns=16).append(X[:2000])
    >>> writer = StoreWriter(folder, n_columns=16)
    >>> writer.n_rows
    2000
    >>> writer.append(X[2000:])
    >>> writer.finish()
    >>> writer.n_rows, writer.n_shards, writer.complete
    (5000, 2, True)
    """

    def __init__(
        self,
        folder: str | Path,
        n_columns: int,
        *,
        dtype: str = "float16",
        configuration: Mapping[str, Any] | None = None,
    ):
        check_choice("dtype", dtype, DTYPES[_KIND])
        check_integer("n_columns", n_columns, 1)
        empty = Manifest(_KIND, dtype, n_columns, dict(configuration or {}))
        self._shards = ShardWriter(Path(folder), empty)

    @property
    def n_rows(self) -> int:
        """Rows that are safe on disk."""
        return self._shards.manifest.n_rows

    @property
    def n_shards(self) -> int:
        """Shards that are safe on disk."""
        return len(self._shards.manifest.shards)

    @property
    def progress(self) -> dict[str, Any]:
        """What was given with the last append."""
        return self._shards.manifest.progress

    @property
    def complete(self) -> bool:
        """Whether `finish` was called."""
        return self._shards.manifest.complete

    def append(
        self,
        rows: ArrayLike,
        tokens: NDArray | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one shard; it is safe on disk on return.

        Parameters
        ----------
        rows : array-like of shape (n_rows, n_columns)
            Of at least one row.
        tokens : array of shape (n_rows,) and dtype `TOKEN`, default=None
            Where in the text each row is from; for all shards of a store or for none.
        progress : dict, default=None
            In JSON's types, for the writer to go on from after a crash.

        Raises
        ------
        ValueError
            If a row is not finite or beyond the range of the dtype, or a shape is not
            as stated. Nothing is written then.
        TypeError
            If the rows are no array.
        OSError
            If the disk is full; the rows appended before are safe.
        """
        manifest = self._shards.manifest
        rows = _as_array(rows)
        if rows.ndim != 2 or rows.shape[1] != manifest.n_columns or not len(rows):
            raise ValueError(
                f"rows must be of shape (n_rows, {manifest.n_columns}) with at least "
                f"one row, got {rows.shape}."
            )
        arrays = {"activations": as_stored(rows, manifest.dtype, manifest.n_rows)}
        if tokens is not None:
            tokens = np.asarray(tokens)
            if tokens.shape != (len(rows),) or tokens.dtype != TOKEN:
                raise ValueError(
                    f"tokens must be of shape ({len(rows)},) and dtype TOKEN, got "
                    f"{tokens.shape} and {tokens.dtype}."
                )
            arrays["tokens"] = tokens
        if any(arrays.keys() != shard["files"].keys() for shard in manifest.shards):
            raise ValueError("tokens must be given for all shards of a store or none.")
        self._shards.append(arrays, len(rows), progress or {})

    def keep(self, n_shards: int) -> None:
        """Give up the shards after the first ones, and the progress since.

        Parameters
        ----------
        n_shards : int
            So many are kept.
        """
        check_integer("n_shards", n_shards, 0, self.n_shards)
        self._shards.keep(n_shards)

    def finish(self, progress: Mapping[str, Any] | None = None) -> None:
        """Note that no more rows will come.

        Parameters
        ----------
        progress : dict, default=None
            The last one. None leaves that of the last append.
        """
        self._shards.finish(self.progress if progress is None else progress)


def _as_array(rows: Any) -> NDArray:
    if isinstance(rows, str | PathLike):
        raise TypeError(f"rows must be an array, got a path, {str(rows)!r}: read it.")
    if isinstance(rows, Tensor):  # numpy knows no bfloat16, and no graph
        rows = rows.detach().cpu()
        rows = rows.float() if rows.dtype == torch.bfloat16 else rows
    return np.asarray(rows)
