"""Rows of activations in memory, with the text that they are from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skchoice.arguments import check_integer, check_number

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Activations:
    """Rows of one hook of one layer, and where in the text each row is from.

    Parameters
    ----------
    activations : ndarray of shape (n_tokens, d), float16 or float32
        In the units of the model.
    token_ids : ndarray of shape (n_tokens,), int64
        In the tokenizer's vocabulary.
    tokens : ndarray of shape (n_tokens,), str
        Readable text of each token, with its leading space. A token that holds
        only part of a character reads as the replacement character, and the character
        0 as its picture, ``␀``: arrays of strings end where zeros begin.
    document : ndarray of shape (n_tokens,), int64
        Index into the texts.
    position : ndarray of shape (n_tokens,), int64
        That the model saw: counted from the beginning of the context, or of the
        document in it, before anything was dropped.
    layer : int
        Index of the block, from 0.
    hook : str
        What was read there, as `extract_activations` names it.
    dropped : dict of str to int
        How many tokens of the contexts that were run are left out, as `"first"`
        (position 0), as `"special"` (at other positions) and as `"outlier"`.

    Examples
    --------
    >>> import numpy as np
    >>> from skchoice.lm import Activations
    >>> norms = np.array([1.0, 500.0, 2.0, 1.0])
    >>> found = Activations(
    ...     activations=np.outer(norms, [1.0, 0.0]).astype(np.float16),
    ...     token_ids=np.array([7, 3, 8, 9]),
    ...     tokens=np.array([" one", ":", " two", " three"]),
    ...     document=np.zeros(4, dtype=int),
    ...     position=np.array([1, 2, 3, 4]),
    ...     layer=0,
    ...     hook="resid_post",
    ...     dropped={"first": 1, "special": 0, "outlier": 0},
    ... )
    >>> found.without_outliers().tokens.tolist()
    [' one', ' two', ' three']
    """

    activations: np.ndarray
    token_ids: np.ndarray
    tokens: np.ndarray
    document: np.ndarray
    position: np.ndarray
    layer: int
    hook: str
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.token_ids)

    def without_outliers(self, ratio: float = 10.0) -> Activations:
        """Leave out the rows whose norm is above `ratio` times the median norm.

        A model may make an attention sink of another token than the first of its
        context: SmolLM2-135M of one in 10,000, for example a line end at position 1.
        Three such rows in 36,000 hold half of the variance.

        Parameters
        ----------
        ratio : float, default=10.0
            Of a row's norm to the median of all rows; at least 1.

        Returns
        -------
        activations : Activations
            The other rows, copied; those left out are counted as dropped.
        """
        check_number("ratio", ratio, 1)
        norms = np.concatenate(
            [  # in pieces: float16 cannot hold a norm, and float32 is twice the size
                np.linalg.norm(rows.astype(np.float32), axis=1)
                for rows in np.array_split(self.activations, len(self) // 4096 + 1)
            ]
        )
        keep = norms <= ratio * np.median(norms)
        columns = ("activations", "token_ids", "tokens", "document", "position")
        n_outliers = self.dropped["outlier"] + int((~keep).sum())
        return replace(
            self,
            **{name: getattr(self, name)[keep] for name in columns},
            dropped=self.dropped | {"outlier": n_outliers},
        )


class TopContext(NamedTuple):
    """A token on which a feature fires, with the text that the model saw around it.

    Parameters
    ----------
    activation : float
        Code of the feature.
    left : str
        Text before the token.
    token : str
        The token itself.
    right : str
        Text after it.

    Examples
    --------
    >>> from skchoice.lm import TopContext
    >>> context = TopContext(2.5, left=" one", token=" two", right=" three")
    >>> f"{context.left}[{context.token}]{context.right}"
    ' one[ two] three'
    """

    activation: float
    left: str
    token: str
    right: str


def readable(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray) -> np.ndarray:
    """Return the text of each token (n,), with its leading space."""
    # Decoded alone, a token of some tokenizers loses its leading space; behind another
    # token it keeps it.
    before = tokenizer("a", add_special_tokens=False).input_ids[-1:]
    prefix = str(tokenizer.decode(before))
    distinct, inverse = np.unique(token_ids, return_inverse=True)
    texts = [str(tokenizer.decode([*before, token])) for token in distinct.tolist()]
    shown = [text.removeprefix(prefix).replace("\0", "␀") for text in texts]
    return np.array(shown)[inverse]


def top_contexts(
    activations: Activations, codes: Any, feature: int, n: int = 5, width: int = 8
) -> list[TopContext]:
    """The tokens on which a feature fires most strongly, in their contexts.

    Parameters
    ----------
    activations : Activations
        Rows with their text.
    codes : scipy sparse array or matrix of shape (n_tokens, n_features)
        Row i holds the codes of row i of `activations`.
    feature : int
        A column of `codes`.
    n : int, default=5
        At most so many are given; fewer where the feature fires on fewer tokens.
    width : int, default=8
        Tokens shown on either side. Text ends where the context or the document does,
        or where a token was dropped: beyond it the model saw something else.

    Returns
    -------
    contexts : list of TopContext
        (activation, left, token, right), the largest activation first and the earlier
        row first among equals.

    Raises
    ------
    ValueError
        If the rows of `codes` are not those of `activations`, or an argument is out of
        range.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from skchoice.lm import Activations, top_contexts
    >>> found = Activations(
    ...     activations=np.zeros((3, 4), dtype=np.float16),
    ...     token_ids=np.array([7, 8, 9]),
    ...     tokens=np.array([" one", " two", " three"]),
    ...     document=np.zeros(3, dtype=int),
    ...     position=np.array([1, 2, 3]),
    ...     layer=0,
    ...     hook="resid_post",
    ...     dropped={},
    ... )
    >>> codes = sparse.csr_array([[0.0, 0.0], [0.0, 2.5], [0.0, 0.0]])
    >>> top_contexts(found, codes, feature=1)
    [TopContext(activation=2.5, left=' one', token=' two', right=' three')]
    """
    if codes.shape[0] != len(activations):
        raise ValueError(
            f"codes have {codes.shape[0]} rows and activations {len(activations)}: "
            "expected the codes of these very activations, row for row."
        )
    check_integer("feature", feature, 0, codes.shape[1] - 1)
    check_integer("n", n, 1)
    check_integer("width", width, 0)
    column = codes[:, [feature]].tocoo()
    matches = column.data > 0
    values, rows = column.data[matches], column.coords[0][matches]
    contexts = []
    for index in np.lexsort((rows, -values))[:n]:
        row = int(rows[index])
        start, stop = _seen_together(activations, row, width)
        contexts.append(
            TopContext(
                activation=float(values[index]),
                left="".join(activations.tokens[start:row]),
                token=str(activations.tokens[row]),
                right="".join(activations.tokens[row + 1 : stop]),
            )
        )
    return contexts


def _seen_together(activations: Activations, row: int, width: int) -> tuple[int, int]:
    """The slice of rows around `row` that are one unbroken run of one text."""
    start, stop = max(row - width, 0), min(row + width + 1, len(activations))
    position = activations.position[start:stop]
    document = activations.document[start:stop]
    broken = (np.diff(position) != 1) | (np.diff(document) != 0)
    cuts = start + 1 + np.flatnonzero(broken)  # each the first row of a new run
    return (
        int(max(cuts[cuts <= row], default=start)),
        int(min(cuts[cuts > row], default=stop)),
    )
