"""A training step on batches unlike those before, over one on a batch like them.

    python benchmarks/hard_batches.py --out benchmarks/results/hard_batches.json

Steps are fast because thresholds carry over. Each case is one that they do not serve:

``cold``       nothing carries over
``other data`` the columns of the rows are swapped among themselves
``opposite``   the rows with their signs changed
``tied``       one row, again and again
``one-hot``    rows along a single axis: each as many times as it takes
``one token``  all rows but one are zero

The matches of each are first checked against a full sort; of affinities that lie within
rounding of a cut, any may match, and with ties these are many. A step starts from the
state before every time. ``ratio`` is over a step on a batch like those before.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from activations import activations
from step import ARMS, check_exact, prepare
from timing import encoder_gemm, take_turns, write
from torch import Tensor

from skchoice.revival import AuxiliaryOptions
from skchoice.rules import Rule
from skchoice.state import TrainingState
from skchoice.training import Tally, train_steps
from skchoice.warm import WarmAllocator

WARM_STEPS = 40
NO_AUXILIARY = AuxiliaryOptions(None, 0.0, 1)


def hard_batches(x: Tensor) -> dict[str, Tensor]:
    """Return batches of the same shape and size of rows, each hard in its way."""
    rng = np.random.default_rng(0)
    size = x.norm(dim=1).median()
    axes = torch.from_numpy(rng.integers(x.shape[1], size=len(x)))
    one_token = torch.zeros_like(x)
    one_token[0] = x[0]
    return {
        "other data": x[:, torch.from_numpy(rng.permutation(x.shape[1]))].contiguous(),
        "opposite": -x,
        "tied": x[:1].repeat(len(x), 1),
        "one-hot": size * torch.nn.functional.one_hot(axes, x.shape[1]).float(),
        "one token": one_token,
    }


def measure(name: str, X: np.ndarray, options: argparse.Namespace) -> list[dict]:
    """Time all cases with one rule."""
    step, state, batches = prepare(
        name, X, options.features, options.k, options.batch_size, WARM_STEPS
    )
    for _ in range(2 * WARM_STEPS):
        rule = step()
    x = state.standardisation.apply(next(batches))
    cold = copy.deepcopy(state)
    cold.allocator = WarmAllocator()
    cases = {"like before": (state, x), "cold": (cold, x)}
    cases |= {case: (state, batch) for case, batch in hard_batches(x).items()}
    arms = {}
    for case, (before, batch) in cases.items():
        check_exact(copy.deepcopy(before), batch, rule, most_ties=batch.numel())
        arms[case] = one_step(before, batch, rule)
    gemm = encoder_gemm(options.batch_size, X.shape[1], options.features)
    times = take_turns(arms, gemm, options.blocks, least=0.0)
    usual = np.array(times["like before"].taken)
    return [
        {
            "rule": name,
            "batch": case,
            "n_features": options.features,
            "n_columns": X.shape[1],
            "batch_size": options.batch_size,
            "k": options.k,
            "step_ms": 1e3 * float(np.median(of.taken)),
            "ratio": float(np.median(of.taken / usual)),
            "ratio_low": float(np.quantile(of.taken / usual, 0.1)),
            "ratio_high": float(np.quantile(of.taken / usual, 0.9)),
        }
        for case, of in times.items()
    ]


def one_step(state: TrainingState, x: Tensor, rule: Rule) -> Callable[[], None]:
    """Return a function that takes a step and leaves the next one the same start."""
    level, demand = state.allocator.level, copy.deepcopy(state.demand)

    def step() -> None:
        state.allocator.level = level
        state.demand = copy.copy(demand)
        # Adam's moments decay, and parameters stay where they are.
        train_steps(state, [x], rule, [0.0], NO_AUXILIARY, Tally())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=Path, help=".npy, .npz or store")
    parser.add_argument("--rows", type=int, default=16384, help="made-up rows")
    parser.add_argument("--columns", type=int, default=576, help="made-up columns")
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--rules", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    X = activations(options.activations, options.rows, options.columns)
    results = []
    for name in options.rules:
        found = measure(name, X, options)
        results += found
        for one in found:
            print(
                f"{one['rule']:8} {one['batch']:12} {one['step_ms']:7.1f} ms  "
                f"ratio {one['ratio']:.2f} "
                f"[{one['ratio_low']:.2f}, {one['ratio_high']:.2f}]",
                flush=True,
            )
    write(options.out, options.activations, results)


if __name__ == "__main__":
    main()
