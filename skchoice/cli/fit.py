"""``skchoice fit``: a sparse autoencoder of stored activations."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from skchoice.cli import options as shared
from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.store import ActivationStore

_RULES = {
    "feature": FeatureChoiceSAE,
    "mutual": MutualChoiceSAE,
    "token": TokenChoiceSAE,
}


def add_to(commands: Any) -> None:
    """Add the command and its arguments."""
    add = shared.command(
        commands,
        "fit",
        run,
        "fit a sparse autoencoder to stored activations",
        after_interruption=(
            "With --checkpoints the same command goes on from the last one."
        ),
    )
    shared.add_rows(add, "folder with a manifest.json")
    add("--out", type=Path, required=True, help="where the fitted model is saved")
    add(
        "--rule",
        choices=_RULES,
        default="feature",
        help="who chooses matches (feature)",
    )
    add("--n-features", type=int, help="size of the dictionary (8 times the columns)")
    add("--k", type=_number, default=32, help="matches per token (32)")
    add("--max-iter", type=int, default=10, help="passes over the store (10)")
    add("--batch-size", type=int, help="rows of a training step (more for longer runs)")
    add(
        "--learning-rate",
        type=lambda text: _number(text, "auto"),
        default="auto",
        help="of Adam (auto: by the width of the rows)",
    )
    add(
        "--checkpoints",
        metavar="FOLDER",
        help="the same command goes on from there after an interruption",
    )
    add("--seed", type=int, default=0, help="of initialisation and row order (0)")
    shared.add_machine(add)


def _number(text: str, *words: str) -> float | int | str:
    """Return a number, or one of the words that may stand for one."""
    if text in words:
        return text
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError as error:
        message = f"must be {' or '.join(('a number', *words))}, got {text!r}"
        raise argparse.ArgumentTypeError(message) from error


def run(options: argparse.Namespace) -> None:
    """Fit, save, and say how it went."""
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
    _save(sae.fit(shared.rows(options, store)), options.out)
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
