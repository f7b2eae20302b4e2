"""Time of ``transform`` to CSR over the time of the product it contains.

    python benchmarks/transform.py --out benchmarks/results/transform.json

The product is that of all rows and all features at once, in float32, into a
preallocated output. Models are fitted for one pass, so that their codes are like codes.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from activations import activations
from step import ARMS
from timing import encoder_gemm, take_turns, write


def measure(
    X: np.ndarray, n_features: int, k: int, n_rows: int, blocks: int
) -> list[dict]:
    """Measure all rules in turn at one width."""
    rows = X[:n_rows]
    fitted = {
        name: estimator(n_features, k, max_iter=1, random_state=0, device="cpu").fit(X)
        for name, estimator in ARMS.items()
    }
    arms = {name: lambda sae=sae: sae.transform(rows) for name, sae in fitted.items()}
    gemm = encoder_gemm(len(rows), X.shape[1], n_features)
    times = take_turns(arms, gemm, blocks)
    return [
        {
            "rule": name,
            "n_rows": len(rows),
            "n_columns": X.shape[1],
            "n_features": n_features,
            "k": k,
            "l0": sae.transform(rows).nnz / len(rows),
            **times[name].summary("transform"),
        }
        for name, sae in fitted.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=Path, help=".npy, .npz or store")
    parser.add_argument("--made-up", type=int, nargs=2, default=[16384, 576])
    parser.add_argument("--features", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8192, help="rows to transform")
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X = activations(options.activations, *options.made_up)
    results = []
    for n_features in options.features:
        results += measure(X, n_features, options.k, options.rows, options.blocks)
        print(json.dumps(results[-len(ARMS) :], indent=1), flush=True)
    write(options.out, options.activations, results)


if __name__ == "__main__":
    main()
