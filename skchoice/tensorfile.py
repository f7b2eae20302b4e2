"""One safetensors file: named arrays, a JSON document, and a digest of both.

The document is text in the header, so any reader of safetensors opens the arrays. The
digest is SHA-256 over the document, the names, types and shapes of the arrays, and
their bytes: what is read is what was written, or it is refused. It is no signature: who
forges a file can forge its digest, so readers must not trust a document either.

The format is read and written here, and not by safetensors itself, because the bytes
are hashed while they pass, are copied once, and are read only where the file is as long
as its header says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from skchoice import strict_json
from skchoice.exceptions import FileRefusedError

_LONGEST_HEADER = 100_000_000  # of safetensors
_WORTH_A_THREAD = 1 << 20  # bytes
_NO_DIGEST = "0" * 64  # holds the place while the digest is not known
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# What parsing raises on bytes that make no sense.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Give a new file to write to, which takes the place of ``path`` when all is well.

    Whenever the process or the machine stops, ``path`` is the old file or the new one,
    whole. On an error the new file is removed.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it to write to.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path} cannot be written, because there is no folder {path.parent}: make "
            "it first."
        )
    new = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(new, "xb") as file:
            yield file
            _sync(file)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name, too, must survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def write(
    path: str | os.PathLike, arrays: dict[str, NDArray], document: dict[str, Any]
) -> None:
    """Write arrays and a document, in place of what was there, or not at all.

    Parameters
    ----------
    path : str or path-like
    arrays : dict of str to array
    document : dict
        Anything JSON can hold.

    Raises
    ------
    ValueError
        If the document has so many values that the file would not be read.
    """
    _write_text(path, arrays, json.dumps(document, separators=(",", ":")))


def _write_text(path: str | os.PathLike, arrays: dict[str, NDArray], text: str) -> None:
    # The widest numbers first: then each array is aligned.
    order = sorted(arrays, key=lambda n: (-arrays[n].itemsize, arrays[n].nbytes, n))
    arrays = {name: _little_endian(arrays[name]) for name in order}
    header = _packed_header(arrays, text, _NO_DIGEST)
    _check_readable(header, text, arrays)
    with replacing(path) as file, _Hasher(arrays, text) as hasher:
        file.write(header)
        for array in arrays.values():
            hasher.add(array)
            file.write(_bytes(array))
        _sync(file)  # which takes its time anyway, while the rest is hashed
        file.seek(0)
        file.write(_packed_header(arrays, text, hasher.digest()))


def _check_readable(header: bytes, text: str, arrays: dict[str, NDArray]) -> None:
    """Raise ValueError where a file would be refused."""
    size = len(header) + sum(array.nbytes for array in arrays.values())
    try:
        if len(header) > _LONGEST_HEADER:
            raise ValueError(f"its header would have {len(header):,} bytes")
        for part in (header[8:], text):
            strict_json.check_room(part, size + strict_json.FREE_BYTES)
    except ValueError as error:
        raise ValueError(
            f"no file is written that could not be read: {error}. Keep long notes "
            "elsewhere; lists of numbers may be numpy arrays."
        ) from error


def read(path: str | os.PathLike) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    arrays : dict of str to array, writable
    document : dict

    Raises
    ------
    FileRefusedError
        If the file is damaged or was not written by this library.
    """
    with open(path, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileRefusedError(f"{path} is not a regular file.")
        try:
            arrays, text, digest = _empty_arrays(file)
            with _Hasher(arrays, text) as hasher:
                for name, array in arrays.items():
                    if file.readinto(_bytes(array)) != array.nbytes:
                        raise ValueError(f"it ends within {name}")
                    hasher.add(array)
            for name, array in arrays.items():
                if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
                    raise ValueError(f"{name} holds a bool that is neither 0 nor 1")
            if digest != hasher.digest():
                raise ValueError(
                    "its contents do not have the SHA-256 digest that was written with "
                    "them"
                )
            return arrays, strict_json.parse(text)
        except (*_MALFORMED, MemoryError) as error:
            raise FileRefusedError(
                f"{path} is damaged, or is no file that skchoice wrote: "
                f"{type(error).__name__}: {str(error)[:200]}. Files of other libraries "
                "are read by skchoice.io."
            ) from error


def _packed_header(arrays: dict[str, NDArray], text: str, digest: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"skchoice": text, "sha256": digest}}
    stop = 0
    for name, array in arrays.items():
        start, stop = stop, stop + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": [start, stop],
        }
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    return len(packed).to_bytes(8, "little") + packed


def _empty_arrays(file: BinaryIO) -> tuple[dict[str, NDArray], str, str]:
    """Read a header; return arrays to read into, in order, the text and the digest.

    Nothing is allocated before it is certain that the file has the bytes for it.
    """
    size = os.fstat(file.fileno()).st_size
    length = file.read(8)
    stop = 8 + int.from_bytes(length, "little")
    if len(length) < 8 or stop > min(size, _LONGEST_HEADER):
        raise ValueError(f"it has {size} bytes, and its header would end at {stop}")
    packed = file.read(stop - 8)
    room = size + strict_json.FREE_BYTES
    strict_json.check_room(packed, room)
    header = strict_json.parse(packed)
    metadata = header.pop("__metadata__")
    text, digest = metadata["skchoice"], metadata["sha256"]
    if not isinstance(text, str):
        raise TypeError("its document is no text")
    strict_json.check_room(text, room)  # escapes may have hidden what it is
    entries = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
    end = 0
    for name, entry in entries:
        end = _end(name, entry, end)
    if stop + end != size:
        raise ValueError(f"its arrays take {end} bytes, but there are {size - stop}")
    arrays = {
        name: np.empty(entry["shape"], _DTYPES[entry["dtype"]])
        for name, entry in entries
    }
    return arrays, text, digest


def _end(name: str, entry: dict[str, Any], expected: int) -> int:
    """Return where an array ends, if it begins where it should and has its size."""
    start, stop = entry["data_offsets"]
    shape = entry["shape"]
    if any(type(n) is not int or n < 0 for n in (start, stop, *shape)):
        raise ValueError(f"{name} has no place and shape of whole numbers")
    nbytes = math.prod(shape) * _DTYPES[entry["dtype"]].itemsize
    if start != expected or stop - start != nbytes:
        raise ValueError(f"{name} of {nbytes} bytes is at {start} to {stop}")
    return stop


class _Hasher:
    """SHA-256 of arrays and text; from the first large array on in a thread.

    Meanwhile the file is read or written.
    """

    def __init__(self, arrays: dict[str, NDArray], text: str):
        what = [[name, a.dtype.str, a.shape] for name, a in arrays.items()]
        self._digest = hashlib.sha256(json.dumps([text, what]).encode())
        self._thread = ThreadPoolExecutor(1)
        self._begun: list[Future] = []

    def __enter__(self) -> _Hasher:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def add(self, array: NDArray) -> None:
        """Hash an array, which must stay as it is meanwhile."""
        if self._begun or array.nbytes >= _WORTH_A_THREAD:
            self._begun.append(self._thread.submit(self._digest.update, _bytes(array)))
        else:
            self._digest.update(_bytes(array))

    def digest(self) -> str:
        """Return the digest of all that was added."""
        for part in self._begun:
            part.result()
        return self._digest.hexdigest()


def _little_endian(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _bytes(array: NDArray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
