"""Time of a whole fit over the time of the encoder products it contains.

    python benchmarks/fit.py --out benchmarks/results/fit.json

Everything counts: reading, checking and shuffling rows, training, calibration, and the
fitted arrays. The products are those of every batch, and of the rows set aside for
calibration, once: one is timed before and after each fit.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch
from activations import activations
from step import ARMS
from timing import Times, encoder_gemm, write

from skchoice.inputs import Rows


def measure(
    name: str, X: np.ndarray, options: argparse.Namespace, aux: str | None
) -> dict:
    """Fit some times with one rule."""
    gemm = encoder_gemm(options.batch_size, X.shape[1], options.features)
    times = Times()
    for _ in range(options.repetitions):
        sae = ARMS[name](
            options.features,
            options.k,
            aux=aux,
            batch_size=options.batch_size,
            max_iter=options.max_iter,
            random_state=0,
            device="cpu",
        )
        before = median(gemm() for _ in range(5))
        start = time.perf_counter()
        sae.fit(X)
        took = time.perf_counter() - start
        product = (before + median(gemm() for _ in range(5))) / 2
        # Of batch_size rows each: what was trained on, and what was calibrated on.
        n_held = sae._n_held(Rows(X, sae, torch.device("cpu")))
        n_steps = math.ceil(options.max_iter * (len(X) - n_held) / options.batch_size)
        times.add(product * (n_steps + n_held / options.batch_size), took)
    return {
        "rule": name,
        "aux": aux,
        "n_rows": len(X),
        "n_columns": X.shape[1],
        "n_features": options.features,
        "batch_size": options.batch_size,
        "max_iter": options.max_iter,
        "k": options.k,
        **times.summary("fit"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=Path, help=".npy, .npz or store")
    parser.add_argument("--made-up", type=int, nargs=2, default=[36576, 576])
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--max-iter", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rules", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X = activations(options.activations, *options.made_up)
    results = []
    for name in options.rules:
        for aux in (None, "zipf"):
            results.append(measure(name, X, options, aux))
            print(json.dumps(results[-1]), flush=True)
    write(options.out, options.activations, results)


if __name__ == "__main__":
    main()
