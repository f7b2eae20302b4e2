"""What saving, loading and checkpoints cost.

    python benchmarks/persistence.py --out benchmarks/results/persistence.json

``files``: time of ``save`` and ``load`` over that of a bare safetensors write, fsync,
SHA-256 and read of the same arrays, in turn; the better of two ways to read is taken
for the bare one, which hashes once (``ratio``) or, like ours, when it writes and when
it reads (``ratio_both_hashed``).
``checkpoints``: share of a fit that is spent writing checkpoints at the default
interval, measured within the fit: two fits differ by more than that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import results_file
from safetensors.numpy import load, load_file, save_file

import skchoice
from skchoice import FeatureChoiceSAE, checkpoints, tensorfile


def rows(n_rows: int, n_columns: int) -> np.ndarray:
    """Return rows near a space of few dimensions."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((n_columns // 8, n_columns), dtype=np.float32)
    return rng.standard_normal((n_rows, len(basis)), dtype=np.float32) @ basis + 1


def bare(arrays: dict[str, np.ndarray], path: Path) -> tuple[float, float, float]:
    """Return the seconds of hashing, of writing and syncing, and of reading."""
    start = time.perf_counter()
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array.reshape(-1).view(np.uint8).data)
    hashed = time.perf_counter() - start
    start = time.perf_counter()
    save_file(arrays, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    written = time.perf_counter() - start
    start = time.perf_counter()
    load_file(path)
    mapped = time.perf_counter() - start
    start = time.perf_counter()
    load(path.read_bytes())
    return hashed, written, min(mapped, time.perf_counter() - start)


def measure_files(n_features: int, n_columns: int, repetitions: int) -> dict:
    """Time save and load in turn with the bare operations."""
    sae = FeatureChoiceSAE(n_features, 32, max_iter=1, random_state=0)
    sae.fit(rows(4096, n_columns))
    times: dict[str, list[float]] = {"bare": [], "save": [], "load": [], "ratio": []}
    times["ratio_both_hashed"] = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path, plain = Path(folder, "model"), Path(folder, "plain")
        sae.save(path)
        arrays = tensorfile.read(path)[0]
        for _ in range(repetitions):
            bare_times = bare(arrays, plain)
            start = time.perf_counter()
            sae.save(path)
            middle = time.perf_counter()
            skchoice.load(path)
            stop = time.perf_counter()
            times["bare"].append(sum(bare_times))
            times["save"].append(middle - start)
            times["load"].append(stop - middle)
            times["ratio"].append((stop - start) / sum(bare_times))
            twice = sum(bare_times) + bare_times[0]
            times["ratio_both_hashed"].append((stop - start) / twice)
        size = path.stat().st_size
    return {
        "what": "files",
        "n_features": n_features,
        "n_columns": n_columns,
        "megabytes": size / 1e6,
        **{f"{name}_median": median(values) for name, values in times.items()},
        "ratio_range": [min(times["ratio"]), max(times["ratio"])],
        # On a machine with other work the fastest of each say more than the medians.
        "ratio_of_fastest": (min(times["save"]) + min(times["load"]))
        / min(times["bare"]),
    }


def measure_checkpoints(n_features: int, X: np.ndarray, max_iter: int) -> dict:
    """Time checkpoints within a fit at the default interval."""
    spent: list[float] = []
    original = checkpoints.Checkpoints.after_step

    def timed(self, progress):
        start = time.perf_counter()
        original(self, progress)
        spent.append(time.perf_counter() - start)

    checkpoints.Checkpoints.after_step = timed
    with tempfile.TemporaryDirectory(dir=".") as folder:
        start = time.perf_counter()
        FeatureChoiceSAE(
            n_features, 32, max_iter=max_iter, random_state=0, checkpoint_dir=folder
        ).fit(X)
        length = time.perf_counter() - start
    checkpoints.Checkpoints.after_step = original
    return {
        "what": "checkpoints",
        "n_features": n_features,
        "n_columns": X.shape[1],
        "fit_seconds": length,
        "checkpoints": sum(seconds > 1e-3 for seconds in spent),
        "checkpoint_seconds": sum(spent),
        "share": sum(spent) / (length - sum(spent)),
    }


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", help=".npz with an array 'activations'")
    parser.add_argument("--features", type=int, nargs="*", default=[1024, 8192, 32768])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--max-iter", type=int, default=60, help="0 to leave out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    for n_features in options.features:
        results.append(measure_files(n_features, 768, options.repetitions))
        print(json.dumps(results[-1]), flush=True)
    if options.max_iter:
        X = rows(36576, 576)
        if options.activations:
            X = np.load(options.activations)["activations"]
        results.append(measure_checkpoints(8192, X, options.max_iter))
        print(json.dumps(results[-1]), flush=True)
    results_file.write(options.out, results)


if __name__ == "__main__":
    main()
