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

    Attributes
    ----------
    clean, spliced, zero, mean : float
        Cross-entropy of the model as it is, with reconstructions in place of the
        activations, with zeros, and with the mean activation of these texts.
    kl : float
        KL divergence from the clean predictions to the spliced ones.
    recovered, recovered_mean : float
        ``(zero - spliced) / (zero - clean)``, and the same with ``mean`` for ``zero``.
        nan where the ablation changes nothing.
    interval, interval_mean : tuple of float
        95% confidence intervals of these two, over sequences: of a ratio of sums, by
        linearisation, with Student's t. Of fewer than two sequences nan.
    n_tokens, n_sequences : int
        Tokens predicted, and the contexts they are in.
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
    model, tokenizer, layer, hook, context_length, batch_size, drop_first,
    drop_special, attend_across_documents
        As for `extract_activations`; the autoencoder should have been fitted to
        activations that were extracted alike.
    texts : Texts, Path, or iterable of str
        Held-out texts. They are kept in memory as tokens.
    sae : fitted estimator, or callable
        A callable maps a Tensor of rows (n, d) to one of their replacements.
    max_tokens : int or None, default=None
        Stop after the context that brings as many rows. None reads all the texts.

    Returns
    -------
    result : LossRecovered

    Raises
    ------
    ValueError
        As for `extract_activations`.

    Examples
    --------
    >>> result = loss_recovered(
    ...     model, tokenizer, texts, sae, layer=15
    ... )  # doctest: +SKIP
    >>> result.recovered, result.interval  # doctest: +SKIP
    (0.971, (0.969, 0.973))
    """
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
