"""``skchoice encode``: the codes of stored activations, stored."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import skchoice
from skchoice.cli import options as shared
from skchoice.code_store import encode_store
from skchoice.store import ActivationStore


def add_to(commands: Any) -> None:
    """Add the command and its arguments."""
    add = shared.command(
        commands,
        "encode",
        run,
        "encode stored activations, store the codes",
        after_interruption=shared.GOES_ON,
    )
    shared.add_sae(add)
    add("store", metavar="STORE", type=Path, help="folder with a manifest.json")
    add("--out", type=Path, required=True, help="folder for the codes")
    add("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Encode, and say how many matches there are."""
    sae = skchoice.load(options.sae)
    codes = encode_store(
        sae, ActivationStore(options.store), options.out, verbose=not options.quiet
    )
    print(
        f"{options.out}: codes of {codes.shape[0]:,} rows, {codes.shape[1]:,} "
        f"features, {codes.nnz / max(len(codes), 1):.2f} matches per row"
    )
