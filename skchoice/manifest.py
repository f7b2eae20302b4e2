"""The manifest of a store: what it holds, and which of its files count.

``manifest.json`` is one object in JSON; its ``sha256`` is that of the whole file with
zeros in place of the checksum itself. A checksum tells damage, and is no signature, so
what it says is looked at, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from skchoice import strict_json
from skchoice.exceptions import StoreError
from skchoice.files import check_file

MANIFEST = "manifest.json"
_FORMAT = "skchoice store"
VERSION = 2  # 1 had no checksum of the manifest itself
# Lines around the table of shards and between two; strings in JSON hold no line breaks.
_TABLE, _END_OF_TABLE = b' "shards": [\n', b" ]\n}\n"
_END_OF_SHARD, _LAST_OF_SHARD = b"  },\n", b"  }\n"
_NO_DIGEST = "0" * 64  # holds the place while the checksum is not known
_DIGEST = re.compile("[0-9a-f]{64}")
# Of each kind of store, its types and the files that every shard has.
DTYPES = {"activations": ("float16", "float32"), "codes": ("float32", "float64")}
_FILES = {"activations": {"activations"}, "codes": {"data", "indices", "ends"}}
_LONGEST = 1 << 30  # bytes of a manifest: of some million shards
_RECORD = ("name", "bytes", "sha256", "edges")  # of a file
# What looking at a manifest raises where something of another type stands.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass
class Manifest:
    """What a store holds.

    Attributes
    ----------
    kind : str
        "activations" or "codes".
    dtype : str
        Of the values.
    n_columns : int
    configuration : dict
        How the rows are made, in JSON's types. Never changes.
    progress : dict
        How far the writer has come, in JSON's types. Changes with every append.
    complete : bool
        Whether the writer said that no more rows will come.
    shards : list of dict
        Of each: ``rows``, ``files`` (records of `skchoice.files`), the ``progress`` it
        was appended with, as text in JSON, and ``matches`` where it is of codes.
    """

    kind: str
    dtype: str
    n_columns: int
    configuration: dict[str, Any]
    progress: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    shards: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows of all shards together."""
        return sum(shard["rows"] for shard in self.shards)

    @classmethod
    def read(cls, folder: Path, kind: str) -> Self:
        """Read the manifest of a store of one kind."""
        path = folder / MANIFEST
        if not path.is_file():
            inside = sorted(str(found.parent) for found in folder.glob(f"*/{MANIFEST}"))
            there = f" Stores in it: {', '.join(inside[:20])}." if inside else ""
            raise FileNotFoundError(
                f"no store at {str(folder)!r}: expected a folder with "
                f"{MANIFEST}.{there}"
            )
        try:
            with open(path, "rb") as file:
                return cls._read(file, kind)
        except StoreError:
            raise
        except _MALFORMED as error:
            raise StoreError(
                f"{path} is not as it was written ({type(error).__name__}: "
                f"{str(error)[:200]}). Restore it from a copy."
            ) from error

    @classmethod
    def _read(cls, file: BinaryIO, kind: str) -> Self:
        """Read a manifest, line by line; raise one of _MALFORMED if it is damaged.

        The table of shards may be long, and is never in memory as it stands: a forged
        one could take thirty times its size there.
        """
        size = os.fstat(file.fileno()).st_size
        if size > _LONGEST:
            raise ValueError(f"it has {size:,} bytes, and no manifest needs as many")
        room = size + strict_json.FREE_BYTES
        head, has_table = _head(file)
        found = _parsed(head + b' "shards": []}' if has_table else head, room)
        if found.get("format") != _FORMAT:
            raise StoreError(f"{file.name} is not the manifest of a store.")
        version = found.get("version")
        if type(version) is int and version > VERSION:
            raise StoreError(
                f"{file.name} has version {version}, and this skchoice reads versions "
                f"up to {VERSION}: install a newer skchoice to open it."
            )
        if found["kind"] != kind:
            raise StoreError(
                f"{file.name} is of a store of {found['kind']}, not of {kind}."
            )
        if type(version) is not int or version < 1:
            raise ValueError(f"its version is {version!r}")
        digest = found.get("sha256") if version == 1 else found["sha256"]
        if digest is not None and not _DIGEST.fullmatch(digest):
            raise ValueError("it has no sha256")
        own = (digest or _NO_DIGEST).encode()
        hashed = hashlib.sha256(head.replace(own, _NO_DIGEST.encode(), 1))
        shards = found["shards"]
        if has_table:
            shards = (_parsed(part, room) for part in _shards(file, hashed))
        manifest = cls._checked(found, shards)
        if digest is not None and digest != hashed.hexdigest():
            raise ValueError("it does not have the sha256 that was written into it")
        return manifest

    @classmethod
    def _checked(cls, found: dict[str, Any], shards: Iterable[Any]) -> Self:
        """Return the manifest in JSON, if it fits together; else raise _MALFORMED."""
        n_rows, n_columns = found["shape"]
        names = ("kind", "dtype", "configuration", "progress", "complete")
        manifest = cls(n_columns=n_columns, **{name: found[name] for name in names})
        if type(n_columns) is not int or not 1 <= n_columns < 2**31:
            raise ValueError(f"it has {n_columns!r} columns")
        if manifest.dtype not in DTYPES[manifest.kind]:
            raise ValueError(f"its dtype is {manifest.dtype!r}")
        if type(manifest.complete) is not bool or not all(
            type(each) is dict for each in (manifest.configuration, manifest.progress)
        ):
            raise TypeError("its configuration and progress are of no known form")
        configuration = configuration_hash(manifest.configuration)
        if configuration != found["configuration_sha256"]:
            raise ValueError("its configuration has another sha256 than it says")
        for number, shard in enumerate(shards):
            manifest.shards.append(_checked_shard(number, shard, manifest.kind))
            if shard["files"].keys() != manifest.shards[0]["files"].keys():
                raise ValueError(f"shard {number} has other files than the first")
        if n_rows != manifest.n_rows:
            raise ValueError(f"it has {n_rows!r} rows, its shards {manifest.n_rows}")
        return manifest

    def to_json(self) -> bytes:
        """Return the manifest as it is written."""
        return sealed(
            {
                "format": _FORMAT,
                "version": VERSION,
                "sha256": _NO_DIGEST,
                "kind": self.kind,
                "shape": [self.n_rows, self.n_columns],
                "dtype": self.dtype,
                "configuration": self.configuration,
                "configuration_sha256": configuration_hash(self.configuration),
                "progress": self.progress,
                "complete": self.complete,
                "shards": [
                    shard | {"progress": json.loads(shard["progress"])}
                    for shard in self.shards
                ],
            }
        )

    def check_files(self, folder: Path, whole: bool = False) -> None:
        """Raise StoreError where a shard is not as it was written."""
        for shard in self.shards:
            for record in shard["files"].values():
                check_file(folder, record, whole)


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """Return the sha256 of a configuration, whatever the order of its keys."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def as_noted(name: str, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return notes as they will be read; raise where a manifest cannot hold them.

    Tuples become lists, and numpy's numbers Python's.
    """
    try:
        text = json.dumps({**notes}, indent=4, allow_nan=False, default=_number)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} cannot be written in JSON: {error}.") from error
    try:
        # The configuration and the last progress are read together.
        strict_json.check_room(text, strict_json.FREE_BYTES // 2)
    except ValueError as error:
        raise ValueError(f"{name} is too long for a manifest: {error}.") from error
    return json.loads(text)


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"it holds {value!r}, which is of no type that JSON has")


def sealed(document: dict[str, Any]) -> bytes:
    """Return the content of a manifest, with its checksum in ``sha256``."""
    content = json.dumps(document | {"sha256": _NO_DIGEST}, indent=1).encode() + b"\n"
    digest = hashlib.sha256(content).hexdigest()
    place = content.index(_NO_DIGEST.encode())
    return content[:place] + digest.encode() + content[place + len(_NO_DIGEST) :]


def _head(file: BinaryIO) -> tuple[bytearray, bool]:
    """Return what comes before the table of shards, and whether there is one."""
    head = bytearray()
    for line in file:
        if line == _TABLE:
            return head, True
        head += line
    return head, False


def _shards(file: BinaryIO, hashed: Any) -> Iterator[bytearray]:
    """Yield the text of one shard after the other; all bytes that pass are hashed."""
    hashed.update(_TABLE)
    shard = bytearray()
    for line in file:
        hashed.update(line)
        if line == _LAST_OF_SHARD:
            yield shard + b"}"
            break
        if line == _END_OF_SHARD:
            yield shard + b"}"
            shard = bytearray()
        else:
            shard += line
    rest = file.read(len(_END_OF_TABLE) + 1)
    hashed.update(rest)
    if rest != _END_OF_TABLE:
        raise ValueError("its table of shards does not end as it should")


def _parsed(text: bytearray, room: int) -> dict[str, Any]:
    strict_json.check_room(text, room)
    return strict_json.parse(text)


def _checked_shard(number: int, shard: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a shard, if it can have been written so; else raise one of _MALFORMED.

    Its keys are shared with all other shards, and its progress is text: as they were
    parsed they would take as much again.
    """
    lowest = {"rows": 1} | ({"matches": 0} if kind == "codes" else {})
    if shard.keys() != {*lowest, "files", "progress"}:
        raise ValueError(f"shard {number} has the entries {[*shard]}")
    for name, least in lowest.items():
        if type(shard[name]) is not int or shard[name] < least:
            raise ValueError(f"shard {number} has {shard[name]!r} {name}")
    if not shard["files"].keys() >= _FILES[kind]:
        raise ValueError(f"shard {number} has only the files {[*shard['files']]}")
    if type(shard["progress"]) is not dict:
        raise TypeError(f"shard {number} has a progress of no known form")
    files = {}
    for name, record in shard["files"].items():
        # No path out of the folder, and no two records of one file.
        if record["name"] != f"{name}-{number:05d}.npy" or not name.isalpha():
            raise ValueError(f"shard {number} has a file {record['name']!r}")
        if type(record["bytes"]) is not int or not all(
            _DIGEST.fullmatch(record[digest]) for digest in ("sha256", "edges")
        ):
            raise ValueError(f"{record['name']} has no size and checksums")
        if len(record) > len(_RECORD):
            raise ValueError(f"{record['name']} has the entries {[*record]}")
        files[sys.intern(name)] = {entry: record[entry] for entry in _RECORD}
    return {
        **{name: shard[name] for name in lowest},
        "files": files,
        "progress": json.dumps(shard["progress"]),
    }
