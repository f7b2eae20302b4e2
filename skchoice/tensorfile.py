"""One safetensors file: named arrays, a JSON document, and a digest of both.

The document is text in the header, so any reader of safetensors opens the arrays. The
digest is SHA-256 over the names, types, shapes and bytes of the arrays and over the
document: what is read is what was written, or it is refused. It is no signature: who
forges a file can forge its digest, so readers must not trust a document either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from skchoice.exceptions import FileRefusedError

# Parsing a header takes this many bytes for each of its brackets and commas at most;
# together they may take as much as the file and a half, and in any file this much.
_BYTES_PER_TOKEN = 128
_FREE_BYTES = 1 << 20
_LONGEST_HEADER = 100_000_000  # of safetensors
# What parsing raises on bytes that make no sense.
_OF_NONSENSE = (
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RecursionError,
    MemoryError,
)

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


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Give a new file to write to, which takes the place of ``path`` when all is well.

    Whenever the process or the machine stops, ``path`` is the old file or the new one,
    whole. On an error the new file is removed.
    """
    path = Path(path)
    new = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(new, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
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
    """
    text = json.dumps(document, separators=(",", ":"))
    arrays = {name: _little_endian(array) for name, array in arrays.items()}
    header = {"__metadata__": {"skchoice": text, "sha256": _digest(arrays, text)}}
    # The widest first: then each array is aligned.
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    stop = 0
    for name in order:
        start, stop = stop, stop + arrays[name].nbytes
        header[name] = {
            "dtype": _NAMES[arrays[name].dtype],
            "shape": arrays[name].shape,
            "data_offsets": [start, stop],
        }
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    with replacing(path) as file:
        file.write(len(packed).to_bytes(8, "little") + packed)
        for name in order:
            file.write(_bytes(arrays[name]))


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
        size = os.fstat(file.fileno()).st_size
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileRefusedError(f"{path} is not a regular file.")
        header = _header(path, file, size)
        try:
            entries = json.loads(header[8:])
            metadata = entries.pop("__metadata__")
            text, digest = metadata["skchoice"], metadata["sha256"]
            _check_size(entries, size - len(header))
            # The parser that checks all the rest wants the file in one piece.
            data = header + file.read(size - len(header))
            arrays = {name: _array(entry) for name, entry in deserialize(data)}
            del data
        except _OF_NONSENSE as error:
            raise FileRefusedError(
                f"{path} is no safetensors file of skchoice, or it is damaged "
                f"({type(error).__name__}: {str(error)[:200]}). Files of other "
                "libraries are read by skchoice.io."
            ) from error
    if not isinstance(text, str) or digest != _digest(arrays, text):
        raise FileRefusedError(
            f"{path} is damaged: its contents do not have the SHA-256 digest that was "
            "written with them. Take another copy."
        )
    return arrays, _document(path, text)


def _header(path: str | os.PathLike, file: BinaryIO, size: int) -> bytes:
    """Read the header, unless it would take much more memory than its file."""
    length = file.read(8)
    stop = 8 + int.from_bytes(length, "little")
    if len(length) < 8 or stop > min(size, _LONGEST_HEADER):
        raise FileRefusedError(
            f"{path} is cut off or no safetensors file: it has {size} bytes, and its "
            f"header would end at {stop}."
        )
    header = length + file.read(stop - 8)
    tokens = sum(map(header.count, (b"{", b"[", b",")))
    if _BYTES_PER_TOKEN * tokens > 1.5 * size + _FREE_BYTES:
        raise FileRefusedError(
            f"{path} has {size} bytes and a header of {tokens} values: this is no file "
            "that skchoice wrote."
        )
    return header


def _check_size(entries: dict[str, Any], size: int) -> None:
    """Raise where a file is not as long as its arrays, before it is read."""
    stop = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if stop != size:
        raise ValueError(f"the arrays take {stop} bytes, but the file has {size}")


def _array(entry: dict[str, Any]) -> NDArray:
    dtype = _DTYPES[entry["dtype"]]
    array = np.frombuffer(entry["data"], dtype=dtype).reshape(entry["shape"])
    if dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        raise ValueError("a bool that is neither 0 nor 1")
    return array


def _document(path: str | os.PathLike, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise FileRefusedError(f"{path} has no JSON document: {error}.") from error
    if not isinstance(document, dict):
        raise FileRefusedError(f"{path} has a JSON document that is no object.")
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def _digest(arrays: dict[str, NDArray], text: str) -> str:
    names = sorted(arrays)
    what = [[name, arrays[name].dtype.str, arrays[name].shape] for name in names]
    digest = hashlib.sha256(json.dumps([what, text]).encode())
    for name in names:
        digest.update(_bytes(arrays[name]))
    return digest.hexdigest()


def _little_endian(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _bytes(array: NDArray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
