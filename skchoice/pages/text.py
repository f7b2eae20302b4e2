"""Tokens as a page may show them: legible, of one line, inert."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_CHARACTERS = 48
_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍"}
# Control, format (bidirectional marks, zero width), surrogate, private, unassigned,
# line and paragraph separators: a page would obey them, or show nothing.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_COMBINING = {"Mn", "Me", "Mc"}
_MAX_COMBINING = 2  # marks on one character: more would draw over the neighbours


def legible(token: Any) -> str:
    r"""Return the text that stands for a token on a page.

    Line ends and tabs become signs; characters that are invisible, or that would
    change how their neighbours are laid out, become escapes; bytes that are not UTF-8
    become escapes; a long token is cut, and says how long it was.

    Parameters
    ----------
    token : str, bytes or object
        Bytes are read as UTF-8; other objects as their `str`.

    Returns
    -------
    str

    Examples
    --------
    >>> from skchoice.pages.text import legible
    >>> legible(" the"), legible("\n"), legible("a\u202eb"), legible(b"\xff")
    (' the', '↵', 'a\\u202eb', '\\xff')
    """
    if isinstance(token, bytes):
        token = token.decode("utf-8", "backslashreplace")
    token = str(token)
    if not token:
        return "∅"
    shown, n_marks = [], 0
    for character in token[:_MAX_CHARACTERS]:
        category = unicodedata.category(character)
        n_marks = n_marks + 1 if category in _COMBINING else 0
        if n_marks > _MAX_COMBINING:
            continue
        if character in _SIGNS:
            shown.append(_SIGNS[character])
        elif category in _UNSEEN:
            shown.append(ascii(character)[1:-1])
        else:
            shown.append(character)
    if unicodedata.category(token[0]) in _COMBINING:
        shown.insert(0, "◌")  # or the mark would land on the token before
    if len(token) > _MAX_CHARACTERS:
        shown.append(f"… ({len(token):,} characters)")
    return "".join(shown)


def token_class(token: Any) -> str:
    """Return the kind of a token, by its characters alone.

    Examples
    --------
    >>> from skchoice.pages.text import token_class
    >>> [token_class(token) for token in (" the", "ing", " 12", ").", " ")]
    ['word, after a space', 'word or part, no space', 'number', 'punctuation', 'space']
    """
    if isinstance(token, bytes):
        token = token.decode("utf-8", "backslashreplace")
    token = str(token)
    core = token.strip()
    if not core:
        return "space"
    if core.isnumeric():
        return "number"
    if not any(character.isalnum() for character in core):
        return "punctuation"
    return "word, after a space" if token[0].isspace() else "word or part, no space"


class Windows:
    """Which neighbouring rows belong to one stretch of text.

    Parameters
    ----------
    n_rows : int
    width : int
        Rows on either side of the one in the middle.
    document, position : array of shape (n_rows,) or None
        A stretch ends where the document changes or the position does not go on by
        one: beyond, the model saw something else.
    """

    def __init__(
        self,
        n_rows: int,
        width: int,
        document: NDArray | None = None,
        position: NDArray | None = None,
    ):
        self.n_rows, self.width = n_rows, width
        broken = np.zeros(max(n_rows - 1, 0), dtype=bool)
        if document is not None:
            broken |= document[1:] != document[:-1]
        if position is not None:
            broken |= position[1:] != position[:-1] + 1
        self._cuts = np.flatnonzero(broken) + 1  # each the first row of a stretch

    def around(self, row: int) -> tuple[int, int]:
        """Return the first row of the window of a row, and the one after its last."""
        first, stop = max(row - self.width, 0), min(row + self.width + 1, self.n_rows)
        at = int(np.searchsorted(self._cuts, row, side="right"))
        if at > 0:
            first = max(first, int(self._cuts[at - 1]))
        if at < len(self._cuts):
            stop = min(stop, int(self._cuts[at]))
        return first, stop


def classes_of(tokens: Sequence) -> NDArray:
    """Return the class of each token."""
    known: dict[Any, str] = {}
    for token in tokens:
        if token not in known:
            known[token] = token_class(token)
    return np.array([known[token] for token in tokens])
