"""How alike the dictionaries of two seeds are: mean maximum cosine.

    python benchmarks/stability.py --folder activations

For each feature of one seed, the largest cosine of its decoder direction to those of
another seed; the mean over features, and weighted by how often they fire. Beside it,
what random directions give.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import read, write
from study.cells import ESTIMATORS, SMALL
from study.rows import load

OUT = Path(__file__).parent / "results" / "study" / "stability.json"


def main() -> None:
    """Fit three seeds of each rule, and compare each with each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("activations"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    results = read(options.out)
    for name, size in SMALL.items():
        rows = load(name, options.folder)
        settings = dict(size)
        X = rows.train[: settings.pop("tokens", len(rows.train))]
        for rule, choice in ESTIMATORS.items():
            if f"{name}/{rule}" in results:
                continue
            saes = [
                choice(random_state=seed, **settings).fit(X)
                for seed in range(options.seeds)
            ]
            found = [alike(*pair) for pair in permutations(saes, 2)]
            results[f"{name}/{rule}"] = {
                "data": name,
                "rule": rule,
                **{
                    key: float(np.mean([one[key] for one in found])) for key in found[0]
                },
            }
            write(options.out, results)
            print(results[f"{name}/{rule}"], flush=True)


def alike(sae, other) -> dict[str, float]:
    """Return the mean maximum cosine of one dictionary to another."""
    largest = largest_cosines(sae.components_, other.components_)
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=other.components_.shape).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return {
        "mean_max_cosine": float(largest.mean()),
        "of_matches": float(np.average(largest, weights=sae.feature_density_)),
        "over_0.7": float((largest > 0.7).mean()),
        "to_random": float(largest_cosines(sae.components_, drawn).mean()),
    }


def largest_cosines(components: NDArray, others: NDArray) -> NDArray:
    """Return each row's largest product with the other rows."""
    return (components @ others.T).max(axis=1)


if __name__ == "__main__":
    main()
