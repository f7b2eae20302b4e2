"""What one row in a hundred of a hundred times the norm costs the other rows.

    python benchmarks/outliers.py FOLDER --out benchmarks/results/outliers.json

Each estimator with its defaults is fitted to rows, and to the same rows of which some
are a hundred times as large; both are judged on the same held-out rows, without
outliers, at an L0 of k.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import data
import numpy as np
import results_file
from defaults import CASES, ESTIMATORS, at_k

from skchoice.exceptions import SAEWarning

SHARE, SIZE = 0.01, 100.0


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", SAEWarning)
    results = []
    for name in options.data:
        case = CASES[name]
        X = data.split(data.SETS[name](options.folder), case.n_train, case.n_held_out)
        held_out, clean = np.float32(X.held_out), np.float32(X.train)
        loud = clean.copy()
        rows = np.random.default_rng(0).permutation(len(loud))
        loud[rows[: round(SHARE * len(loud))]] *= SIZE
        for rule, estimator in ESTIMATORS.items():
            for importance in ("relative", "absolute"):
                fvu = np.empty((options.seeds, 2))
                for seed, which in np.ndindex(fvu.shape):
                    sae = estimator(
                        case.n_features,
                        case.k,
                        importance=importance,
                        max_iter=case.passes["short"],
                        random_state=seed,
                    ).fit((clean, loud)[which])
                    fvu[seed, which] = at_k(sae, held_out)[1]
                results.append(
                    {
                        "data": name,
                        "rule": rule,
                        "importance": importance,
                        "fvu": fvu.mean(0).tolist(),
                        "ratio": float(np.divide(*fvu.mean(0)[::-1])),
                        "ratios": (fvu[:, 1] / fvu[:, 0]).tolist(),
                    }
                )
                print(json.dumps(results[-1]), flush=True)
    results_file.write(options.out, results)


if __name__ == "__main__":
    main()
