"""Files that are there whole or not at all, and the checksums they are known by."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from skchoice.exceptions import StoreError

if sys.platform != "win32":
    import fcntl

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
        with open(partial, "w+b") as file:
            hashed = _HashedFile(file)
            write(hashed)
            file.flush()
            os.fsync(file.fileno())
            edges = _edges(file)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return {
        "name": path.name,
        "bytes": hashed.n_bytes,
        "sha256": hashed.sha256.hexdigest(),
        "edges": edges,
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no one else is in this context for the folder, and keep others out.

    The lock ends with the process at the latest, and leaves no file. Where the system
    has no such locks, nothing is waited for.
    """
    if sys.platform == "win32":
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
    with open_recorded(folder, record) as file:
        matches = os.fstat(file.fileno()).st_size == record["bytes"]
        if matches and whole:
            matches = sha256_of(file) == record["sha256"]
        elif matches:
            matches = _edges(file) == record["edges"]
        if not matches:
            raise other_than_written(file, record)


def open_recorded(folder: Path, record: dict[str, Any]) -> BufferedReader:
    """Open a file that was recorded; raise StoreError where it is missing."""
    path = folder / record["name"]
    if not path.is_file():
        raise StoreError(
            f"{path} is missing; its sha256 is {record['sha256']}. Restore it from a "
            "copy."
        )
    return open(os.fspath(path), "rb")


def other_than_written(file: BufferedReader, record: dict[str, Any]) -> StoreError:
    """Return the error that says how a file differs from what was recorded."""
    return StoreError(
        f"{file.name} is not the file that was written: its sha256 is "
        f"{sha256_of(file)}, expected {record['sha256']}; it has "
        f"{os.fstat(file.fileno()).st_size} bytes, expected {record['bytes']}. Restore "
        "it from a copy."
    )


def sha256_of(file: BufferedReader) -> str:
    """Return the checksum of a whole file, in hexadecimal."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_not_cut(mapped: np.memmap, kind: type[Exception]) -> None:
    """Raise where a mapped file is no longer whole: to read there ends the process."""
    if mapped.filename is None:
        return
    try:
        length = os.stat(mapped.filename).st_size
    except OSError:
        return  # removed, which leaves the bytes
    needed = mapped.offset + mapped.nbytes
    if length < needed:
        raise kind(
            f"{mapped.filename} is mapped; it had {needed} bytes and now has {length}: "
            "it was cut while it was read."
        )


def _edges(file: BinaryIO | BufferedReader) -> str:
    file.seek(0)
    digest = hashlib.sha256(file.read(_EDGE_BYTES))
    size = os.fstat(file.fileno()).st_size
    file.seek(-min(_EDGE_BYTES, size), os.SEEK_END)
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
