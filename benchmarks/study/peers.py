"""Trainers of dictionary_learning, and how what they learn is judged.

They get what our fits give themselves: a centre and one scale for all rows, and warm-up
and decay over the same fractions of the steps. Errors are in the units of X.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from numpy.typing import NDArray
from torch import Tensor

from skchoice import metrics
from skchoice.standardisation import standardise

WARMUP, DECAY = 0.05, 0.5
_ROWS = 2048
# Rows from which the centre and the scale are found, as in our fits.
_SAMPLE = 16384
# Codes of a row that may be among the k of the average row, as multiples of k.
_LARGEST = 8

# To units of training, and back; rows go along, for what is known of each.
Units = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]


def common(sample: Tensor) -> Units:
    """Return one centre and one scale for all rows."""
    found = standardise(sample)[0]
    centre = found.centre.float()
    return found.apply, lambda x_hat, x: x_hat * found.scale + centre


def by_row(sample: Tensor) -> Units:
    """Return each row's own mean and deviation, as BatchTopK was published with.

    They are handed back to the reconstruction, so two numbers per row come free.
    """

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.float()
        return x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5

    def apply(x: Tensor) -> Tensor:
        mean, deviation = moments(x)
        return (x.float() - mean) / deviation

    def undo(x_hat: Tensor, x: Tensor) -> Tensor:
        mean, deviation = moments(x)
        return x_hat * deviation + mean

    return apply, undo


def batch_top_k(revived: bool) -> Callable[..., Any]:
    """Return its BatchTopK, with a threshold averaged from the end of the warm-up.

    It ships with an auxiliary loss for features that have been silent for ten million
    rows, which none is in runs as short as these. ``revived`` counts as dead what our
    estimators do.
    """

    def make(size: dict, rate: float, schedule: dict, seed: int) -> Any:
        trainer = BatchTopKTrainer(
            activation_dim=size["n_columns"],
            dict_size=size["n_features"],
            k=size["k"],
            layer=0,
            lm_name="",
            lr=rate,
            threshold_start_step=schedule["warmup_steps"],
            seed=seed,
            device="cpu",
            **schedule,
        )
        if revived:
            trainer.dead_feature_threshold = 100 * size["n_features"] // size["k"]
        return trainer

    return make


def relu(penalty: float) -> Callable[..., Any]:
    """Return its ReLU with an L1 penalty."""

    def make(size: dict, rate: float, schedule: dict, seed: int) -> Any:
        return StandardTrainer(
            activation_dim=size["n_columns"],
            dict_size=size["n_features"],
            layer=0,
            lm_name="",
            lr=rate,
            l1_penalty=penalty,
            sparsity_warmup_steps=schedule["warmup_steps"],
            seed=seed,
            device="cpu",
            **schedule,
        )

    return make


def fit(
    make: Callable[..., Any],
    units_of: Callable[[Tensor], Units],
    train: NDArray,
    held_out: NDArray,
    size: dict,
    rate: float,
    seed: int,
) -> dict:
    """Return the measures of one fit, in one pass over rows in random order."""
    order = np.random.default_rng(seed).permutation(len(train))
    units = units_of(torch.from_numpy(train[order[:_SAMPLE]]))
    n_steps = math.ceil(len(order) / size["batch_size"])
    schedule = {
        "steps": n_steps,
        "warmup_steps": math.ceil(WARMUP * n_steps),
        "decay_start": int((1 - DECAY) * n_steps),
    }
    trainer = make(size, rate, schedule, seed)
    for step, which in enumerate(np.array_split(order, n_steps)):
        trainer.update(step, units[0](torch.from_numpy(train[which])))
    return judged(trainer.ae, units, held_out, size["k"])


@torch.no_grad()
def judged(model: Any, units: Units, X: NDArray, k: int) -> dict:
    """Return the measures of :mod:`study.judge`, as shipped and at an L0 of k."""
    apply, undo = units
    chunks = torch.from_numpy(X).split(_ROWS)
    acts = [activations(model, apply(chunk)) for chunk in chunks]
    largest = torch.cat([a.topk(_LARGEST * k, dim=1).values.flatten() for a in acts])
    cut = largest.topk(round(k * len(X))).values[-1].item()

    def measures(threshold: float) -> tuple[float, float, int]:
        codes = [torch.where(a > threshold, a, 0.0) for a in acts]
        x_hat = [
            undo(model.decode(code), chunk)
            for code, chunk in zip(codes, chunks, strict=True)
        ]
        fired = torch.stack([(code > 0).sum(0) for code in codes]).sum(0)
        fvu = metrics.fvu(X, torch.cat(x_hat).numpy())
        return fvu, fired.sum().item() / len(X), int((fired == 0).sum())

    fvu, l0, _ = measures(float(np.nextafter(np.float32(cut), np.float32(0))))
    threshold = getattr(model, "threshold", torch.zeros(()))
    fvu_shipped, l0_shipped, dead = measures(threshold.item())
    return {
        "fvu": fvu,
        "l0": l0,
        "fvu_shipped": fvu_shipped,
        "l0_shipped": l0_shipped,
        "dead": dead,
        "dead_rows": len(X),
    }


def activations(model: Any, x: Tensor) -> Tensor:
    """Return the codes before a gate: all that are positive."""
    if hasattr(model, "threshold"):
        return model.encode(x, use_threshold=False, return_active=True)[2]
    return model.encode(x)
