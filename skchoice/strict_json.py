"""JSON of files that may be damaged or forged: one object, no key twice."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> dict[str, Any]:
    """Return the object that a text in JSON holds.

    Raises
    ------
    ValueError
        If it is no such text; among what that says is the place.
    """
    try:
        found = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not an object")
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return document
