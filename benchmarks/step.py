"""Time of a training step over the time of its one encoder GEMM.

    python benchmarks/step.py --out benchmarks/results/step.json

A step is everything that ``fit`` does per batch: reading and standardising the rows,
allocation, gradients, Adam. The GEMM is the float32 product of the same shape, in the
faster of two layouts, into a preallocated output; it is timed anew in every block, so
that a machine whose speed drifts does not bend the ratio. Every arm is first checked:
its matches must be those of a full sort of the dense affinities.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from activations import activations
from timing import encoder_gemm, take_turns, write

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.batches import shuffled_batches
from skchoice.inputs import Rows
from skchoice.model import encoder_input
from skchoice.ordering import rank
from skchoice.revival import AuxiliaryOptions
from skchoice.rules import Rule
from skchoice.start import new_state
from skchoice.state import TrainingState
from skchoice.tiles import EncoderAffinities
from skchoice.training import Tally, train_steps

ARMS = {
    "token": TokenChoiceSAE,
    "mutual": MutualChoiceSAE,
    "feature": FeatureChoiceSAE,
}


def prepare(
    name: str,
    X: np.ndarray | torch.Tensor,
    n_features: int,
    k: int,
    batch_size: int,
    warm_steps: int,
    aux: str | None = None,
    device: str = "cpu",
):
    """Return a function that runs one step, and the state it works on."""
    sae = ARMS[name](
        n_features, k, aux=aux, batch_size=batch_size, random_state=0, device=device
    )
    rows = Rows(X, sae, torch.device(device))
    state = new_state(sae, rows, seed=0)
    batches = shuffled_batches(rows, rows.units(), batch_size, seed=0)
    auxiliary = AuxiliaryOptions(aux, sae.aux_coef, X.shape[1] // 2)
    tally = Tally()
    steps = iter(range(10**9))

    def step() -> Rule:
        x = state.standardisation.apply(next(batches))
        rule = sae._rule(state, len(x), min(1.0, next(steps) / warm_steps))
        train_steps(state, [x], rule, [1e-3], auxiliary, tally)
        return rule

    return step, state, batches


def check_exact(
    state: TrainingState, x: torch.Tensor, rule: Rule, most_ties: int = 100
) -> None:
    """Raise if the streamed matches are not those of a full sort.

    Affinities computed in another order of summation differ in their last digits, so
    pairs closer than that to their group's cut may differ, up to a number, and no
    others.
    """
    tokens = encoder_input(x, state.parameters)
    affinities = EncoderAffinities(state.parameters, tokens, len(x))
    seen = state.allocator(affinities, rule)
    dense = tokens.scaled @ state.parameters.encoder.T + state.parameters.encoder_bias
    rows, cols = (dense > 0).nonzero().unbind(1)
    members = rule.members(rows, cols, dense.shape[1])
    groups, values = rule.groups(rows, cols), dense[rows, cols]
    n_members = dense.numel() // len(seen.caps)
    ranked = rank(groups, members, values, len(seen.caps), n_members)
    kept = ranked.largest(seen.caps)
    expected = torch.zeros_like(dense, dtype=torch.bool)
    expected[rows[kept], cols[kept]] = True
    actual = torch.zeros_like(expected)
    actual[seen.matches.rows.long(), seen.matches.cols.long()] = True
    rows, cols = (actual != expected).nonzero().unbind(1)
    distance = (dense[rows, cols] - seen.cuts[rule.groups(rows, cols)]).abs()
    if len(rows) > most_ties or (distance > 1e-5 * dense.max()).any():
        raise AssertionError(f"{len(rows)} matches differ")


class Arm(NamedTuple):
    """What is measured."""

    rule: str
    k: int
    aux: str | None = None


def measure(
    arms: list[Arm],
    X: np.ndarray,
    n_features: int,
    batch_size: int,
    blocks: int,
    warm_steps: int = 40,
) -> Iterator[tuple[dict, Callable[[], Rule]]]:
    """Measure some arms of one size, which take turns.

    Yield what was found of each, and its step.
    """
    ready = {}
    for arm in arms:
        step, state, batches = prepare(
            arm.rule, X, n_features, arm.k, batch_size, warm_steps, arm.aux
        )
        for _ in range(2 * warm_steps):
            rule = step()
        check_exact(state, state.standardisation.apply(next(batches)), rule)
        ready[arm] = step, state
    gemm = encoder_gemm(batch_size, X.shape[1], n_features)
    times = take_turns({arm: step for arm, (step, _) in ready.items()}, gemm, blocks)
    for arm, (step, state) in ready.items():
        found = {
            "rule": arm.rule,
            "batch_size": batch_size,
            "n_columns": X.shape[1],
            "n_features": n_features,
            "k": arm.k,
            "aux": arm.aux,
            "underused": 0 if state.underused is None else len(state.underused),
            **times[arm].summary(),
        }
        yield found, step


def main() -> None:
    """Measure all arms at all sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--activations", type=Path, help=".npy, .npz or store; else made up"
    )
    parser.add_argument("--rows", type=int, default=16384, help="made-up rows")
    parser.add_argument("--columns", type=int, default=576, help="made-up columns")
    parser.add_argument("--features", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rules", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--aux", nargs="+", default=["none"], choices=["none", "zipf"])
    parser.add_argument("--warm-steps", type=int, default=40)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    X = activations(options.activations, options.rows, options.columns)
    kinds = [None if aux == "none" else aux for aux in options.aux]
    arms = [Arm(rule, options.k, aux) for rule, aux in product(options.rules, kinds)]
    sizes = options.batch_size, options.blocks, options.warm_steps
    results = []
    for n_features in options.features:
        for found, _ in measure(arms, X, n_features, *sizes):
            results.append(found)
            print(
                f"{found['rule']:8} F={n_features:6} aux {found['aux']} "
                f"step {found['step_ms']:6.1f} ms  GEMM {found['gemm_ms']:6.1f} ms  "
                f"ratio {found['ratio']:.2f} "
                f"[{found['ratio_low']:.2f}, {found['ratio_high']:.2f}]",
                flush=True,
            )
    write(options.out, options.activations, results)


if __name__ == "__main__":
    main()
