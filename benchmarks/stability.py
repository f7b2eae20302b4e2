"""How alike the dictionaries of several seeds are: mean maximum cosine.

    python benchmarks/stability.py --folder activations
    python benchmarks/stability.py --folder activations --small   # two seeds of three

For each feature of one seed, the largest cosine of its decoder direction to those of
another seed; the mean over features, and weighted by how often they fire. Beside it,
what random directions give.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from results_file import add, read
from study.cells import ESTIMATORS, SMALL, Cell
from study.options import parser
from study.rows import load


def main() -> None:
    """Fit some seeds of each rule, and compare each with each."""
    options = parser(__doc__, "stability").parse_args()
    n_seeds = 2 if options.small else 3
    results = read(options.out)
    for data, size in SMALL.items():
        keys = {rule: f"{data}/{rule}/{n_seeds}" for rule in ESTIMATORS}
        if set(keys.values()) <= results.keys():
            continue
        rows = load(data, options.folder)
        for rule, key in keys.items():
            if key in results:
                continue
            saes = [
                Cell("stability", data, rule, rule, size, seed).fit(rows.train)
                for seed in range(n_seeds)
            ]
            found = [alike(*pair) for pair in permutations(saes, 2)]
            means = {
                name: float(np.mean([one[name] for one in found])) for name in found[0]
            }
            about = {"data": data, "rule": rule, "seeds": n_seeds}
            print(key, means, flush=True)
            results = add(options.out, key, about | means)


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
