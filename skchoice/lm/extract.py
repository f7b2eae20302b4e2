"""Activations of a language model, gathered in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from skchoice.arguments import check_choice, check_integer
from skchoice.lm.activations import Activations, readable
from skchoice.lm.contexts import Batch, Cutting, added, batches, limited
from skchoice.lm.hooks import capture, keeps_documents_apart
from skchoice.lm.sites import Site, find_sites
from skchoice.lm.texts import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def extract_activations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Path | Iterable[Any],
    *,
    layer: int,
    hook: str = "resid_post",
    context_length: int = 128,
    batch_size: int = 8,
    max_tokens: int | None = None,
    drop_first: bool = True,
    drop_special: bool = True,
    attend_across_documents: bool = False,
    dtype: str = "float16",
    verbose: int = 0,
) -> Activations:
    """Run texts through the model as far as one hook point and keep what is there.

    The texts are packed: their tokens are laid end to end and cut into contexts of at
    most `context_length`. Where the tokenizer itself begins a text with a
    beginning-of-text token, so does each document in each context. For more text than
    fits memory, or several hook points at once, see `store_activations`.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A decoder in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the model.
    texts : Path, or iterable of str
        As for `Texts`; read no further than `max_tokens` needs.
    layer : int
        Index of the block that is read, from 0.
    hook : str, default="resid_post"
        "resid_pre" and "resid_post" are what enters and leaves the block, "attn_out"
        and "mlp_out" what its attention and its MLP add, and "resid_mid" what is
        between the two, in decoders where one follows the other.
    context_length : int, default=128
        Tokens per context, with the special ones.
    batch_size : int, default=8
        Contexts per forward pass.
    max_tokens : int or None, default=None
        Stop after this many rows. None reads all the texts.
    drop_first : bool, default=True
        Leave out position 0 of each context, and of each document in it. It is an
        attention sink: in SmolLM2-135M its norm is about 140 times that of other
        tokens, and a few such rows would rule the loss of an autoencoder.
        `Activations.without_outliers` leaves out the rarer sinks at other positions.
    drop_special : bool, default=True
        Leave out the tokenizer's special tokens, wherever they are from.
    attend_across_documents : bool, default=False
        False: each document in a context is as it is alone. True, as in packed
        pre-training: a token attends to all before it in its context, and an
        end-of-text token is put between two documents where the tokenizer has one.
    dtype : {"float16", "float32"}, default="float16"
        Of the stored rows.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    activations : Activations
        A row for each token that is not left out, in the order of the texts.

    Raises
    ------
    TypeError
        If `texts` is one string, or something in it is not a string.
    ValueError
        If an argument is out of range, the model is in training mode or cannot keep
        documents apart, no token is left, or an activation is not finite or does not
        fit `dtype`.

    Examples
    --------
    >>> from skchoice.lm import extract_activations, load_model, packaged_model
    >>> model, tokenizer = load_model(packaged_model())
    >>> found = extract_activations(
    ...     model, tokenizer, ["The cat sat on the mat."], layer=15
    ... )
    >>> found.tokens.tolist()
    [' cat', ' sat', ' on', ' the', ' mat', '.']
    >>> found.activations.shape, found.dropped
    ((6, 576), {'first': 1, 'special': 0, 'outlier': 0})
    """
    check_choice("dtype", dtype, ("float16", "float32"))
    cutting = Cutting(context_length, attend_across_documents, drop_first, drop_special)
    [site] = checked_sites(model, [layer], [hook], cutting, batch_size, max_tokens)
    # All tokens are read before the model runs: they are small beside the activations,
    # whose number is then known.
    contexts = cutting.contexts(tokenizer, Texts(texts))
    packed = list(batches(limited(contexts, max_tokens), batch_size))
    n_rows = sum(int(batch.keep.sum()) for batch in packed)
    check_any(n_rows)

    activations = np.empty((0, 0))  # until the first batch tells d
    tokens = np.concatenate([batch.rows() for batch in packed])
    done = 0
    with tqdm(
        total=n_rows, desc=f"Layer {layer}", unit=" tokens", disable=not verbose
    ) as bar:
        for batch in packed:
            [rows] = captured(model, [site], batch, dtype, done)
            if not activations.size:
                activations = np.empty((n_rows, rows.shape[1]), dtype)
            activations[done : done + len(rows)] = rows
            done += len(rows)
            bar.update(len(rows))
    token_ids = tokens["token_id"].astype(np.int64)
    return Activations(
        activations=activations,
        token_ids=token_ids,
        tokens=readable(tokenizer, token_ids),
        document=tokens["document"],
        position=tokens["position"].astype(np.int64),
        layer=int(layer),
        hook=hook,
        dropped=added(*(batch.dropped for batch in packed)) | {"outlier": 0},
    )


def checked_sites(
    model: PreTrainedModel,
    layers: list[int],
    hooks: list[str],
    cutting: Cutting,
    batch_size: int,
    max_tokens: int | None,
) -> list[Site]:
    """Return the hook points; raise before any work where an argument is wrong."""
    window = getattr(model.config, "max_position_embeddings", None)
    check_integer("context_length", cutting.length, 2, window)
    check_integer("batch_size", batch_size, 1)
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, 1)
    if model.training:
        raise ValueError(
            "the model is in training mode, where dropout would alter its activations: "
            "call model.eval() first."
        )
    sites = find_sites(model, layers, hooks)
    deepest = max(sites, key=lambda site: site.layer)
    across = cutting.attend_across_documents
    if not across and not keeps_documents_apart(model, deepest):
        raise ValueError(
            f"{type(model).__name__} lets documents packed into one context attend to "
            "each other: accept that with attend_across_documents=True."
        )
    return sites


def check_any(n_rows: int) -> None:
    """Raise where the texts gave no row."""
    if not n_rows:
        raise ValueError(
            "no token is left of the texts, of which position 0 and special tokens are "
            "dropped: give more text, or drop less (drop_first=False, "
            "drop_special=False; of skchoice extract, --keep-first and --keep-special)."
        )


def captured(
    model: PreTrainedModel,
    sites: list[Site],
    batch: Batch,
    dtype: str,
    first_row: int,
) -> list[np.ndarray]:
    """Run a batch and return its rows at each site, in the dtype of the result."""
    ids, position = batch.tokens["token_id"], batch.tokens["position"]
    found = capture(model, sites, ids, position, batch.keep)
    return [to_numpy(rows, dtype, first_row) for rows in found]


def to_numpy(hidden: torch.Tensor, dtype: str, first_row: int) -> np.ndarray:
    """Return rows (n, d) in a dtype, or an error: never a silent infinity."""
    rows = hidden.to(getattr(torch, dtype))
    bad = ~torch.isfinite(rows).all(dim=1)
    if bad.any():
        index = int(bad.nonzero()[0])
        largest = hidden[index].abs().max().item()
        reason = (
            f'{dtype} cannot hold it. Pass dtype="float32".'
            if np.isfinite(largest)
            else 'the model itself gave it. Load the model with dtype="float32".'
        )
        raise ValueError(
            f"row {first_row + index} has an activation of size {largest:.4g}: {reason}"
        )
    return rows.cpu().numpy()
