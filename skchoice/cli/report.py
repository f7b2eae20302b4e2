"""``skchoice report``: a page on which to look at the features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import skchoice
from skchoice.cli import options as shared
from skchoice.store import ActivationStore


def add_to(commands: Any) -> None:
    """Add the command and its arguments."""
    add = shared.command(
        commands, "report", run, "write a page on which to look at the features"
    )
    shared.add_sae(add)
    add("store", metavar="STORE", type=Path, help="activations to look at")
    add("--out", type=Path, default="report.html", help="HTML file (report.html)")
    of_tokens = "that the store is of, for the text of tokens: "
    add("--model", help=of_tokens + shared.MODEL_HELP)
    shared.add_machine(add)
    shared.add_model_dtype(add)


def run(options: argparse.Namespace) -> None:
    """Write the page, and say where."""
    sae, store = skchoice.load(options.sae), ActivationStore(options.store)
    of_model = _of_output_tokens(options, store) if options.model else {}
    path = skchoice.report(
        sae, store, path=options.out, verbose=not options.quiet, **of_model
    )
    print(f"{path}: {len(sae.components_):,} features on {len(store):,} rows")


def _of_output_tokens(
    options: argparse.Namespace, store: ActivationStore
) -> dict[str, Any]:
    """Return the output tokens of the model, and its map to their logits."""
    from skchoice.lm.activations import readable

    shared.check_of_model(options.store, store.configuration)
    model, tokenizer = shared.load_model(options, store.configuration)
    head = model.get_output_embeddings().weight
    return {
        "unembedding": head.T,
        "vocabulary": readable(tokenizer, np.arange(len(head))).tolist(),
    }
