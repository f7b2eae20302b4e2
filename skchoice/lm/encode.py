"""A text straight to codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skchoice.fitted import check_autoencoder
from skchoice.lm.activations import readable
from skchoice.lm.contexts import Cutting, batches
from skchoice.lm.extract import checked_sites
from skchoice.lm.hooks import capture

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EncodedText(NamedTuple):
    """Tokens and their codes, row by row.

    Parameters
    ----------
    tokens : ndarray of shape (n_tokens,), str
        All that the model saw, readable, with their leading spaces.
    token_ids : ndarray of shape (n_tokens,), int64
        In the tokenizer's vocabulary.
    codes : CSR matrix of shape (n_tokens, n_features)
        Of each token.
    encoded : ndarray of shape (n_tokens,), bool
        False for tokens that extraction drops: they have no codes.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from skchoice.lm import EncodedText
    >>> found = EncodedText(
    ...     tokens=np.array(["The", " cat"]),
    ...     token_ids=np.array([504, 2644]),
    ...     codes=sp.csr_matrix([[0.0, 0.0], [0.0, 2.5]]),
    ...     encoded=np.array([False, True]),
    ... )
    >>> for token, row in zip(found.tokens, found.codes):
    ...     print(token, row.indices)
    The []
     cat [1]
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
    model : transformers.PreTrainedModel
        A decoder in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the model.
    sae : fitted estimator
        Fitted to activations that were extracted alike.
    text : str
        One document.
    layer : int
        As for `extract_activations`, like all that follow.
    hook : str, default="resid_post"
        What is read there.
    context_length : int, default=128
        Tokens per context; a longer text is cut.
    drop_first : bool, default=True
        Leave out position 0 of each context.
    drop_special : bool, default=True
        Leave out the tokenizer's special tokens.

    Returns
    -------
    encoded : EncodedText
        All tokens of the text, with their codes.

    Raises
    ------
    ValueError
        If the text has no token, and as for `extract_activations`.

    Examples
    --------
    With a tiny random model; see `load_model` for real ones.

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from skchoice import TokenChoiceSAE
    >>> from skchoice.lm import encode_text, extract_activations
    >>> words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "cat": 2, "sat": 3}, "?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2)
    >>> model = GPT2LMHeadModel(config).eval()
    >>> found = extract_activations(model, tokenizer, ["a cat sat"] * 9, layer=1)
    >>> sae = TokenChoiceSAE(n_features=8, k=1, batch_size=6).fit(found.activations)
    >>> encoded = encode_text(model, tokenizer, sae, "a cat sat", layer=1)
    >>> encoded.codes.shape, encoded.encoded.tolist()
    ((3, 8), [False, True, True])
    """
    check_autoencoder(sae)
    if not isinstance(text, str):
        raise TypeError(f"text must be one string, got {text!r}.")
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
