"""The data sets of the study: made once in a folder, split by document.

``lm``: the residual stream of the packaged SmolLM2-135M at layer 15. ``digits``: the
images of scikit-learn. Rows of more than ten times the median norm are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skchoice.store import ActivationStore

LAYER = 15
ROWS = 420_000
HELD_OUT = 50_000


class Data(NamedTuple):
    """Rows to train on and rows of other documents, with what is known of them."""

    train: NDArray
    held_out: NDArray
    train_tokens: NDArray | None = None
    held_out_tokens: NDArray | None = None


def split(store: ActivationStore, n_train: int, n_held_out: int) -> Data:
    """Return the first rows to train on, and the last documents as held out."""
    X, tokens = np.asarray(store[:]), np.asarray(store.tokens[:])
    norms = np.linalg.norm(X.astype(np.float32), axis=1)
    kept = norms <= 10.0 * np.median(norms)
    X, tokens = X[kept], tokens[kept]
    first = tokens["document"][len(X) - n_held_out]
    held_out = np.flatnonzero(tokens["document"] > first)
    train = np.flatnonzero(tokens["document"] < first)[:n_train]
    return Data(X[train], X[held_out], tokens[train], tokens[held_out])
