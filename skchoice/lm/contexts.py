"""Texts cut into the contexts that the model sees, and those gathered in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skchoice.exceptions import StoreError
from skchoice.store import TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = -1  # the document of a place in a batch that holds no token


class Cursor(NamedTuple):
    """Where in the texts the next context begins.

    ``texts_sha256`` is of all documents as far as ``document``, so that other texts
    are told apart.
    """

    document: int = 0
    token: int = 0
    texts_sha256: str = ""


class Context(NamedTuple):
    """Tokens that the model sees together."""

    tokens: NDArray  # (n,) of dtype TOKEN
    keep: NDArray[np.bool_]  # (n,): the tokens that become rows
    dropped: dict[str, int]
    end: Cursor


class Batch(NamedTuple):
    """Contexts for one forward pass, padded on the right.

    There causal attention lets no token see the padding, which so needs neither a mask
    nor a token of its own.
    """

    tokens: NDArray  # (n_contexts, length) of dtype TOKEN, document PAD in the padding
    keep: NDArray[np.bool_]  # (n_contexts, length)
    dropped: dict[str, int]
    end: Cursor

    def rows(self) -> NDArray:
        """Return the tokens that become rows, (n_rows,) of dtype TOKEN."""
        return self.tokens[self.keep]


@dataclass(frozen=True)
class Cutting:
    """How texts are cut into contexts, and what of them is kept.

    Parameters
    ----------
    length : int
        Tokens of a context, with the special ones.
    attend_across_documents : bool
        False: each document, and each part of one that does not fit, begins at
        position 0 as a text of its own. True: positions run through a context, with an
        end-of-text token between two documents where the tokenizer has one.
    drop_first, drop_special : bool
        Whether tokens at position 0, and special tokens, are left out.
    """

    length: int
    attend_across_documents: bool
    drop_first: bool
    drop_special: bool

    def contexts(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Iterable[str],
        start: Cursor | None = None,
    ) -> Iterator[Context]:
        """Yield contexts from a place in the texts on.

        Raises
        ------
        StoreError
            If the texts before that place are others than those that led to it.
        """
        start = start or Cursor()
        # Where the tokenizer begins a text with this token, so does each context.
        begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        opening = [tokenizer.bos_token_id] if begins else []
        across, separator = self.attend_across_documents, tokenizer.eos_token_id
        special = tokenizer.all_special_ids if self.drop_special else []
        digest = hashlib.sha256()
        ids: list[int] = []
        document: list[int] = []
        position: list[int] = []

        def finished(end: int) -> Context:
            tokens = np.empty(len(ids), TOKEN)
            tokens["token_id"], tokens["document"] = ids, document
            tokens["position"] = position
            context = self._context(
                tokens, special, Cursor(number, end, digest.hexdigest())
            )
            for filled in (ids, document, position):
                filled.clear()
            return context

        number = offset = -1
        for number, text in enumerate(texts):
            digest.update(f"{len(text)} ".encode())
            digest.update(_encoded(text, number))
            if number < start.document:
                continue
            if number == start.document and start.texts_sha256:
                _check_texts(digest.hexdigest(), start)
            # verbose=False: a text longer than the model's window is no mistake here.
            found = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            offset = start.token if number == start.document else 0
            begun = False
            while offset < len(found):
                if not across and ids and self.length - len(ids) < 2:
                    # Its first token alone would be no use to anyone.
                    yield finished(offset)
                fresh = not ids or (not across and not begun)
                head = opening if fresh else []
                if across and ids and not begun and separator is not None:
                    head = [separator]
                begun = True
                room = self.length - len(ids) - len(head)
                piece = [*head, *found[offset : offset + room]]
                first = 0 if fresh else position[-1] + 1
                ids += piece
                document += [number] * len(piece)
                position += range(first, first + len(piece))
                offset += len(piece) - len(head)
                if len(ids) == self.length:
                    yield finished(offset)
        if number < start.document and start.texts_sha256:
            _check_texts(digest.hexdigest(), start)
        if ids:
            yield finished(offset)

    def _context(self, tokens: NDArray, special: list[int], end: Cursor) -> Context:
        first = (tokens["position"] == 0) & bool(self.drop_first)
        others = np.isin(tokens["token_id"], special) & ~first
        dropped = {"first": int(first.sum()), "special": int(others.sum())}
        return Context(tokens, ~first & ~others, dropped, end)


def _encoded(text: str, number: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"document {number} of the texts has half of a surrogate pair at character "
            f"{error.start}, which is no text: read it with errors='replace'."
        ) from error


def _check_texts(digest: str, start: Cursor) -> None:
    if digest != start.texts_sha256:
        raise StoreError(
            "the texts are not those that the store was begun with: their sha256 as "
            f"far as document {start.document} is {digest}, expected "
            f"{start.texts_sha256}. Give the same texts in the same order, or another "
            "folder."
        )


def limited(contexts: Iterable[Context], n_rows: int | None) -> Iterator[Context]:
    """Yield contexts until they have given ``n_rows``; the last keeps fewer tokens."""
    if n_rows == 0:
        return
    left = n_rows
    for context in contexts:
        if left is not None:
            context = context._replace(
                keep=context.keep & (np.cumsum(context.keep) <= left)
            )
            left -= int(context.keep.sum())
        yield context
        if left == 0:
            return


def batches(contexts: Iterable[Context], size: int) -> Iterator[Batch]:
    """Yield contexts in batches of ``size``; the last may be smaller."""
    held: list[Context] = []
    for context in contexts:
        held.append(context)
        if len(held) == size:
            yield _padded(held)
            held = []
    if held:
        yield _padded(held)


def _padded(contexts: list[Context]) -> Batch:
    length = max(len(context.tokens) for context in contexts)
    tokens = np.zeros((len(contexts), length), TOKEN)
    tokens["document"] = PAD
    tokens["position"] = np.arange(length)
    keep = np.zeros(tokens.shape, bool)
    for row, context in enumerate(contexts):
        n = len(context.tokens)
        tokens[row, :n], keep[row, :n] = context.tokens, context.keep
        # Positions go on in the padding: it is no document of its own.
        tokens["position"][row, n:] = context.tokens["position"][-1] + np.arange(
            1, length - n + 1
        )
    return Batch(tokens, keep, added(*(c.dropped for c in contexts)), contexts[-1].end)


def added(*counts: dict[str, int]) -> dict[str, int]:
    """Return the sums of counts, name by name."""
    return {name: sum(count[name] for count in counts) for name in counts[0]}
