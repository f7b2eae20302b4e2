"""Writing the shards of a growing table, each of them atomically.

A store is a folder. Its shards are .npy files; ``manifest.json`` lists those that are
whole, with their checksums. An append writes the files of one shard and then replaces
the manifest, each atomically: a crash at any instant leaves a valid store, at worst
one shard shorter, and files that the manifest does not list are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skchoice.exceptions import StoreError
from skchoice.files import PARTIAL, locked, write_atomically
from skchoice.manifest import MANIFEST, Manifest, as_noted


class ShardWriter:
    """Append shards to a store, each of them atomically.

    Parameters
    ----------
    folder : Path
        Made if it is not there. A store in it is continued if it was written by the
        same configuration, and is else left alone, unless it has no rows yet.
    empty : Manifest
        Of the store before the first append.

    Raises
    ------
    StoreError
        If the store there is of another kind, dtype, width or configuration.
    """

    def __init__(self, folder: Path, empty: Manifest):
        self.folder = folder
        empty.configuration = as_noted("configuration", empty.configuration)
        self.manifest, self._written = empty, b""
        self._make_folder()
        with locked(folder):
            self._open(folder, empty)

    def _open(self, folder: Path, empty: Manifest) -> None:
        if (folder / MANIFEST).exists():
            found = Manifest.read(folder, empty.kind)
            if found.shards:
                _check_same(folder, found, empty)
                self.manifest = found
            self.manifest.check_files(folder)
            self._written = (folder / MANIFEST).read_bytes()
        if not self.manifest.shards:
            self._save(empty)
        for partial in folder.glob(f"*{PARTIAL}"):
            partial.unlink()  # of a write that was broken off

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: no store can be begun in {str(self.folder)!r}. "
                "Give a folder that can be written to",
            ) from error

    def append(
        self,
        arrays: Mapping[str, NDArray],
        n_rows: int,
        progress: Mapping[str, Any],
        **more: Any,
    ) -> None:
        """Add one shard of at least one row; it is safe on disk on return.

        Parameters
        ----------
        arrays : dict of str to array
            Each is written to a file of its own.
        n_rows : int
        progress : dict
            Replaces the progress of the store.
        **more
            Noted with the shard, in JSON's types.
        """
        noted = as_noted("progress", progress)
        with locked(self.folder):
            self._append(arrays, n_rows, noted, more)

    def _append(
        self,
        arrays: Mapping[str, NDArray],
        n_rows: int,
        progress: dict[str, Any],
        more: Mapping[str, Any],
    ) -> None:
        self._check_unchanged()  # before another's files are written over
        number = len(self.manifest.shards)
        try:
            files = {
                name: _write_array(self.folder / f"{name}-{number:05d}.npy", array)
                for name, array in arrays.items()
            }
            noted = json.dumps(progress)
            shard = {"rows": n_rows, **more, "files": files, "progress": noted}
            shards = [*self.manifest.shards, shard]
            self._save(
                replace(self.manifest, shards=shards, progress=progress, complete=False)
            )
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}, while shard {number} was written. The "
                f"{self.manifest.n_rows:,} rows before it are safe in "
                f"{str(self.folder)!r}: make room and run again to go on from there",
            ) from error

    def keep(self, n_shards: int) -> None:
        """Give up the shards after the first ``n_shards``."""
        shards = self.manifest.shards[:n_shards]
        if len(shards) < len(self.manifest.shards):
            progress = json.loads(shards[-1]["progress"]) if shards else {}
            fewer = replace(
                self.manifest, shards=shards, progress=progress, complete=False
            )
            with locked(self.folder):
                self._save(fewer)

    def finish(self, progress: Mapping[str, Any]) -> None:
        """Note that no more rows will come."""
        noted = as_noted("progress", progress)
        with locked(self.folder):
            self._save(replace(self.manifest, progress=noted, complete=True))

    def _save(self, manifest: Manifest) -> None:
        """Write a manifest; it is that of the store once it is safe on disk."""
        self._check_unchanged()
        content = manifest.to_json()
        write_atomically(self.folder / MANIFEST, lambda file: file.write(content))
        self.manifest, self._written = manifest, content

    def _check_unchanged(self) -> None:
        path = self.folder / MANIFEST
        if self._written != (path.read_bytes() if path.exists() else b""):
            raise StoreError(
                f"{path} was changed by someone else: is another process writing to "
                "this store? Run again when it has ended."
            )


def as_stored(rows: NDArray, dtype: str, first_row: int = 0) -> NDArray:
    """Return rows in the dtype of a store, none of their numbers bent.

    Parameters
    ----------
    rows : array of shape (n_rows, n_columns)
    dtype : {"float16", "float32"}
    first_row : int, default=0
        Number of the first row, for the message.

    Raises
    ------
    ValueError
        If a number is not finite or not real, or would become infinite.
    """
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"rows must be real numbers, got dtype {rows.dtype}.")
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype, copy=False)
    bad = ~np.isfinite(stored).all(axis=1)
    if bad.any():
        place = int(np.argmax(bad))
        if not np.isfinite(rows[place]).all():
            raise ValueError(
                f"row {first_row + place} holds a number that is not finite. Leave "
                "such rows out; where a model gave it, load the model in float32."
            )
        raise ValueError(
            f"row {first_row + place} holds {np.abs(rows[place]).max():.4g}, and "
            f"{dtype} ends at {np.finfo(dtype).max:.4g}: store the rows with "
            'dtype="float32".'
        )
    return stored


def _write_array(path: Path, array: NDArray) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    return write_atomically(
        path, lambda file: np.lib.format.write_array(file, array, allow_pickle=False)
    )


def _check_same(folder: Path, found: Manifest, wanted: Manifest) -> None:
    """Raise StoreError with what differs between two manifests."""
    pairs = {
        name: (getattr(found, name), getattr(wanted, name))
        for name in ("dtype", "n_columns")
    }
    names = [*found.configuration, *wanted.configuration]
    pairs |= {
        name: (found.configuration.get(name), wanted.configuration.get(name))
        for name in names
    }
    differing = [
        f"{name} {there!r} there, {here!r} now"
        for name, (there, here) in pairs.items()
        if there != here
    ]
    if differing:
        raise StoreError(
            f"the store in {str(folder)!r} was written by another configuration: "
            f"{'; '.join(differing)}. Go on with the same, or give another folder."
        )
