"""Files that are there whole or not at all, and the checksums they are known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from skchoice.exceptions import StoreError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# What a write leaves behind when it is broken off, under this ending.
PARTIAL = ".part"
_EDGE_BYTES = 4096


class _HashedFile:
    """A file being written, and the checksum of what was written so far."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.n_bytes += len(data)
        return self._file.write(data)


def write_atomically(path: Path, write: Callable[[Any], object]) -> dict[str, Any]:
    """Write a file under another name, and rename it when it is safe on disk.

    Parameters
    ----------
    path : Path
        Replaced if it is there. A crash at any instant leaves the old file or the new.
    write : callable
        Gets an object with ``write(bytes)``.

    Returns
    -------
    record : dict
        ``name``, ``bytes``, ``sha256`` of the file, and ``edges``, the sha256 of its
        first and last 4096 bytes, which can be checked without reading all of it.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            hashed = _HashedFile(file)
            write(hashed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return {
        "name": path.name,
        "bytes": hashed.n_bytes,
        "sha256": hashed.sha256.hexdigest(),
        "edges": _edges(path),
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no one else is in this context for the folder, and keep others out.

    The lock ends with the process at the latest, and leaves no file. Where the system
    has no such locks, nothing is waited for.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have none
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def check_file(folder: Path, record: dict[str, Any], whole: bool = False) -> None:
    """Raise StoreError where a file is not the one that was recorded.

    Parameters
    ----------
    folder : Path
    record : dict
        As `write_atomically` returned it.
    whole : bool, default=False
        Whether to read the whole file. Otherwise its size and its edges are compared:
        that is quick, and finds files that are truncated, exchanged or of another run.
    """
    path = folder / record["name"]
    if not path.is_file():
        raise StoreError(
            f"{path} is missing; its sha256 is {record['sha256']}. Restore it from a "
            "copy."
        )
    if whole:
        matches = sha256_of(path) == record["sha256"]
    else:
        same_size = path.stat().st_size == record["bytes"]
        matches = same_size and _edges(path) == record["edges"]
    if not matches:
        raise StoreError(
            f"{path} is not the file that was written: its sha256 is "
            f"{sha256_of(path)}, expected {record['sha256']}; it has "
            f"{path.stat().st_size} bytes, expected {record['bytes']}. Restore it from "
            "a copy."
        )


def sha256_of(path: Path) -> str:
    """Return the checksum of a whole file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _edges(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(_EDGE_BYTES))
        file.seek(-min(_EDGE_BYTES, path.stat().st_size), os.SEEK_END)
        digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets folders be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
