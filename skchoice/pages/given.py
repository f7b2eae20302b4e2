"""What the caller of a report gave beside the rows, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skchoice.inputs import as_array


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
    TypeError
        Where what names rows or tokens is no sequence.
    ValueError
        Where lengths, shapes or types do not fit X.
    """
    n_rows, n_columns = shape
    if isinstance(vocabulary, Mapping):
        raise ValueError(
            "vocabulary must have the text of token i at index i, got a mapping. Of a "
            "tokenizer: vocabulary = sorted(ids := tokenizer.get_vocab(), key=ids.get)."
        )
    tokens = _sequence("tokens", tokens)
    vocabulary = _sequence("vocabulary", vocabulary)
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
        if unembedding.dtype.kind not in "iuf" or not np.isfinite(unembedding).all():
            raise ValueError("unembedding must be finite numbers.")
    if image_shape is not None and not _are_sides(image_shape, n_columns):
        raise ValueError(
            f"image_shape={image_shape} must be two sides whose product is the number "
            f"of columns of X, {n_columns}."
        )
    own = _own(X)
    if tokens is None:
        tokens = _own_tokens(own, vocabulary)
    elif vocabulary is not None and np.asarray(tokens[:1]).dtype.kind in "iu":
        tokens = _named(tokens, vocabulary)
    if document is None:
        document = own["document"]
    if position is None:
        position = own["position"]
    document, position, classes = (
        None if values is None else _array(_sequence(name, values))
        for name, values in (
            ("document", document),
            ("position", position),
            ("classes", classes),
        )
    )
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
    if classes is not None and classes.dtype.kind == "O":  # perhaps of no order
        classes = classes.astype(str)
    if position is not None and (
        position.dtype.kind not in "iuf" or (position != np.rint(position)).any()
    ):
        raise ValueError(
            "position must be integers, where the model saw each row in its context: "
            f"got {position.dtype} with {position[:3].tolist()}."
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
    if vocabulary is None:
        return [f"<{number}>" for number in _array(ids).tolist()]
    return _named(ids, vocabulary)


def _named(ids: ArrayLike, vocabulary: Sequence) -> list:
    """Return the texts that token ids stand for."""
    ids = _array(ids)
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(vocabulary):
        raise ValueError(
            f"The ids of tokens go from {ids.min()} to {ids.max()}, outside a "
            f"vocabulary of {len(vocabulary)}."
        )
    return [vocabulary[number] for number in ids.tolist()]


def _sequence(name: str, values: Any) -> Any:
    """Return values that an index counts through, whatever labels they have."""
    if hasattr(values, "iloc"):  # pandas looks an integer up among its labels
        values = values.to_numpy()
    elif hasattr(values, "detach"):
        values = values.tolist()
    elif values is not None and (
        isinstance(values, str | bytes | Mapping) or not hasattr(values, "__getitem__")
    ):
        raise TypeError(
            f"{name} must be a list or an array, got {type(values).__name__}."
        )
    if getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{name} must have one dimension, got {values.shape}.")
    return values


def _array(values: Any) -> NDArray:
    return np.asarray(as_array(values))


def _are_sides(image_shape: Any, n_columns: int) -> bool:
    if not isinstance(image_shape, Sequence) or len(image_shape) != 2:
        return False
    if not all(isinstance(side, Integral) for side in image_shape):
        return False
    return image_shape[0] * image_shape[1] == n_columns
