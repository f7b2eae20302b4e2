"""A text straight to codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skchoice.lm.activations import readable
from skchoice.lm.contexts import Cutting, batches
from skchoice.lm.extract import checked_sites
from skchoice.lm.hooks import capture

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EncodedText(NamedTuple):
    """Tokens and their codes, row by row.

    Attributes
    ----------
    tokens : ndarray of shape (n_tokens,), str
        All that the model saw, readable, with their leading spaces.
    token_ids : ndarray of shape (n_tokens,), int64
    codes : CSR matrix of shape (n_tokens, n_features)
    encoded : ndarray of shape (n_tokens,), bool
        False for tokens that extraction drops: they have no codes.
    """

    tokens: np.ndarray
    token_ids: np.ndarray
    codes: sp.csr_matrix
    encoded: np.ndarray


def encode_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sae: Any,
    text: str,
    *,
    layer: int,
    hook: str = "resid_post",
    context_length: int = 128,
    drop_first: bool = True,
    drop_special: bool = True,
) -> EncodedText:
    """Run a text through the model and encode what is at a hook point.

    Parameters
    ----------
    model, tokenizer, layer, hook, context_length, drop_first, drop_special
        As for `extract_activations`; the autoencoder should have been fitted to
        activations that were extracted alike.
    sae : fitted estimator
    text : str

    Returns
    -------
    encoded : EncodedText

    Raises
    ------
    ValueError
        If the text has no token, and as for `extract_activations`.

    Examples
    --------
    >>> found = encode_text(
    ...     model, tokenizer, sae, "The cat sat.", layer=15
    ... )  # doctest: +SKIP
    >>> found.tokens.tolist(), found.codes.shape  # doctest: +SKIP
    (['The', ' cat', ' sat', '.'], (4, 4096))
    """
    cutting = Cutting(context_length, False, drop_first, drop_special)
    [site] = checked_sites(model, [layer], [hook], cutting, 1, None)
    tokens, keep, rows = [], [], []
    for batch in batches(cutting.contexts(tokenizer, [text]), 1):
        seen = batch.tokens[0]
        [found] = capture(
            model,
            [site],
            batch.tokens["token_id"],
            batch.tokens["position"],
            batch.keep,
        )
        tokens.append(seen["token_id"])
        keep.append(batch.keep[0])
        rows.append(found.float())
    if not tokens:
        raise ValueError("the text has no token.")
    token_ids = np.concatenate(tokens).astype(np.int64)
    encoded = np.concatenate(keep)
    n_features = len(sae.components_)
    codes = sp.csr_matrix((0, n_features), dtype=np.float32)
    if encoded.any():
        codes = sae._encode_sparse(torch.cat(rows))
    counts = np.zeros(len(encoded), dtype=codes.indptr.dtype)
    counts[encoded] = np.diff(codes.indptr)
    pointers = np.concatenate([[0], np.cumsum(counts)]).astype(codes.indptr.dtype)
    shape = (len(encoded), n_features)
    codes = sp.csr_matrix((codes.data, codes.indices, pointers), shape=shape)
    return EncodedText(readable(tokenizer, token_ids), token_ids, codes, encoded)
