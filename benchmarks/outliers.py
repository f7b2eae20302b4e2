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

import numpy as np
import results_file
from defaults import CASES, ESTIMATORS, rows_of
from study.judge import codes_at_k

from skchoice import metrics
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
        train, held_out = rows_of(name, options.folder)
        clean = np.float32(train)
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
                    codes = codes_at_k(sae, held_out)[1]
                    x_hat = sae.inverse_transform(codes)
                    fvu[seed, which] = metrics.fvu(held_out, x_hat)
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
