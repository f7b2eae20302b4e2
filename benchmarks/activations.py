"""Rows to measure with: real ones from a file or a store, or made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skchoice.store import ActivationStore


def activations(path: Path | None, n_rows: int, n_columns: int) -> NDArray:
    """Load float32 rows from .npy, .npz or the folder of a store, or make them up.

    Made-up rows are sums of 32 of many directions, whose frequencies follow Zipf's law,
    and noise; a file says itself how many rows and columns there are.
    """
    if path is None:
        return _made_up(n_rows, n_columns)
    if path.is_dir():
        return np.asarray(ActivationStore(path)[:], dtype=np.float32)
    loaded = np.load(path)
    if path.suffix == ".npz":
        loaded = loaded["activations"]
    return loaded.astype(np.float32)


def _made_up(n_rows: int, n_columns: int) -> NDArray:
    rng = np.random.default_rng(0)
    n_directions = 4 * n_columns
    directions = rng.standard_normal((n_directions, n_columns), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    frequency = 1.0 / np.arange(1, n_directions + 1)
    chosen = rng.choice(n_directions, (n_rows, 32), p=frequency / frequency.sum())
    strength = rng.gamma(2.0, size=chosen.shape).astype(np.float32)
    X = np.stack(
        [s @ directions[c] for s, c in zip(strength, chosen, strict=True)]
    ) + 0.1 * rng.standard_normal((n_rows, n_columns), dtype=np.float32)
    return X.astype(np.float32)
