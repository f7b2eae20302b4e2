"""Writing the shards of a growing table, each of them atomically.

A store is a folder. Its shards are .npy files; ``manifest.json`` lists those that are
whole, with their checksums. An append writes the files of one shard and then replaces
the manifest, each atomically: a crash at any instant leaves a valid store, at worst
one shard shorter, and files that the manifest does not list are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skchoice.exceptions import StoreError
from skchoice.files import PARTIAL, write_atomically
from skchoice.manifest import MANIFEST, Manifest


class ShardWriter:
    """Append shards to a store, each of them atomically.

    Parameters
    ----------
    folder : Path
        Made if it is not there. A store in it is continued if it was written by the
        same configuration, and is else left alone.
    empty : Manifest
        Of the store before the first append.

    Raises
    ------
    StoreError
        If the store there is of another kind, dtype, width or configuration.
    """

    def __init__(self, folder: Path, empty: Manifest):
        self.folder = folder
        # As it will be read: tuples become lists, for one.
        empty.configuration = json.loads(json.dumps(empty.configuration))
        if (folder / MANIFEST).exists():
            self.manifest = Manifest.read(folder, empty.kind)
            _check_same(folder, self.manifest, empty)
            self.manifest.check_files(folder)
            self._written = (folder / MANIFEST).read_bytes()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.manifest, self._written = empty, b""
            self._save()
        for partial in folder.glob(f"*{PARTIAL}"):
            partial.unlink()  # of a write that was broken off

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
        self._check_unchanged()  # before another's files are written over
        number = len(self.manifest.shards)
        try:
            files = {
                name: _write_array(self.folder / f"{name}-{number:05d}.npy", array)
                for name, array in arrays.items()
            }
            shard = {"rows": n_rows, **more, "files": files, "progress": {**progress}}
            self.manifest.shards.append(shard)
            self.manifest.progress, self.manifest.complete = {**progress}, False
            self._save()
        except OSError as error:
            del self.manifest.shards[number:]
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
            self.manifest.shards = shards
            self.manifest.progress = shards[-1]["progress"] if shards else {}
            self.manifest.complete = False
            self._save()

    def finish(self, progress: Mapping[str, Any]) -> None:
        """Note that no more rows will come."""
        self.manifest.progress, self.manifest.complete = {**progress}, True
        self._save()

    def _save(self) -> None:
        self._check_unchanged()
        content = self.manifest.to_json()
        write_atomically(self.folder / MANIFEST, lambda file: file.write(content))
        self._written = content

    def _check_unchanged(self) -> None:
        path = self.folder / MANIFEST
        if self._written != (path.read_bytes() if path.exists() else b""):
            raise StoreError(
                f"{path} was changed by someone else: is another process writing to "
                "this store? Run again when it has ended."
            )


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
