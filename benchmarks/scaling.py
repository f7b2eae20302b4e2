"""A training step over its encoder product as each size grows, the others held.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

As ``step.py`` measures it, with made-up rows, since real ones have one width. After
each is said which operations of torch a step spends the most time in, and what share
of it. A file is added to, size by size; sizes that it has are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from activations import activations
from step import ARMS, measure
from timing import earlier, write

# (batch_size, n_columns, n_features, k), with each in turn away from the first.
BASE = (2048, 512, 32768, 32)
GRID = [
    BASE,
    *((2048, 512, n, 32) for n in (4096, 8192, 16384, 65536, 131072)),
    *((n, 512, 32768, 32) for n in (1024, 4096, 8192)),
    *((2048, n, 32768, 32) for n in (256, 1024, 2048)),
    *((2048, 512, 32768, n) for n in (8, 16, 64)),
]
WARM_STEPS = 40


def dominant(step: Callable[[], object]) -> str:
    """Return the three operations with the most time of their own in some steps."""
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(3):
            step()
    found = profile.key_averages()
    total = sum(one.self_cpu_time_total for one in found)
    largest = sorted(found, key=lambda one: -one.self_cpu_time_total)[:3]
    return ", ".join(
        f"{one.key.removeprefix('aten::')} {one.self_cpu_time_total / total:.0%}"
        for one in largest
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--rules", nargs="+", default=["mutual", "feature"])
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", help="B,d,F,k instead of the grid")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not set(options.rules) <= set(ARMS):
        parser.error(f"--rules must be of {', '.join(ARMS)}")
    grid = GRID
    if options.sizes:
        grid = [tuple(map(int, size.split(","))) for size in options.sizes]
    results = earlier(options.out).get("results", [])
    names = ("rule", "batch_size", "n_columns", "n_features", "k")
    known = {tuple(one[name] for name in names) for one in results}
    for batch_size, n_columns, n_features, k in grid:
        X = activations(None, options.rows, n_columns)
        for rule in options.rules:
            if (rule, batch_size, n_columns, n_features, k) in known:
                continue
            found, step = measure(
                rule, X, n_features, k, batch_size, options.blocks, WARM_STEPS
            )
            found["mostly"] = dominant(step)
            results.append(found)
            print(json.dumps(found), flush=True)
            write(options.out, None, results)


if __name__ == "__main__":
    main()
