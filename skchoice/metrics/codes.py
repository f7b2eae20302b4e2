"""How many features fire: counts of nonzero codes, by token and by feature.

Codes may be dense, sparse or stored on disk; these are read a piece at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def l0_per_token(codes: Any) -> NDArray[np.int64]:
    """Count the matches of every token.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix, CodeStore} of shape \
            (n_tokens, n_features)
        Codes; whatever is not zero is a match. Stored zeros do not count.

    Returns
    -------
    ndarray of shape (n_tokens,), int64
        Matches per token.

    Examples
    --------
    >>> from skchoice.metrics import l0_per_token
    >>> l0_per_token([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    array([2, 1])
    """
    return _count_matches(codes, axis=1)


def l0(codes: Any) -> float:
    """Average the matches per token: the measured L0.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix, CodeStore} of shape \
            (n_tokens, n_features)
        Codes of at least one token.

    Returns
    -------
    float
        Mean matches per token.

    Examples
    --------
    >>> from skchoice.metrics import l0
    >>> l0([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    1.5
    """
    return float(l0_per_token(codes).sum() / _n_tokens(codes))


def density(codes: Any) -> NDArray[np.float64]:
    """Measure the share of tokens on which each feature fires.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix, CodeStore} of shape \
            (n_tokens, n_features)
        Codes of at least one token.

    Returns
    -------
    ndarray of shape (n_features,), float64
        Matches of each feature divided by ``n_tokens``, in [0, 1]. The densities
        sum to `l0`.

    Examples
    --------
    >>> from skchoice.metrics import density
    >>> density([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    array([0. , 0.5, 1. ])
    """
    return _count_matches(codes, axis=0) / _n_tokens(codes)


def dead_features(codes: Any) -> NDArray[np.bool_]:
    """Tell which features fire on none of the tokens.

    Parameters
    ----------
    codes : {array-like, sparse array, sparse matrix, CodeStore} of shape \
            (n_tokens, n_features)
        Codes. What "dead" means depends on how many tokens are given: a rare
        feature is silent on a short sample.

    Returns
    -------
    ndarray of shape (n_features,), bool
        True where no code of the feature is nonzero.

    Examples
    --------
    >>> from skchoice.metrics import dead_features
    >>> dead_features([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    array([ True, False, False])
    """
    return np.asarray(_count_matches(codes, axis=0) == 0)


def _count_matches(codes: Any, axis: int) -> NDArray[np.int64]:
    """Count nonzero codes per feature (axis 0) or per token (axis 1)."""
    if callable(getattr(codes, "chunks", None)):  # a CodeStore
        counts = [_count_matches(chunk, axis) for chunk in codes.chunks()]
        empty = np.zeros(codes.shape[1 - axis], dtype=np.int64)
        if axis == 0:
            return np.asarray(sum(counts, empty))
        return np.concatenate(counts) if counts else empty
    if hasattr(codes, "detach"):  # a torch Tensor, wherever it is
        codes = (codes.detach() != 0).cpu()
    codes = codes if sparse.issparse(codes) else np.asarray(codes)
    if codes.ndim != 2:
        raise ValueError(
            f"codes must be 2-D (n_tokens, n_features), got shape {codes.shape}."
        )
    if isinstance(codes, np.ndarray):
        return np.asarray(np.count_nonzero(codes, axis=axis), dtype=np.int64)
    # scipy's own count_nonzero(axis=) sorts its input in place and walks the rows
    # in Python where zeros are stored.
    coo = _canonical(codes).tocoo(copy=False)
    ids = coo.col if axis == 0 else coo.row
    n_kept = codes.shape[1 - axis]
    return np.asarray(np.bincount(ids[coo.data != 0], minlength=n_kept), np.int64)


def _canonical(codes: Any) -> Any:
    """Give CSR or CSC codes without duplicate entries, leaving the input as it is."""
    compressed = codes if codes.format in ("csr", "csc") else codes.tocsr()
    if not compressed.has_canonical_format:
        compressed = compressed.copy()
        compressed.sum_duplicates()
    return compressed


def _n_tokens(codes: Any) -> int:
    n_tokens = int(np.shape(codes)[0])
    if n_tokens == 0:
        raise ValueError("codes hold no token: the mean over tokens is undefined.")
    return n_tokens
