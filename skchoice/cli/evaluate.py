"""``skchoice evaluate``: how good a model is on activations held out."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import skchoice
from skchoice import metrics
from skchoice.cli import options as shared
from skchoice.store import ActivationStore


def add_to(commands: Any) -> None:
    """Add the command and its arguments."""
    add = shared.command(
        commands,
        "evaluate",
        run,
        "measure explained variance, L0 and the next-token loss recovered",
    )
    shared.add_sae(add)
    shared.add_rows(add, "held-out activations")
    add("--model", help="for the loss recovered: " + shared.MODEL_HELP)
    held_out = "held-out: " + shared.TEXT_HELP
    add("--text", metavar="FILE", type=Path, nargs="+", help=held_out)
    shared.add_dataset(add)
    add(
        "--max-tokens",
        type=int,
        default=20_000,
        help="of text, for the loss: up to the end of a context (20000)",
    )
    shared.add_machine(add)
    shared.add_model_dtype(add)


def run(options: argparse.Namespace) -> None:
    """Measure, and write what was found as JSON."""
    if bool(options.model) != bool(options.text or options.dataset):
        raise ValueError("the loss recovered needs both, --model and --text.")
    sae, store = skchoice.load(options.sae), ActivationStore(options.store)
    loss = {"loss": _loss(options, sae, store.configuration)} if options.model else {}
    rows = shared.rows(options, store)
    codes = sae.transform(rows)
    results: dict[str, Any] = {
        "n_rows": len(rows),
        "explained_variance": sae.score(rows),
        "l0": metrics.l0(codes),
        "silent_features": int(metrics.dead_features(codes).sum()),
    }
    print(json.dumps(results | loss, indent=1))


def _loss(options: argparse.Namespace, sae: Any, made: dict) -> dict:
    """Return the loss recovered at the hook point that the store is of."""
    from skchoice.lm import loss_recovered

    shared.check_of_model(options.store, made)
    texts = shared.texts(options)
    model, tokenizer = shared.load_model(options, made)
    result = loss_recovered(
        model,
        tokenizer,
        texts,
        sae,
        layer=made["layer"],
        hook=made["hook"],
        context_length=made["context_length"],
        batch_size=made["batch_size"],
        max_tokens=options.max_tokens,
        drop_first=made["drop_first"],
        drop_special=made["drop_special"],
        attend_across_documents=made["attends_across_documents"],
    )
    return {name: _in_json(value) for name, value in vars(result).items()}


def _in_json(value: Any) -> Any:
    """Return numbers with null for nan, which JSON does not know."""
    if isinstance(value, tuple):
        return [_in_json(number) for number in value]
    return value if math.isfinite(value) else None
