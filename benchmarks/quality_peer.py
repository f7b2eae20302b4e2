"""BatchTopK as dictionary_learning ships it, beside ours on the same rows.

    python benchmarks/quality_peer.py --folder activations

Needs ``dictionary_learning`` (`make interop` sets up an environment that has it). Both
get the same rows in the same number of steps; the peer its best learning rate of
several, warm-up and decay over the same fractions of its steps, and the centre and the
scale that our fits give themselves. It is judged twice: gated by the threshold that it
ships, and by one that gives an L0 of k on the held-out rows. FVU is in the units of X.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from results_file import add, read
from study.judge import judge
from study.rows import Rows, load

from skchoice import MutualChoiceSAE, TokenChoiceSAE, metrics
from skchoice.training import Standardisation, standardise

OUT = Path(__file__).parent / "results" / "study" / "quality_peer.json"
RATES = (2.5e-3, 5e-3, 1.25e-3, 6e-4)
OUR_RATES = (2.5e-3, 1.25e-3)
SEEDS = range(3)
DECAY = 0.5  # of the steps, for both


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("activations"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--n-features", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=1024)
    options = parser.parse_args()
    rows = load("lm", options.folder)
    rows = rows._replace(train=rows.train[: options.tokens])
    results = read(options.out)

    def run(name: str, rate: float, seed: int) -> float:
        key = f"{name}/{options.n_features}/{options.tokens}/{rate:g}/{seed}"
        if key not in results:
            start = time.process_time()
            arm = peer if name == "peer" else ours
            found = arm(name, rows, options, rate, seed)
            settings = {
                "arm": name,
                "learning_rate": rate,
                "seed": seed,
                "n_features": options.n_features,
                "k": options.k,
                "n_train": options.tokens,
                "batch_size": options.batch_size,
                "cpu_seconds": time.process_time() - start,
            }
            print(key, found, flush=True)
            results[key] = add(options.out, key, settings | found)[key]
        return results[key]["fvu"]

    for name in ("mutual", "token", "peer"):
        rates = RATES if name == "peer" else OUR_RATES
        best = min(rates, key=lambda rate: run(name, rate, 0))
        for seed in SEEDS[1:]:
            run(name, best, seed)


def ours(name: str, rows: Rows, options, rate: float, seed: int) -> dict:
    """Fit and judge one of ours, on all rows: none is set aside for calibration."""
    choice = {"mutual": MutualChoiceSAE, "token": TokenChoiceSAE}[name]
    sae = choice(
        options.n_features,
        options.k,
        batch_size=options.batch_size,
        learning_rate=rate,
        max_iter=1,
        decay_fraction=DECAY,
        n_calibration=0,
        random_state=seed,
    ).fit(rows.train)
    found = judge(sae, rows.train, rows.held_out)
    names = ("fvu", "l0", "fvu_shipped", "l0_shipped", "dead", "dead_rows")
    return {name: found[name] for name in names}


def peer(name: str, rows: Rows, options, rate: float, seed: int) -> dict:
    """Fit and judge the trainer of dictionary_learning."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows.train))
    sample = torch.from_numpy(rows.train[order[:16384]])
    units = standardise(sample)[0]
    n_steps = int(np.ceil(len(order) / options.batch_size))
    warmup = int(np.ceil(0.05 * n_steps))
    trainer = BatchTopKTrainer(
        steps=n_steps,
        activation_dim=rows.train.shape[1],
        dict_size=options.n_features,
        k=options.k,
        layer=0,
        lm_name="",
        lr=rate,
        warmup_steps=warmup,
        decay_start=int((1 - DECAY) * n_steps),
        threshold_start_step=warmup,
        seed=seed,
        device="cpu",
    )
    for step in range(n_steps):
        which = order[step * options.batch_size : (step + 1) * options.batch_size]
        trainer.update(step, units.apply(torch.from_numpy(rows.train[which])))
    return judged(trainer.ae, units, rows.held_out, options.k)


@torch.no_grad()
def judged(model, units: Standardisation, X: NDArray, k: int) -> dict:
    """Return the measures of :mod:`study.judge` for a model of the peer."""
    chunks = torch.from_numpy(X).split(2048)
    acts = [
        model.encode(units.apply(chunk), use_threshold=False, return_active=True)[2]
        for chunk in chunks
    ]
    largest = torch.cat([a.topk(8 * k, dim=1).values.flatten() for a in acts])
    cut = largest.topk(round(k * len(X))).values[-1]

    def measures(threshold) -> tuple[float, float, int]:
        codes = [torch.where(a > threshold, a, 0.0) for a in acts]
        x_hat = [
            model.decode(code) * units.scale + units.centre.float() for code in codes
        ]
        fired = torch.stack([(code > 0).sum(0) for code in codes]).sum(0)
        fvu = metrics.fvu(X, torch.cat(x_hat).numpy())
        return fvu, fired.sum().item() / len(X), int((fired == 0).sum())

    fvu, l0, _ = measures(np.nextafter(np.float32(cut), np.float32(0)))
    fvu_shipped, l0_shipped, dead = measures(model.threshold)
    return {
        "fvu": fvu,
        "l0": l0,
        "fvu_shipped": fvu_shipped,
        "l0_shipped": l0_shipped,
        "dead": dead,
        "dead_rows": len(X),
    }


if __name__ == "__main__":
    main()
