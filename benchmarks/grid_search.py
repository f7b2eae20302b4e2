"""GridSearchCV with two jobs over GridSearchCV with one.

    python benchmarks/grid_search.py --out benchmarks/results/grid_search.json

In turn, with the default backend, which gives each job its share of the threads. The
first search with two jobs also starts their processes; it is not counted.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from statistics import median

import numpy as np
from activations import activations
from sklearn.model_selection import GridSearchCV
from step import ARMS
from timing import seconds, write


def measure(name: str, X: np.ndarray, options: argparse.Namespace) -> dict:
    """Search over k with one rule."""
    sae = ARMS[name](
        options.features, batch_size=512, max_iter=options.max_iter, random_state=0
    )
    # Without refit: one model at the end has all threads either way.
    searches = {
        jobs: GridSearchCV(sae, {"k": [8, 16]}, cv=2, n_jobs=jobs, refit=False)
        for jobs in (1, 2)
    }
    searches[2].fit(X)
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.repetitions):
        for jobs, search in searches.items():
            times[jobs].append(seconds(lambda search=search: search.fit(X)))
    ratios = np.divide(times[2], times[1])
    scores = [search.cv_results_["mean_test_score"] for search in searches.values()]
    return {
        "rule": name,
        "n_rows": len(X),
        "n_columns": X.shape[1],
        "n_features": options.features,
        "one_job_s": median(times[1]),
        "two_jobs_s": median(times[2]),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
        "largest_difference_of_scores": float(np.abs(scores[0] - scores[1]).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=Path, help=".npy, .npz or store")
    parser.add_argument("--made-up", type=int, nargs=2, default=[8192, 576])
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--max-iter", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rules", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X = activations(options.activations, *options.made_up)[: options.made_up[0]]
    results = []
    for name in options.rules:
        results.append(measure(name, X, options))
        print(json.dumps(results[-1]), flush=True)
    write(options.out, options.activations, results)


if __name__ == "__main__":
    main()
