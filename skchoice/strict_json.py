"""JSON of files that may be damaged or forged: one object, no key twice."""

from __future__ import annotations

import json
from typing import Any

# Bytes that parsing takes at most: of each value, of each key besides, and of each
# character, which is wide in a string with an escape like \u1f600.
_PER_VALUE, _PER_KEY, _PER_CHARACTER = 72, 160, 7
FREE_BYTES = 1 << 20  # what any file may take


def parse(text: str | bytes | bytearray) -> dict[str, Any]:
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


def check_room(text: str | bytes | bytearray, n_bytes: int) -> None:
    """Raise ValueError where parsing could take more memory than ``n_bytes``.

    A few characters can stand for an object of hundreds of bytes. The text must be in
    ASCII, as this library writes it; of others a single character may widen all.
    """
    if not text.isascii():
        raise ValueError("it holds characters that are not ASCII")
    count: Any = text.count
    objects, lists, commas, colons, escapes = (
        count(mark if isinstance(text, str) else mark.encode())
        for mark in ("{", "[", ",", ":", "\\u")
    )
    values = objects + lists + commas
    needed = _PER_VALUE * values + _PER_KEY * colons
    needed += (_PER_CHARACTER if escapes else 1) * len(text)
    if needed > n_bytes:
        raise ValueError(
            f"its JSON of {len(text):,} characters has up to {values:,} values, which "
            f"could take {needed:,} bytes of memory and may take {n_bytes:,}"
        )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return document
