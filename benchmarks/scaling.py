"""A training step over its encoder product as each size grows, the others held.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

As ``step.py`` measures it, with made-up rows, since real ones have one width. After
each is said which operations of torch a step spends the most time in, and what share
of it. Where the processor multiplies bfloat16, ``--float32`` tells what others take. A
file is added to, size by size; sizes that it has are not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from unittest import mock

import torch
from activations import activations
from step import ARMS, Arm, measure
from timing import earlier, write

from skchoice.ops import coarse

# (batch_size, n_columns, n_features) and all k, each in turn away from the first.
GRID = [
    (2048, 512, 32768, (32, 8, 16, 64)),
    *((2048, 512, n, (32,)) for n in (4096, 8192, 16384, 65536, 131072)),
    *((n, 512, 32768, (32,)) for n in (1024, 4096, 8192)),
    *((2048, n, 32768, (32,)) for n in (256, 1024, 2048)),
    *((4096, 768, n, (32,)) for n in (32768, 131072)),
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
    parser.add_argument("--sizes", nargs="+", help="B,d,F,k,... instead of the grid")
    parser.add_argument(
        "--float32", action="store_true", help="as without bfloat16 instructions"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not set(options.rules) <= set(ARMS):
        parser.error(f"--rules must be of {', '.join(ARMS)}")
    grid = GRID
    if options.sizes:
        given = (list(map(int, size.split(","))) for size in options.sizes)
        grid = [(*size[:3], tuple(size[3:])) for size in given]
    screen = contextlib.nullcontext()
    if options.float32:
        screen = mock.patch.object(coarse, "supported", lambda device: False)
    results = earlier(options.out).get("results", [])
    names = ("float32", "rule", "batch_size", "n_columns", "n_features", "k")
    known = {tuple(one[name] for name in names) for one in results}
    for batch_size, n_columns, n_features, of_k in grid:
        size = batch_size, n_columns, n_features
        arms = [
            Arm(rule, k)
            for k, rule in product(of_k, options.rules)
            if (options.float32, rule, *size, k) not in known
        ]
        if not arms:
            continue
        X = activations(None, options.rows, n_columns)
        with screen:
            for found, step in measure(
                arms, X, n_features, batch_size, options.blocks, WARM_STEPS
            ):
                found |= {"float32": options.float32, "mostly": dominant(step)}
                results.append(found)
                print(json.dumps(found), flush=True)
                write(options.out, None, results)


if __name__ == "__main__":
    main()
