"""Memory of fit and transform beyond what they cannot do without.

    python benchmarks/memory.py --out benchmarks/results/memory.json

``fit``: peak resident memory, and what of it is neither there before nor X, weights or
optimizer state, at several widths and one batch size; ``in_use_mb`` is the same where
the C library gives freed blocks back at once, so that it does not count what lies
free between blocks in use. ``stream``: the first for a float16 memmap larger than the
buffers, in anonymous memory, so that cached file pages do not count. Each measurement
runs in a process of its own. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import results_file

MB = 1e6
# As many rows as Feature Choice allocates together where features are rare.
BATCH_SIZE = 8192
WIDTHS = [8192, 32768, 131072, 262144]
RULES = {"mutual": "MutualChoiceSAE", "feature": "FeatureChoiceSAE"}
# Blocks of this many bytes are mapped by themselves, and unmapped when they are freed.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}


def status(field: str) -> float:
    """Return a memory field of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / MB
    raise KeyError(field)


class Peak:
    """Largest value of a memory field while in the context."""

    def __init__(self, field: str):
        self._field = field
        self._done = threading.Event()
        self.start = self.value = status(field)

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.value = max(self.value, status(self._field))

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def made_up_rows(n_rows: int, n_columns: int, seed: int = 0) -> np.ndarray:
    """Return nonzero rows near a space of few dimensions, float16."""
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((n_columns // 8, n_columns), dtype=np.float32)
    weights = rng.standard_normal((n_rows, n_columns // 8), dtype=np.float32)
    return (weights @ basis + 1.0).astype(np.float16)


def measure_fit(rule: str, n_features: int, path: str | None) -> dict:
    """Fit an estimator to 36,576 rows of 576 numbers."""
    import skchoice
    from skchoice.optimizer import COMPACT_FROM

    X = np.load(path)["activations"] if path else made_up_rows(36576, 576)
    estimator = getattr(skchoice, RULES[rule])
    settings = {"max_iter": 1, "random_state": 0}
    estimator(64, 4, **settings).fit(X[:512])  # loads libraries
    start = time.perf_counter()
    with Peak("VmRSS") as peak:
        estimator(n_features, 32, batch_size=BATCH_SIZE, **settings).fit(X)
    # Of each feature the rows of encoder and decoder, and a bias; two moments of each
    # number, or, where there are many features, one of each row and two of the bias.
    columns = 2 * X.shape[1] + 1
    moments = 4 if n_features >= COMPACT_FROM else 2 * columns
    needed = (columns + moments) * n_features * 4 / MB
    return {
        "what": "fit",
        "rule": rule,
        "n_features": n_features,
        "batch_size": BATCH_SIZE,
        "peak_mb": peak.value,
        "needed_mb": needed,
        "beyond_mb": peak.value - peak.start - needed,
        "seconds": time.perf_counter() - start,
    }


def measure_stream(gigabytes: float) -> dict:
    """Fit and transform a float16 memmap."""
    from skchoice import MutualChoiceSAE

    n_columns, n_features = 1024, 2048
    n_rows = int(gigabytes * 1e9 / 2 / n_columns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "X.npy")
        X = np.lib.format.open_memmap(path, "w+", np.float16, (n_rows, n_columns))
        block = made_up_rows(16384, n_columns)
        for first in range(0, n_rows, len(block)):
            X[first : first + len(block)] = block[: n_rows - first]
        X.flush()
        del X, block
        X = np.load(path, mmap_mode="r")
        sae = MutualChoiceSAE(n_features=64, k=4, max_iter=1)
        sae.fit(np.array(X[:512])).transform(X[:512])  # loads libraries
        times = {}
        with Peak("RssAnon") as fitting:
            start = time.perf_counter()
            sae = MutualChoiceSAE(n_features, k=32, max_iter=1, random_state=0).fit(X)
            times["fit"] = time.perf_counter() - start
        with Peak("RssAnon") as encoding:
            start = time.perf_counter()
            codes = sae.transform(X)
            times["transform"] = time.perf_counter() - start
    needed = 6 * n_features * n_columns * 4 / MB
    arrays = (codes.data, codes.indices, codes.indptr)
    returned = sum(array.nbytes for array in arrays) / MB
    return {
        "what": "stream",
        "gigabytes": gigabytes,
        "n_rows": n_rows,
        "l0": codes.nnz / n_rows,
        "fit_beyond_mb": fitting.value - fitting.start - needed,
        "transform_beyond_mb": encoding.value - encoding.start - returned,
        "codes_mb": returned,
        "fit_seconds": times["fit"],
        "transform_seconds": times["transform"],
    }


def main() -> None:
    """Run each measurement in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", help=".npz with an array 'activations'")
    parser.add_argument("--features", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--rules", choices=RULES, nargs="*", default=list(RULES))
    parser.add_argument("--gigabytes", type=float, default=4.0, help="0 to leave out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.only == ["stream"]:
        print(json.dumps(measure_stream(options.gigabytes)))
        return
    if options.only:
        rule, n_features = options.only
        print(json.dumps(measure_fit(rule, int(n_features), options.activations)))
        return
    results = []
    for rule, n_features in product(options.rules, options.features):
        found = alone([rule, str(n_features)])
        found["in_use_mb"] = alone([rule, str(n_features)], RETURNED)["beyond_mb"]
        results.append(found)
        print(found, flush=True)
    if options.gigabytes > 0:
        results.append(alone(["stream"]))
        print(results[-1], flush=True)
    results_file.write(options.out, results)


def alone(only: list[str], environment: dict[str, str] | None = None) -> dict:
    """Run one measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, *sys.argv, "--only", *only],
        env=os.environ | (environment or {}),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
