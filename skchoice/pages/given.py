"""What the caller of a report gave beside the rows, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Given:
    """Names of rows and of output tokens, and how rows are drawn; None where absent."""

    tokens: Sequence | None
    document: NDArray | None
    position: NDArray | None
    classes: NDArray | None
    unembedding: NDArray | None
    vocabulary: Sequence | None
    image_shape: tuple[int, int] | None


def checked(
    X: Any,
    shape: tuple[int, int],
    tokens: Sequence | None,
    document: ArrayLike | None,
    position: ArrayLike | None,
    classes: ArrayLike | None,
    unembedding: ArrayLike | None,
    vocabulary: Sequence | None,
    image_shape: tuple[int, int] | None,
) -> Given:
    """Return what was given, with what X itself knows of its rows.

    Raises
    ------
    ValueError
        Where lengths or shapes do not fit those of X.
    """
    n_rows, n_columns = shape
    if isinstance(vocabulary, Mapping):
        raise ValueError(
            "vocabulary must have the text of token i at index i, got a mapping. Of a "
            "tokenizer: vocabulary = sorted(ids := tokenizer.get_vocab(), key=ids.get)."
        )
    tokens, vocabulary = _by_position(tokens), _by_position(vocabulary)
    if unembedding is not None:
        unembedding = _array(unembedding)
        if vocabulary is None:
            raise ValueError(
                "unembedding needs vocabulary=, the text of each of its columns."
            )
        if unembedding.shape != (n_columns, len(vocabulary)):
            raise ValueError(
                f"unembedding must have shape ({n_columns}, {len(vocabulary)}), the "
                "columns of X by the vocabulary, got "
                f"{unembedding.shape}. A language model's head is the transpose."
            )
    if image_shape is not None and (
        len(image_shape) != 2 or np.prod(image_shape) != n_columns
    ):
        raise ValueError(
            f"image_shape={image_shape} must be two sides whose product is the number "
            f"of columns of X, {n_columns}."
        )
    own = _own(X)
    if tokens is None:
        tokens = _own_tokens(own, vocabulary)
    if document is None:
        document = own["document"]
    if position is None:
        position = own["position"]
    per_row: dict[str, Any] = {
        "tokens": tokens,
        "document": document,
        "position": position,
        "classes": classes,
    }
    for name, values in per_row.items():
        if values is not None and len(values) != n_rows:
            raise ValueError(
                f"{name} must have one entry for each of the {n_rows} rows of X, got "
                f"{len(values)}."
            )
    document, position, classes = (
        None if values is None else _array(values)
        for values in (document, position, classes)
    )
    return Given(
        tokens, document, position, classes, unembedding, vocabulary, image_shape
    )


def _own(X: Any) -> dict[str, Any]:
    """Return what X says of its rows: in attributes, or as a store in one of them."""
    tokens: Any = getattr(X, "tokens", None)
    if getattr(getattr(tokens, "dtype", None), "names", None):
        fields = tokens[:]
        return {
            "tokens": None,
            "token_ids": fields["token_id"],
            "document": fields["document"],
            "position": fields["position"],
        }
    names = ("token_ids", "document", "position")
    return {"tokens": tokens} | {name: getattr(X, name, None) for name in names}


def _own_tokens(own: dict[str, Any], vocabulary: Sequence | None) -> Sequence | None:
    """Return the tokens that X carries, or what its token ids stand for."""
    tokens, ids = own["tokens"], own["token_ids"]
    if tokens is not None or ids is None:
        return tokens
    ids = _array(ids)
    if vocabulary is None:
        return [f"<{number}>" for number in ids.tolist()]
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(vocabulary):
        raise ValueError(
            f"X has token_ids from {ids.min()} to {ids.max()}, outside a vocabulary of "
            f"{len(vocabulary)}."
        )
    return [vocabulary[number] for number in ids.tolist()]


def _by_position(values: Any) -> Any:
    """Return values that an index counts through, whatever labels they have."""
    if hasattr(values, "iloc"):  # pandas looks an integer up among its labels
        return values.to_numpy()
    return values.tolist() if hasattr(values, "detach") else values


def _array(values: Any) -> NDArray:
    if hasattr(values, "detach"):  # a torch Tensor, wherever it is
        values = values.detach().float().cpu()
    return np.asarray(values)
