"""What all timings have in common: the product they are set against, taking turns.

A machine whose speed drifts bends a time, but not the ratio of two times taken one
right after the other. So whatever is measured takes turns with the rest, and just
before each turn the encoder product of the same shape is timed anew: in float32, into
a preallocated output, in the faster of two layouts.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import results_file
import torch

# A product of so many seconds is timed by one call.
_LONG = 0.3


def seconds(function: Callable[[], object], n: int = 1) -> float:
    """Return the mean time of some calls in a row."""
    _wait_for_devices()
    start = time.perf_counter()
    for _ in range(n):
        function()
    _wait_for_devices()
    return (time.perf_counter() - start) / n


def _wait_for_devices() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def encoder_gemm(
    n_tokens: int,
    n_columns: int,
    n_features: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Callable[[], float]:
    """Return a function that times the encoder's product."""
    given = {"device": device, "dtype": dtype}
    x = torch.randn(n_tokens, n_columns, **given)
    weight = torch.randn(n_features, n_columns, **given)
    by_feature = torch.empty(n_features, n_tokens, **given)
    by_token = torch.empty(n_tokens, n_features, **given)
    layouts = (
        lambda: torch.mm(weight, x.T, out=by_feature),
        lambda: torch.mm(x, weight.T, out=by_token),
    )
    for layout in layouts:
        layout()
    calls = 1 if seconds(layouts[0]) > _LONG else 2
    return lambda: min(seconds(layout, calls) for layout in layouts)


class Times:
    """Times of one arm, each with that of the product just before."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.gemm: list[float] = []

    def add(self, gemm: float, taken: float) -> None:
        self.gemm.append(gemm)
        self.taken.append(taken)

    def summary(self, what: str = "step") -> dict[str, float]:
        """Return medians, and what a tenth of the ratios is below and above."""
        ratios = np.divide(self.taken, self.gemm)
        return {
            f"{what}_ms": 1e3 * median(self.taken),
            "gemm_ms": 1e3 * median(self.gemm),
            "ratio": float(np.median(ratios)),
            "ratio_low": float(np.quantile(ratios, 0.1)),
            "ratio_high": float(np.quantile(ratios, 0.9)),
        }


def take_turns(
    arms: dict[str, Callable[[], object]],
    gemm: Callable[[], float],
    blocks: int,
    least: float = 0.3,
) -> dict[str, Times]:
    """Time all arms in turn, each for a number of calls of at least so many seconds.

    The first call of a turn of several is not timed: the product, and the arm before,
    have filled the caches with what it does not use.
    """
    calls = {}
    for name, arm in arms.items():
        seconds(arm, 2)
        calls[name] = max(1, round(least / seconds(arm)))
    times = {name: Times() for name in arms}
    for _ in range(blocks):
        for name, arm in arms.items():
            product = gemm()
            if calls[name] > 1:
                arm()
            times[name].add(product, seconds(arm, calls[name]))
    return times


def hardware(device: str = "cpu") -> dict[str, str]:
    """Return what the times depend on."""
    found = {}
    if torch.device(device).type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    return found | {
        "hardware": f"{cpu_name()}, {threads} threads, {capability}",
        "torch": torch.__version__,
    }


def earlier(out: Path | None) -> dict:
    """Return what a file has, to add to it; times of two machines never mix."""
    if out is None or not out.exists():
        return {}
    document = json.loads(out.read_text(encoding="utf-8"))
    for name, value in hardware().items():
        if document[name] != value:
            raise SystemExit(
                f"{out} has times of {document[name]}, and this is {value}. Give "
                "another --out, or delete it."
            )
    return document


def write(out: Path | None, activations: Path | None, results: list[dict]) -> None:
    """Write times with what they depend on, where a file was asked for."""
    given = "made up" if activations is None else "given"
    document = {**hardware(), "activations": given, "results": results}
    results_file.write(out, document)


def cpu_name() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
