"""The manifest of a store: which shards count, how they were made, and its checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from skchoice.exceptions import StoreError
from skchoice.files import check_file

MANIFEST = "manifest.json"
_FORMAT = "skchoice store"
_VERSION = 1
_DTYPES = ("float16", "float32", "float64")
# What each shard of a kind must have.
_ARRAYS = {"activations": {"activations"}, "codes": {"data", "indices", "ends"}}
_COUNTS = {"activations": ("rows",), "codes": ("rows", "matches")}
_RECORD = {"name": str, "bytes": int, "sha256": str, "edges": str}


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
        was appended with, and what else the kind of store needs.
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
            raise FileNotFoundError(
                f"no store at {str(folder)!r}: expected a folder with {MANIFEST}."
            )
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path} is not JSON: {error}. Restore it.") from error
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise StoreError(f"{path} is not the manifest of a store.")
        version = found.get("version")
        if isinstance(version, int) and version > _VERSION:
            raise StoreError(
                f"{path} has version {version}, and this skchoice reads "
                f"versions up to {_VERSION}: install a newer skchoice to open it."
            )
        if found.get("kind") != kind:
            raise StoreError(
                f"{str(folder)!r} is a store of {found.get('kind')}, not of {kind}."
            )
        try:
            return cls._checked(found)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise StoreError(
                f"{path} is not as it was written ({type(error).__name__}: {error}). "
                "Restore it from a copy."
            ) from error

    @classmethod
    def _checked(cls, found: dict[str, Any]) -> Self:
        """Return a manifest all of whose parts agree; raise where they do not."""
        names = ("kind", "dtype", "configuration", "progress", "complete", "shards")
        manifest = cls(
            n_columns=found["shape"][1], **{name: found[name] for name in names}
        )
        if manifest.dtype not in _DTYPES:
            raise ValueError(f"its dtype is {manifest.dtype!r}")
        if not isinstance(manifest.progress, dict) or manifest.complete not in (0, 1):
            raise ValueError("its progress is no progress")
        for number, shard in enumerate(manifest.shards):
            names = shard["files"].keys()
            if not names >= _ARRAYS[manifest.kind]:
                raise ValueError(f"shard {number} has the files {sorted(names)}")
            if names != manifest.shards[0]["files"].keys():
                raise ValueError(f"shard {number} has other files than the first")
            if any(not isinstance(shard[key], int) for key in _COUNTS[manifest.kind]):
                raise ValueError(f"shard {number} has no number of rows")
            if shard["rows"] < 1:
                raise ValueError(f"shard {number} has {shard['rows']} rows")
            for record in shard["files"].values():
                if any(not isinstance(record[key], _RECORD[key]) for key in _RECORD):
                    raise ValueError(f"a file of shard {number} is {record}")
                if Path(record["name"]).name != record["name"]:
                    raise ValueError(f"{record['name']!r} is not in the folder")
        # What is written twice, rows and the hash of the configuration, must agree.
        again = json.loads(manifest.to_json())
        for name in {**again, **found}:
            if again.get(name) != found.get(name):
                raise ValueError(
                    f"its {name} is {found.get(name)!r}, and by the rest of it "
                    f"{again.get(name)!r}"
                )
        return manifest

    def to_json(self) -> bytes:
        """Return the manifest as it is written."""
        text = json.dumps(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "kind": self.kind,
                "shape": [self.n_rows, self.n_columns],
                "dtype": self.dtype,
                "configuration": self.configuration,
                "configuration_sha256": configuration_hash(self.configuration),
                "progress": self.progress,
                "complete": self.complete,
                "shards": self.shards,
            },
            indent=1,
        )
        return text.encode() + b"\n"

    def check_files(self, folder: Path, whole: bool = False) -> None:
        """Raise StoreError where a shard is not as it was written."""
        for shard in self.shards:
            for record in shard["files"].values():
                check_file(folder, record, whole)


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """Return the sha256 of a configuration, whatever the order of its keys."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
