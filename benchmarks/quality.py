"""The quality of all rules, over seeds, data sets, widths and settings.

    python benchmarks/quality.py --folder activations
    python benchmarks/quality.py --folder activations --small   # under two hours

Activations are made in the folder once. Each cell of the table (study/cells.py) that
``--out`` does not hold yet is fitted, judged (study/judge.py) and written there, so a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from pathlib import Path

import torch
from study.cells import ESTIMATORS, Cell, cells
from study.judge import judge
from study.rows import Rows, load

import skchoice

OUT = Path(__file__).parent / "results" / "study" / "quality.json"


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("activations"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", help="cells whose name begins so")
    options = parser.parse_args()

    results = read(options.out)
    sets: dict[str, Rows] = {}
    for cell in cells(options.small):
        if cell.key in results or not cell.key.startswith(options.only or ""):
            continue
        if cell.data not in sets:
            sets[cell.data] = load(cell.data, options.folder)
        found = run(cell, sets[cell.data])
        print(f"{cell.key}: fvu {found['fvu']:.4f}, dead {found['dead']}", flush=True)
        results = read(options.out) | {cell.key: found}
        write(options.out, results)


def run(cell: Cell, rows: Rows) -> dict:
    """Fit and judge one cell."""
    settings = dict(cell.settings)
    tokens = settings.pop("tokens", len(rows.train))
    sae = ESTIMATORS[cell.estimator](random_state=cell.seed, **settings)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae.fit(rows.train[:tokens])
    middle = time.process_time()
    found = judge(sae, rows.train[:tokens], rows.held_out)
    return {
        **cell._asdict(),
        **found,
        "warnings": sorted({type(one.message).__name__ for one in caught}),
        "n_train": tokens,
        "n_held_out": len(rows.held_out),
        "history": digest(sae.history_),
        "fit_cpu_seconds": middle - start,
        "judge_cpu_seconds": time.process_time() - middle,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "skchoice": skchoice.__version__,
    }


def digest(history: list[dict]) -> list[dict]:
    """Return ten records of a history, with what the tables need."""
    names = ("n_tokens", "rule", "fvu", "n_dead", "n_underused")
    places = [round(i * (len(history) - 1) / 9) for i in range(10)]
    return [{name: history[i][name] for name in names} for i in sorted(set(places))]


def read(path: Path) -> dict[str, dict]:
    """Return the results so far."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, results: dict[str, dict]) -> None:
    """Replace the file, whole or not at all."""
    text = json.dumps(results, indent=1, allow_nan=False)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


if __name__ == "__main__":
    main()
