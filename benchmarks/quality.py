"""The quality of all rules, over seeds, data sets, widths and settings.

    python benchmarks/quality.py --folder activations
    python benchmarks/quality.py --folder activations --small   # under two hours

Activations are made in the folder once. Each cell of the table (study/cells.py) that
``--out`` does not hold yet is fitted, judged (study/judge.py) and written there, so a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import platform
import time
import warnings

import torch
from results_file import add, read
from study.cells import Cell, cells
from study.judge import judge
from study.options import parser
from study.rows import Rows, load

import skchoice


def main() -> None:
    """Run what is missing."""
    asked = parser(__doc__, "quality")
    asked.add_argument("--only", help="cells whose name begins so")
    options = asked.parse_args()

    results = read(options.out)
    sets: dict[str, Rows] = {}
    for cell in cells(options.small):
        if cell.key in results or not cell.key.startswith(options.only or ""):
            continue
        if cell.data not in sets:
            sets[cell.data] = load(cell.data, options.folder)
        found = run(cell, sets[cell.data])
        print(f"{cell.key}: fvu {found['fvu']:.4f}, dead {found['dead']}", flush=True)
        results = add(options.out, cell.key, found)


def run(cell: Cell, rows: Rows) -> dict:
    """Fit and judge one cell."""
    train = cell.rows(rows.train)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae = cell.fit(train)
    middle = time.process_time()
    found = judge(sae, train, rows.held_out)
    return {
        **cell._asdict(),
        **found,
        "warnings": sorted({type(one.message).__name__ for one in caught}),
        "n_train": len(train),
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


if __name__ == "__main__":
    main()
