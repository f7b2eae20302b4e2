"""Feature Choice with a million features and more: time, memory, and who is served.

    python benchmarks/gpu_scale.py --out benchmarks/results/gpu_scale.json

A feature of density ``p`` is to have a match in every ``1 / p`` tokens or so. Told is
how many features had none, of those that expected twenty, and the most matches that one
expected before it had one. Rows are made up, and on the device already.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from activations import activations
from results_file import write
from step import prepare
from timing import hardware

MUTUAL_STEPS = 50


def measure(
    X: torch.Tensor, n_features: int, k: int, batch_size: int, n_tokens: int
) -> dict:
    """Train for some tokens under caps, and look who matched."""
    device = str(X.device)
    step, state, _ = prepare(
        "feature", X, n_features, k, batch_size, 2 * MUTUAL_STEPS, None, device
    )
    while state.caps is None:
        step()
    seen = 0
    expected, owed, most_owed = np.zeros((3, n_features))
    matched = np.zeros(n_features, dtype=bool)
    start = time.perf_counter()
    while seen < n_tokens:
        step()
        seen += batch_size
        now = (state.tracker.silence == 0).cpu().numpy()
        expected += batch_size * state.caps.density
        owed += batch_size * state.caps.density
        most_owed = np.maximum(most_owed, owed)
        owed[now] = 0.0
        matched |= now
    seconds = time.perf_counter() - start
    often = expected >= 20  # of the others the tokens are too few to tell
    cuda = device.startswith("cuda")
    return {
        "n_features": n_features,
        "n_columns": X.shape[1],
        "k": k,
        "batch_size": batch_size,
        "n_tokens": seen,
        "tokens_per_second": seen / seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "never_matched": int((~matched).sum()),
        "expected_20_matches": int(often.sum()),
        "of_these_never_matched": int((~matched & often).sum()),
        "most_owed": float(most_owed.max()),
        "finite": bool(state.parameters.decoder.isfinite().all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--features", type=int, nargs="+", default=[1 << 20, 1 << 22])
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--rows", type=int, default=131072)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=1 << 22, help="under caps")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    there = activations(None, options.rows, options.columns)
    X = torch.from_numpy(there).to(options.device)
    document = {**hardware(options.device), "results": []}
    for n_features in options.features:
        one = measure(X, n_features, options.k, options.batch_size, options.tokens)
        document["results"].append(one)
        write(options.out, document)
        print(one, flush=True)


if __name__ == "__main__":
    main()
