"""Everything worth timing on a GPU, in one command of some minutes.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

First what has to be right: the operations against the obvious ones in float64, the
matches of every rule against a full sort, and a fit against the same fit on the CPU.
Then a training step and ``transform`` over the encoder's product, in float32 and in
bfloat16, and over dense BatchTopK in plain torch, as shipped and with torch's best
flags. Rows are on the device already. Needs torch, scikit-learn and this checkout.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from activations import activations
from arms import Size, dense
from results_file import write
from step import ARMS, check_exact, prepare
from timing import encoder_gemm, hardware, take_turns

from skchoice.ops import eager, reference

SIZES = ["4096,768,32768,32", "32768,768,32768,32"]
WARM_STEPS = 40


def check_operations(device: str) -> dict[str, float]:
    """Return how far each operation is from the obvious one, relatively."""
    rng = np.random.default_rng(0)
    n_bags, n_table, width = 1000, 3000, 768
    sizes = rng.choice([0, 1, 2, 31, 400], n_bags)
    index = torch.from_numpy(rng.integers(0, n_table, sizes.sum())).int()
    pointers = torch.from_numpy(np.append(0, sizes.cumsum())).int()
    bags = torch.repeat_interleave(torch.arange(n_bags), torch.from_numpy(sizes)).int()
    table, upstream, weights, tile = (
        torch.from_numpy(rng.standard_normal(shape))
        for shape in ((n_table, width), (n_bags, width), len(index), (500, 700))
    )
    cases = {
        "bag_sum": (table, index, pointers, weights),
        "pair_dots": (upstream, table, bags, index),
        "find_hits": (tile, tile[:, :1].clone(), torch.full((1, 1), 0.5).double()),
    }
    errors = {}
    for name, arguments in cases.items():
        # What float32 cannot tell from the threshold is not asked.
        here = [x.float() if x.is_floating_point() else x for x in arguments]
        found = getattr(eager, name)(*(x.to(device) for x in here))
        exact = [x.double() if x.is_floating_point() else x for x in here]
        expected = getattr(reference, name)(*exact)
        if name == "find_hits":
            filled = [torch.zeros(tile.shape).double() for _ in range(2)]
            for into, (rows, columns, values) in zip(
                filled, (found, expected), strict=True
            ):
                into[rows.cpu().long(), columns.cpu().long()] = values.cpu().double()
            found, expected = filled
        errors[name] = ((found.cpu() - expected).norm() / expected.norm()).item()
        if not errors[name] < 1e-4:
            raise AssertionError(f"{name} is off by {errors[name]:.1e}")
    return errors


def check_matches(device: str, X: np.ndarray, n_features: int, k: int) -> None:
    """Raise if the matches of a rule are not those of a full sort."""
    batch_size = min(2048, len(X))
    for name in ARMS:
        step, state, batches = prepare(
            name, X, n_features, k, batch_size, WARM_STEPS, None, device
        )
        for _ in range(2 * WARM_STEPS):
            rule = step()
        check_exact(state, state.standardisation.apply(next(batches)), rule)


def check_fits(device: str, X: np.ndarray, n_features: int, k: int) -> Iterator[dict]:
    """Yield the error and L0 of the same fit on the device and on the CPU."""
    for name, estimator in ARMS.items():
        seen = {}
        for where in (device, "cpu"):
            sae = estimator(n_features, k, max_iter=1, random_state=0, device=where)
            start = time.perf_counter()
            sae.fit(X)
            seconds = time.perf_counter() - start
            seen[where] = 1.0 - sae.score(X), sae.transform(X).nnz / len(X), seconds
        (fvu, l0, fit), (fvu_cpu, l0_cpu, fit_cpu) = seen[device], seen["cpu"]
        yield {
            "what": "fit",
            "rule": name,
            "n_features": n_features,
            "n_rows": len(X),
            "fvu": fvu,
            "fvu_over_cpu": fvu / fvu_cpu,
            "l0_over_cpu": l0 / l0_cpu,
            "seconds": fit,
            "seconds_cpu": fit_cpu,
        }


def dense_arms(size: Size, X: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Return a step of dense BatchTopK, as shipped and with the best flags."""

    def step(arm: dense.Dense, kind: str) -> None:
        rounded = torch.autocast(X.device.type, torch.bfloat16)
        start = torch.randint(len(X) - size.batch_size + 1, ()).item()
        with rounded if kind == "bfloat16" else nullcontext():
            arm.step(X[start : start + size.batch_size])

    arms = {}
    with torch.device(X.device):
        for kind in ("as shipped", "fused", "bfloat16"):
            arm = dense.make(size, "mutual", shipped=kind == "as shipped")
            arms[f"dense BatchTopK, {kind}"] = lambda arm=arm, kind=kind: step(
                arm, kind
            )
    return arms


def measure(size: Size, X: torch.Tensor, blocks: int) -> Iterator[dict]:
    """Yield the times of all arms at one size."""
    device = str(X.device)
    batch_size, n_columns, n_features, k, _ = size
    arms: dict[str, Callable[[], object]] = {}
    for name, estimator in ARMS.items():
        step, _, _ = prepare(
            name, X, n_features, k, batch_size, WARM_STEPS, None, device
        )
        for _ in range(2 * WARM_STEPS):
            step()
        arms[f"step, {name}"] = step
        settings = dict(max_iter=1, random_state=0, device=device)
        sae = estimator(n_features, k, batch_size=batch_size, **settings).fit(X)
        arms[f"transform, {name}"] = lambda sae=sae: sae.transform(X)
    arms |= dense_arms(size, X)
    shape = batch_size, n_columns, n_features, device
    rounded = encoder_gemm(*shape, torch.bfloat16)
    for name, times in take_turns(arms, encoder_gemm(*shape), blocks).items():
        summary = times.summary()
        n_rows = len(X) if name.startswith("transform") else batch_size
        yield {
            "what": name,
            **size._asdict(),
            **summary,
            "gemm_bfloat16_ms": 1e3 * rounded(),
            "rows_per_second": 1e3 * n_rows / summary["step_ms"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="B,d,F,k")
    parser.add_argument("--rows", type=int, default=131072)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes = [Size(*map(int, size.split(",")), None) for size in options.sizes]
    document = hardware(options.device)
    document["errors"] = check_operations(options.device)
    results = document["results"] = []
    for size in sizes:
        X = activations(None, options.rows, size.n_columns)
        if size is sizes[0]:
            few = X[: options.rows // 8]
            check_matches(options.device, few, size.n_features // 8, size.k)
            results += check_fits(options.device, few, size.n_features // 8, size.k)
        there = torch.from_numpy(X).to(options.device)
        results += measure(size, there, options.blocks)
        write(options.out, document)  # what there is, should time run out
    for one in results:
        show(one)


def show(one: dict) -> None:
    """Print one line of the table."""
    if one["what"] == "fit":
        print(
            f"fit, {one['rule']:8} fvu {one['fvu']:.4f}, over the CPU's "
            f"{one['fvu_over_cpu']:.4f}, L0 {one['l0_over_cpu']:.4f}, "
            f"{one['seconds']:.1f} s for {one['seconds_cpu']:.1f} s"
        )
        return
    print(
        f"{one['what']:28} B={one['batch_size']:6} {one['step_ms']:9.2f} ms, GEMM "
        f"{one['gemm_ms']:.2f}, in bfloat16 {one['gemm_bfloat16_ms']:.2f}; "
        f"{one['rows_per_second']:.3g} rows/s"
    )


if __name__ == "__main__":
    main()
