"""Reconstructions spliced back into the model: what they cost in next-token loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from skchoice.fitted import check_autoencoder
from skchoice.lm.contexts import PAD, Batch, Context, Cutting, batches
from skchoice.lm.extract import check_any, checked_sites
from skchoice.lm.hooks import capture, forward, spliced
from skchoice.lm.sites import Site
from skchoice.lm.texts import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Replace = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossRecovered:
    """Next-token losses in nats per token, pooled over all tokens.

    Parameters
    ----------
    clean : float
        Cross-entropy of the model as it is.
    spliced : float
        The same with reconstructions in place of the activations.
    zero : float
        The same with zeros there.
    mean : float
        The same with the mean activation of these texts there.
    kl : float
        KL divergence from the clean predictions to the spliced ones.
    recovered : float
        ``(zero - spliced) / (zero - clean)``; nan where the ablation changes nothing.
    interval : tuple of float
        95% confidence interval of ``recovered`` over sequences: of a ratio of sums, by
        linearisation, with Student's t. Of fewer than two sequences nan.
    recovered_mean : float
        As ``recovered``, with ``mean`` for ``zero``.
    interval_mean : tuple of float
        As ``interval``, of ``recovered_mean``.
    n_tokens : int
        Tokens predicted.
    n_sequences : int
        Contexts they are in.

    Examples
    --------
    >>> from skchoice.lm import LossRecovered
    >>> nan = float("nan")
    >>> result = LossRecovered(
    ...     clean=3.0,
    ...     spliced=3.5,
    ...     zero=13.0,
    ...     mean=8.0,
    ...     kl=0.5,
    ...     recovered=0.95,
    ...     interval=(nan, nan),
    ...     recovered_mean=0.9,
    ...     interval_mean=(nan, nan),
    ...     n_tokens=127,
    ...     n_sequences=1,
    ... )
    >>> result.spliced - result.clean  # nats per token
    0.5
    """

    clean: float
    spliced: float
    zero: float
    mean: float
    kl: float
    recovered: float
    interval: tuple[float, float]
    recovered_mean: float
    interval_mean: tuple[float, float]
    n_tokens: int
    n_sequences: int


def loss_recovered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts | Path | Iterable[Any],
    sae: Any,
    *,
    layer: int,
    hook: str = "resid_post",
    context_length: int = 128,
    batch_size: int = 8,
    max_tokens: int | None = None,
    drop_first: bool = True,
    drop_special: bool = True,
    attend_across_documents: bool = False,
) -> LossRecovered:
    """Measure how much of the model's next-token loss reconstructions keep.

    Positions that extraction drops were never inputs of the autoencoder, and pass
    through unchanged.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A decoder in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the model.
    texts : Texts, Path, or iterable of str
        Held-out texts. They are kept in memory as tokens.
    sae : fitted estimator, or callable
        Fitted to activations that were extracted alike. A callable maps a Tensor of
        rows (n, d) to one of their replacements.
    layer : int
        As for `extract_activations`, like all that follow but ``max_tokens``.
    hook : str, default="resid_post"
        Where rows are replaced.
    context_length : int, default=128
        Tokens per context.
    batch_size : int, default=8
        Contexts per forward pass.
    max_tokens : int or None, default=None
        Stop after the context that brings as many rows. None reads all the texts.
    drop_first : bool, default=True
        Position 0 of each document in each context passes through.
    drop_special : bool, default=True
        Special tokens pass through.
    attend_across_documents : bool, default=False
        Whether documents in one context see each other.

    Returns
    -------
    result : LossRecovered
        The losses, and the share that is kept with its confidence interval.

    Raises
    ------
    ValueError
        As for `extract_activations`.

    Examples
    --------
    With a tiny random model (see `load_model` for real ones), and rows that are put
    back as they are:

    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from skchoice.lm import loss_recovered
    >>> words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "cat": 2, "sat": 3}, "?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2)
    >>> model = GPT2LMHeadModel(config).eval()
    >>> result = loss_recovered(
    ...     model, tokenizer, ["a cat sat"] * 9, lambda rows: rows, layer=1
    ... )
    >>> result.recovered, result.n_tokens
    (1.0, 18)
    """
    if not callable(sae):
        check_autoencoder(sae)
    cutting = Cutting(context_length, attend_across_documents, drop_first, drop_special)
    [site] = checked_sites(model, [layer], [hook], cutting, batch_size, max_tokens)
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    contexts = _enough(cutting.contexts(tokenizer, texts), max_tokens)
    packed = list(batches(contexts, batch_size))
    check_any(sum(int(batch.keep.sum()) for batch in packed))
    mean = _mean(model, site, packed)
    replacements = {
        "spliced": sae if callable(sae) else _reconstruction(sae),
        "zero": torch.zeros_like,
        "mean": lambda rows: mean.to(rows).expand_as(rows),
    }
    parts = [_sums(model, site, batch, replacements) for batch in packed]
    sums = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    n_tokens = sums["n_tokens"].sum()
    if not n_tokens:
        raise ValueError("no token is predicted: the texts have one token each.")
    losses = {
        name: float(values.sum() / n_tokens)
        for name, values in sums.items()
        if name != "n_tokens"
    }
    recovered, interval = _ratio(sums, "zero")
    recovered_mean, interval_mean = _ratio(sums, "mean")
    return LossRecovered(
        **losses,
        recovered=recovered,
        interval=interval,
        recovered_mean=recovered_mean,
        interval_mean=interval_mean,
        n_tokens=int(n_tokens),
        n_sequences=int((sums["n_tokens"] > 0).sum()),
    )


def _enough(contexts: Iterable[Context], n_rows: int | None) -> Iterator[Context]:
    """Yield whole contexts until they hold ``n_rows``."""
    found = 0
    for context in contexts:
        yield context
        found += int(context.keep.sum())
        if n_rows is not None and found >= n_rows:
            return


def _reconstruction(sae: Any) -> Replace:
    def reconstruct(rows: Tensor) -> Tensor:
        codes = sae._encode_sparse(rows.float())
        return torch.from_numpy(sae.inverse_transform(codes)).to(rows)

    return reconstruct


def _mean(model: PreTrainedModel, site: Site, packed: list[Batch]) -> Tensor:
    """Return the mean of the rows, (d,), float64."""
    sums, n_rows = [], 0
    for batch in packed:
        [rows] = capture(model, [site], *_inputs(batch), batch.keep)
        sums.append(rows.double().sum(0))
        n_rows += len(rows)
    return torch.stack(sums).sum(0) / n_rows


def _inputs(batch: Batch) -> tuple[NDArray, NDArray]:
    return batch.tokens["token_id"], batch.tokens["position"]


@torch.no_grad()
def _sums(
    model: PreTrainedModel,
    site: Site,
    batch: Batch,
    replacements: dict[str, Replace],
) -> dict[str, NDArray]:
    """Return sums over the tokens of each context, each (n_contexts,) float64."""
    ids, position = _inputs(batch)
    # A token is predicted where the one before it is of the same text.
    predicted = (np.diff(position, axis=1) == 1) & (
        batch.tokens["document"][:, 1:] != PAD
    )
    mask = torch.from_numpy(batch.keep)
    targets = torch.from_numpy(ids[:, 1:].astype(np.int64))

    def log_probabilities() -> list[Tensor]:
        logits = forward(model, ids, position).logits[:, :-1]
        return [
            row[torch.from_numpy(where).to(row.device)].float().log_softmax(-1)
            for row, where in zip(logits, predicted, strict=True)
        ]

    def losses(found: list[Tensor]) -> NDArray:
        sums = []
        for rows, goal, where in zip(found, targets, predicted, strict=True):
            goal = goal[torch.from_numpy(where)].to(rows.device)
            sums.append(-rows.gather(1, goal[:, None]).double().sum().item())
        return np.array(sums)

    clean = log_probabilities()
    sums = {"n_tokens": predicted.sum(1).astype(np.float64), "clean": losses(clean)}
    for name, replace in replacements.items():
        with spliced(site, _at(mask, replace)):
            found = log_probabilities()
        sums[name] = losses(found)
        if name == "spliced":
            sums["kl"] = np.array(
                [
                    (p.exp() * (p - q)).double().sum().item()
                    for p, q in zip(clean, found, strict=True)
                ]
            )
    return sums


def _at(mask: Tensor, replace: Replace) -> Replace:
    """Return a function that replaces some rows of a batch and no others."""

    def at_rows(hidden: Tensor) -> Tensor:
        where = mask.to(hidden.device)
        changed = hidden.clone()
        changed[where] = replace(hidden[where]).to(hidden.dtype)
        return changed

    return at_rows


def _ratio(
    sums: dict[str, NDArray], ablation: str
) -> tuple[float, tuple[float, float]]:
    """Return the loss recovered and its confidence interval over sequences."""
    gained = sums[ablation] - sums["spliced"]
    possible = sums[ablation] - sums["clean"]
    n = int((sums["n_tokens"] > 0).sum())
    if possible.sum() == 0:
        return math.nan, (math.nan, math.nan)
    ratio = float(gained.sum() / possible.sum())
    if n < 2:
        return ratio, (math.nan, math.nan)
    residual = gained - ratio * possible
    variance = n / (n - 1) * np.square(residual).sum() / possible.sum() ** 2
    reach = float(stats.t.ppf(0.975, n - 1) * math.sqrt(variance))
    return ratio, (ratio - reach, ratio + reach)
