"""The rows of a data set, split by document, with what is known of each token."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import data
import numpy as np
from numpy.typing import NDArray

from skchoice.store import ActivationStore

# Rows to train on and held out, at most.
SIZES = {"lm": (340_000, 30_000), "minilm": (60_000, 8_000), "digits": (1437, 360)}


class Rows(NamedTuple):
    """Rows to train on and rows of other documents; tokens where they are of text."""

    train: NDArray
    held_out: NDArray
    train_tokens: NDArray | None
    held_out_tokens: NDArray | None


def load(name: str, folder: Path) -> Rows:
    """Return a data set, made in the folder if it is not there yet."""
    X = data.SETS[name](folder)
    tokens = _tokens(name, folder)
    norms = np.linalg.norm(X.astype(np.float32), axis=1)
    kept = norms <= data.OUTLIER * np.median(norms)
    X = X[kept]
    n_train, n_held_out = SIZES[name]
    if tokens is None:
        return Rows(X[:n_train], X[-n_held_out:], None, None)
    tokens = tokens[kept]
    document = tokens["document"]
    between = document[len(X) - n_held_out]
    train = np.flatnonzero(document < between)[:n_train]
    held_out = np.flatnonzero(document > between)
    return Rows(X[train], X[held_out], tokens[train], tokens[held_out])


def _tokens(name: str, folder: Path) -> NDArray | None:
    if name == "lm":
        store = ActivationStore(folder / "lm" / f"layer{data.LM_LAYER}-resid_post")
        return np.asarray(store.tokens[:])
    if name == "minilm":
        return np.load(folder / "minilm_tokens.npy")
    return None
