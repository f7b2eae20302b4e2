"""The defaults against a search over learning rates and batch sizes.

    python benchmarks/defaults.py FOLDER --out benchmarks/results/defaults.json

For each data set of `data.py`, a short and a long run: the defaults, with no argument
but n_features and k, and the same fixed search everywhere, six learning rates over two
decades and three batch sizes. The error is that of held-out rows, of other documents,
at an L0 of k. A fit that is in the file already is not made again; ``--small`` makes
only those of the digits, in some minutes.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import results_file
from numpy.typing import NDArray
from study.judge import codes_at_k
from study.rows import load

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, metrics
from skchoice.exceptions import DivergenceError, SAEWarning

LEARNING_RATES = tuple(float(f"{rate:.2g}") for rate in np.geomspace(3e-4, 3e-2, 6))
BATCH_SIZES = (64, 256, 1024)
ESTIMATORS = {
    "mutual": MutualChoiceSAE,
    "feature": FeatureChoiceSAE,
    "token": TokenChoiceSAE,
}


class Case(NamedTuple):
    """How one data set is used."""

    n_train: int
    n_held_out: int
    n_features: int
    k: int
    passes: dict[str, int]
    seeds: range


CASES = {
    "digits": Case(1437, 360, 512, 8, {"short": 10, "long": 100}, range(3)),
    "minilm": Case(40_000, 8_000, 2048, 32, {"short": 2, "long": 10}, range(1)),
    "lm": Case(50_000, 8_000, 2048, 32, {"short": 2, "long": 10}, range(1)),
}


def settings(search: bool) -> Iterator[dict]:
    """Yield the defaults, and what the search tries."""
    yield {}
    if search:
        for batch_size, rate in product(BATCH_SIZES, LEARNING_RATES):
            yield {"batch_size": batch_size, "learning_rate": rate}


def rows_of(name: str, folder: Path) -> tuple[NDArray, NDArray]:
    """Return the rows to train on and those held out."""
    case, rows = CASES[name], load(name, folder)
    return rows.train[: case.n_train], np.float32(rows.held_out[-case.n_held_out :])


def fit(cell: dict, train: NDArray, held_out: NDArray) -> dict:
    """Return the measures of one fit."""
    case = CASES[cell["data"]]
    sae = ESTIMATORS[cell["rule"]](
        case.n_features,
        case.k,
        max_iter=case.passes[cell["run"]],
        random_state=cell["seed"],
        **cell["given"],
    )
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAEWarning)
            sae.fit(train)
    except DivergenceError:
        return {"fvu": None}
    seconds = time.process_time() - start
    shipped, codes = codes_at_k(sae, held_out)
    return {
        "fvu": metrics.fvu(held_out, sae.inverse_transform(codes)),
        "l0": metrics.l0(shipped),
        "dead": int(sae.dead_features_.sum()),
        "steps": sae.history_[-1]["step"],
        "seconds": round(seconds, 1),
    }


def summary(results: list[dict]) -> Iterator[dict]:
    """Yield for each case the best of the search and what the defaults come to.

    Means over seeds; the search is that of the mean, so that luck has less of a part.
    """
    for name, run, rule in product(CASES, ("short", "long"), ESTIMATORS):
        fvu: dict[str, list[float]] = {}
        for cell in results:
            if (cell["data"], cell["run"], cell["rule"]) == (name, run, rule):
                value = np.inf if cell["fvu"] is None else cell["fvu"]
                fvu.setdefault(json.dumps(cell["given"]), []).append(value)
        default = fvu.pop("{}", None)
        if len(fvu) < len(LEARNING_RATES) * len(BATCH_SIZES) or not default:
            continue
        best = min(fvu, key=lambda given: np.mean(fvu[given]))
        yield {
            "data": name,
            "run": run,
            "rule": rule,
            "default": float(np.mean(default)),
            "best": float(np.mean(fvu[best])),
            "best_given": json.loads(best),
            "ratio": float(np.mean(default) / np.mean(fvu[best])),
            "seeds": len(default),
        }


def main() -> None:
    """Make what is missing, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="digits only, one seed")
    parser.add_argument("--data", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--runs", nargs="*", default=["short", "long"])
    parser.add_argument(
        "--rules", choices=ESTIMATORS, nargs="*", default=["mutual", "feature"]
    )
    parser.add_argument("--defaults-only", action="store_true", help="no search")
    options = parser.parse_args()
    results = []
    if options.out.exists():
        results = json.loads(options.out.read_text())["fits"]
    done = {json.dumps(named(cell)) for cell in results}
    for name in ["digits"] if options.small else options.data:
        case = CASES[name]
        train, held_out = rows_of(name, options.folder)
        seeds = case.seeds[:1] if options.small else case.seeds
        for run, rule, seed, given in product(
            options.runs, options.rules, seeds, settings(not options.defaults_only)
        ):
            cell = dict(data=name, run=run, rule=rule, seed=seed, given=given)
            if json.dumps(named(cell)) in done:
                continue
            results.append(cell | fit(cell, train, held_out))
            print(json.dumps(results[-1]), flush=True)
            results_file.write(options.out, document(results))
    for line in summary(results):
        print(json.dumps(line))


def named(cell: dict) -> dict:
    """Return what tells a fit from others."""
    return {name: cell[name] for name in ("data", "run", "rule", "seed", "given")}


def document(results: list[dict]) -> dict:
    """Return the fits with what they sum up to."""
    cases = {name: case._asdict() for name, case in CASES.items()}
    for case in cases.values():
        case["seeds"] = list(case["seeds"])
    return {"cases": cases, "summary": list(summary(results)), "fits": results}


if __name__ == "__main__":
    main()
