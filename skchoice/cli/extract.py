"""``skchoice extract``: activations of a language model, stored."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from skchoice.cli import options as shared

HOOKS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def add_to(commands: Any) -> None:
    """Add the command and its arguments."""
    add = shared.command(
        commands,
        "extract",
        run,
        "run texts through a model, store activations",
        after_interruption=shared.GOES_ON,
    )
    add("model", metavar="MODEL", help=shared.MODEL_HELP)
    add("text", metavar="FILE", type=Path, nargs="*", help=shared.TEXT_HELP)
    shared.add_dataset(add)
    add("--out", type=Path, required=True, help="folder; gets a store per hook point")
    add("--layers", type=int, nargs="+", required=True, help="blocks, from 0")
    add(
        "--hooks",
        nargs="+",
        choices=HOOKS,
        default=["resid_post"],
        metavar="HOOK",
        help=f"of {', '.join(HOOKS)} (default: resid_post)",
    )
    add("--context-length", type=int, default=128, help="tokens of a context (128)")
    add("--batch-size", type=int, default=8, help="contexts per forward pass (8)")
    add("--max-tokens", type=int, help="stop after so many rows (default: never)")
    add("--keep-first", action="store_true", help="also position 0, a sink")
    add("--keep-special", action="store_true", help="also special tokens")
    add(
        "--attend-across-documents",
        action="store_true",
        help="in one context, as in packed pre-training",
    )
    add(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="stored (float16)",
    )
    add("--shard-rows", type=int, default=65536, help="rows of a file (65536)")
    shared.add_machine(add)
    shared.add_model_dtype(add)


def run(options: argparse.Namespace) -> None:
    """Extract, and say what is stored."""
    from skchoice.lm import store_activations

    texts = shared.texts(options)
    model, tokenizer = shared.load_model(options)
    stores = store_activations(
        model,
        tokenizer,
        texts,
        options.out,
        layers=options.layers,
        hooks=options.hooks,
        context_length=options.context_length,
        batch_size=options.batch_size,
        max_tokens=options.max_tokens,
        drop_first=not options.keep_first,
        drop_special=not options.keep_special,
        attend_across_documents=options.attend_across_documents,
        dtype=options.dtype,
        shard_rows=options.shard_rows,
        verbose=not options.quiet,
    )
    for store in stores.values():
        dropped = store.progress["dropped"]
        print(
            f"{store.folder}: {store.shape[0]:,} rows of {store.shape[1]}, "
            f"{store.dtype}; dropped {dropped['first']:,} first and "
            f"{dropped['special']:,} special tokens"
        )
