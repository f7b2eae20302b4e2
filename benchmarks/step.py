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
import json
import platform
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.batches import shuffled_batches
from skchoice.inputs import Rows
from skchoice.model import EncoderAffinities, encoder_input
from skchoice.ordering import rank
from skchoice.revival import AuxiliaryOptions
from skchoice.rules import Rule
from skchoice.training import Tally, TrainingState, train_step

ARMS = {
    "token": TokenChoiceSAE,
    "mutual": MutualChoiceSAE,
    "feature": FeatureChoiceSAE,
}


def activations(path: Path | None, n_rows: int, n_columns: int) -> np.ndarray:
    """Load real activations, or make rows of few Zipf-frequent directions."""
    if path is not None:
        loaded = np.load(path)
        X = loaded["activations"] if path.suffix == ".npz" else loaded
        return X.astype(np.float32)
    rng = np.random.default_rng(0)
    n_directions = 4 * n_columns
    directions = rng.standard_normal((n_directions, n_columns), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    frequency = 1.0 / np.arange(1, n_directions + 1)
    chosen = rng.choice(n_directions, (n_rows, 32), p=frequency / frequency.sum())
    strength = rng.gamma(2.0, size=chosen.shape).astype(np.float32)
    X = np.stack(
        [s @ directions[c] for s, c in zip(strength, chosen, strict=True)]
    ) + 0.1 * rng.standard_normal((n_rows, n_columns), dtype=np.float32)
    return X.astype(np.float32)


def prepare(
    name: str, X: np.ndarray, n_features: int, k: int, batch_size: int, warm_steps: int
):
    """Return a function that runs one step, and the state it works on."""
    sae = ARMS[name](
        n_features, k, aux=None, batch_size=batch_size, random_state=0, device="cpu"
    )
    rows = Rows(X, sae, torch.device("cpu"))
    state = sae._new_state(rows, seed=0)
    batches = shuffled_batches(rows, rows.units(), batch_size, seed=0)
    auxiliary = AuxiliaryOptions(None, 0.0, 1)
    tally = Tally()
    steps = iter(range(10**9))

    def step() -> Rule:
        x = state.standardisation.apply(next(batches))
        rule = sae._rule(state, len(x), min(1.0, next(steps) / warm_steps))
        train_step(state, x, rule, 1e-3, auxiliary, tally)
        return rule

    return step, state, batches


def check_exact(state: TrainingState, x: torch.Tensor, rule: Rule) -> None:
    """Raise if the streamed matches are not those of a full sort.

    Affinities computed in another order of summation differ in their last digits, so
    pairs closer than that to their group's cut may differ, and no others.
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
    if len(rows) > 100 or (distance > 1e-5 * dense.max()).any():
        raise AssertionError(f"{len(rows)} matches differ")


def gemms(n_features: int, x: torch.Tensor):
    """Return the GEMM in two layouts, each into a preallocated output."""
    weight = torch.randn(n_features, x.shape[1])
    by_feature = torch.empty(n_features, len(x))
    by_token = torch.empty(len(x), n_features)
    return (
        lambda: torch.mm(weight, x.T, out=by_feature),
        lambda: torch.mm(x, weight.T, out=by_token),
    )


def seconds(function, n: int) -> float:
    """Return the mean time of some calls in a row."""
    start = time.perf_counter()
    for _ in range(n):
        function()
    return (time.perf_counter() - start) / n


def measure(
    name: str, X: np.ndarray, n_features: int, k: int, batch_size: int, blocks: int
) -> dict:
    """Measure one arm at one size."""
    warm_steps = 40
    step, state, batches = prepare(name, X, n_features, k, batch_size, warm_steps)
    for _ in range(2 * warm_steps):
        rule = step()
    check_exact(state, state.standardisation.apply(next(batches)), rule)
    products = gemms(n_features, state.standardisation.apply(next(batches)))
    for product in products:
        product()
    ratios, times, gemm_times = [], [], []
    for _ in range(blocks):
        gemm = min(seconds(product, 2) for product in products)
        step()  # the products have filled the caches with what no step uses
        took = seconds(step, 8)
        ratios.append(took / gemm)
        times.append(took)
        gemm_times.append(gemm)
    return {
        "rule": name,
        "batch_size": batch_size,
        "n_columns": X.shape[1],
        "n_features": n_features,
        "k": k,
        "step_ms": 1e3 * median(times),
        "gemm_ms": 1e3 * median(gemm_times),
        "ratio": median(ratios),
        "ratio_low": float(np.quantile(ratios, 0.1)),
        "ratio_high": float(np.quantile(ratios, 0.9)),
    }


def cpu_name() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Measure all arms at all sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=Path, help=".npy or .npz; else made up")
    parser.add_argument("--rows", type=int, default=16384, help="made-up rows")
    parser.add_argument("--columns", type=int, default=576, help="made-up columns")
    parser.add_argument("--features", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rules", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    X = activations(options.activations, options.rows, options.columns)
    results = []
    for n_features in options.features:
        for name in options.rules:
            result = measure(
                name, X, n_features, options.k, options.batch_size, options.blocks
            )
            results.append(result)
            print(
                f"{name:8} F={n_features:6} step {result['step_ms']:6.1f} ms  "
                f"GEMM {result['gemm_ms']:6.1f} ms  ratio {result['ratio']:.2f} "
                f"[{result['ratio_low']:.2f}, {result['ratio_high']:.2f}]",
                flush=True,
            )
    if options.out:
        document = {
            "hardware": f"{cpu_name()}, {torch.get_num_threads()} threads, "
            f"{torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
            "activations": "given" if options.activations else "synthetic",
            "results": results,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
