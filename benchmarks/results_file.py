"""Results in a file of JSON: there whole or not at all, and added to by later runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skchoice.files import write_atomically


def write(path: Path | None, document: Any) -> None:
    """Replace the file; no path writes nothing."""
    if path is None:
        return
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def read(path: Path) -> dict[str, dict]:
    """Return the records so far, by name."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def add(path: Path, name: str, record: dict) -> dict[str, dict]:
    """Add a record, and return all: another process may add to them, too."""
    records = read(path) | {name: record}
    write(path, records)
    return records
