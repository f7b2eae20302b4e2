"""Activations of a language model, streamed to stores on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from skchoice.arguments import check_choice, check_integer
from skchoice.exceptions import StoreError
from skchoice.lm.contexts import Batch, Cursor, Cutting, added, batches, limited
from skchoice.lm.extract import captured, check_any, checked_sites
from skchoice.lm.hooks import capture
from skchoice.lm.models import describe
from skchoice.lm.sites import Site
from skchoice.lm.texts import Texts
from skchoice.store import TOKEN, ActivationStore, StoreWriter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def store_activations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts | Path | Iterable[Any],
    folder: str | Path,
    *,
    layers: int | Sequence[int],
    hooks: str | Sequence[str] = "resid_post",
    context_length: int = 128,
    batch_size: int = 8,
    max_tokens: int | None = None,
    drop_first: bool = True,
    drop_special: bool = True,
    attend_across_documents: bool = False,
    dtype: str = "float16",
    shard_rows: int = 65536,
    verbose: int = 0,
) -> dict[tuple[int, str], ActivationStore]:
    """Run texts through the model once, and store what is at its hook points.

    Each hook point gets a store of its own in the folder, such as
    ``layer8-resid_post``; they hold the same tokens, row for row. Memory holds one
    document and one shard of each store, however long the texts are. A run that was
    broken off, even killed, goes on where it stopped when it is called again with the
    same arguments, and ends with the same bytes. Stores that are complete are left as
    they are, so that layers can be added later.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A decoder in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the model.
    texts : Texts, Path, or iterable of str
        As for `Texts`. To go on, a run needs the same texts in the same order; that
        is checked.
    folder : str or Path
        Made if it is not there.
    layers : int or sequence of int
        Indices of blocks, from 0.
    hooks : str or sequence of str, default="resid_post"
        Read at each of the layers; as for `extract_activations`, like all that follow
        up to ``attend_across_documents``.
    context_length : int, default=128
        Tokens per context, with the special ones.
    batch_size : int, default=8
        Contexts per forward pass.
    max_tokens : int or None, default=None
        Stop after this many rows. None reads all the texts.
    drop_first : bool, default=True
        Leave out position 0 of each context, and of each document in it.
    drop_special : bool, default=True
        Leave out the tokenizer's special tokens.
    attend_across_documents : bool, default=False
        Whether documents in one context see each other.
    dtype : {"float16", "float32"}, default="float16"
        Of the stored rows.
    shard_rows : int, default=65536
        A shard ends with the batch that brings it to this many rows.
    verbose : int, default=0
        1 shows tokens per second, and the time and disk that the whole will take.

    Returns
    -------
    stores : dict of (layer, hook) to ActivationStore
        Opened for reading.

    Raises
    ------
    ValueError
        As for `extract_activations`; what was stored before stays.
    StoreError
        If a store in the folder was begun with other arguments, another model or
        other texts, or is damaged.
    OSError
        If the disk is full; what was stored before is safe.

    Examples
    --------
    With a tiny random model; see `load_model` for real ones.

    >>> import tempfile
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from skchoice.lm import store_activations
    >>> words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "cat": 2, "sat": 3}, "?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> config = GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2)
    >>> model = GPT2LMHeadModel(config).eval()
    >>> stores = store_activations(
    ...     model,
    ...     tokenizer,
    ...     ["a cat sat"] * 9,
    ...     tempfile.mkdtemp(),
    ...     layers=[0, 1],
    ...     hooks=["resid_mid", "mlp_out"],
    ... )
    >>> stores[1, "mlp_out"].shape
    (18, 8)
    """
    check_choice("dtype", dtype, ("float16", "float32"))
    check_integer("shard_rows", shard_rows, 1)
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    cutting = Cutting(context_length, attend_across_documents, drop_first, drop_special)
    sites = checked_sites(
        model,
        _listed("layers", layers),
        _listed("hooks", hooks),
        cutting,
        batch_size,
        max_tokens,
    )
    configuration = {
        **describe(model, tokenizer),
        "context_length": context_length,
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "drop_first": drop_first,
        "drop_special": drop_special,
        "attends_across_documents": attend_across_documents,
        "shard_rows": shard_rows,
    }
    folder = Path(folder)
    writers = {
        site: StoreWriter(
            folder / site.name,
            width,
            dtype=dtype,
            configuration=configuration | {"layer": site.layer, "hook": site.hook},
        )
        for site, width in zip(sites, _widths(model, sites), strict=True)
    }
    behind = {site: writer for site, writer in writers.items() if not writer.complete}
    if behind:
        run = _Run(model, behind, dtype, shard_rows)
        run.go_on(tokenizer, texts, cutting, batch_size, max_tokens, verbose)
    else:
        done = next(iter(writers.values()))
        _check_ended(tokenizer, texts, cutting, done, max_tokens)
    _check_same_texts(writers)
    return {
        (site.layer, site.hook): ActivationStore(folder / site.name) for site in sites
    }


def _listed(name: str, values: Any) -> list:
    single = isinstance(values, str) or not isinstance(values, Iterable)
    listed = [values] if single else list(dict.fromkeys(values))
    if not listed:
        raise ValueError(f"{name} must name at least one.")
    return listed


def _widths(model: PreTrainedModel, sites: list[Site]) -> list[int]:
    two = np.array([[0, 1]])
    return [rows.shape[1] for rows in capture(model, sites, two, two, two >= 0)]


def _check_ended(
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts,
    cutting: Cutting,
    done: StoreWriter,
    max_tokens: int | None,
) -> None:
    """Raise StoreError unless a complete store is of these texts, and all of them."""
    contexts = cutting.contexts(tokenizer, texts, Cursor(**done.progress["cursor"]))
    more = next(contexts, None)  # which compares what was read before
    if more is not None and (max_tokens is None or done.n_rows < max_tokens):
        raise StoreError(
            "the stores are complete, and the texts now go on after the "
            f"{done.n_rows:,} rows in them: give another folder for these texts."
        )


def _check_same_texts(writers: dict[Site, StoreWriter]) -> None:
    """Raise StoreError unless all stores, which are complete, came to the same end."""
    (first, done), *others = writers.items()
    for site, writer in others:
        if writer.progress != done.progress:
            raise StoreError(
                f"the stores {first.name} and {site.name} are complete, and of "
                "different texts: extract them to different folders."
            )


class _Run:
    """One pass of the model, and the shard of each store that is being filled."""

    def __init__(
        self,
        model: PreTrainedModel,
        writers: dict[Site, StoreWriter],
        dtype: str,
        shard_rows: int,
    ):
        self._model, self._writers = model, writers
        self._dtype, self._shard_rows = dtype, shard_rows
        # Go on from the last shard that all stores have.
        n_shards = min(writer.n_shards for writer in writers.values())
        for writer in writers.values():
            writer.keep(n_shards)
        behind = next(iter(writers.values()))
        progress = behind.progress
        self._cursor = Cursor(**progress.get("cursor", {}))
        self._dropped = progress.get("dropped", {"first": 0, "special": 0})
        self._n_rows = behind.n_rows  # on disk and held
        self._begin_shard()

    def _begin_shard(self) -> None:
        self._held: dict[Site, list[NDArray]] = {site: [] for site in self._writers}
        self._tokens: list[NDArray] = []
        self._n_held = 0

    def go_on(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Texts,
        cutting: Cutting,
        batch_size: int,
        max_tokens: int | None,
        verbose: int,
    ) -> None:
        """Run the model to the end of the texts."""
        left = None if max_tokens is None else max_tokens - self._n_rows
        contexts = cutting.contexts(tokenizer, texts, self._cursor)
        with tqdm(
            initial=self._n_rows,
            total=max_tokens,
            desc="Extracting",
            unit=" tokens",
            unit_scale=True,
            disable=not verbose,
        ) as bar:
            for batch in batches(limited(contexts, left), batch_size):
                self._hold(batch)
                self._show(bar, texts.share, max_tokens)
                if self._n_held >= self._shard_rows:
                    self._save()
        if self._n_held:
            self._save()
        check_any(self._n_rows)
        for writer in self._writers.values():
            writer.finish(self._progress())

    def _hold(self, batch: Batch) -> None:
        sites = list(self._writers)
        rows = captured(self._model, sites, batch, self._dtype, self._n_rows)
        for site, found in zip(sites, rows, strict=True):
            self._held[site].append(found)
        self._tokens.append(batch.rows())
        self._n_held += len(self._tokens[-1])
        self._n_rows += len(self._tokens[-1])
        self._cursor = batch.end
        self._dropped = added(self._dropped, batch.dropped)

    def _save(self) -> None:
        tokens = np.concatenate(self._tokens)
        for site, writer in self._writers.items():
            writer.append(np.concatenate(self._held[site]), tokens, self._progress())
        self._begin_shard()

    def _progress(self) -> dict[str, Any]:
        return {"cursor": self._cursor._asdict(), "dropped": self._dropped}

    def _show(self, bar: tqdm, share: float | None, max_tokens: int | None) -> None:
        """Show tokens per second, and what the whole will take."""
        size = sum(rows[0][:1].nbytes + TOKEN.itemsize for rows in self._held.values())
        disk = tqdm.format_sizeof(self._n_rows * size)
        if share:
            expected = self._n_rows / share
            bar.total = int(min(expected, max_tokens or expected))
        if bar.total:
            disk += f"/{tqdm.format_sizeof(bar.total * size)}"
        bar.set_postfix_str(f"{disk}B", refresh=False)
        bar.update(self._n_rows - bar.n)
