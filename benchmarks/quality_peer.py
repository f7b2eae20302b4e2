"""Autoencoders as dictionary_learning ships them, beside ours on the same rows.

    python benchmarks/quality_peer.py --folder activations

Needs ``dictionary_learning`` (`make interop` sets up an environment that has it). All
get the same rows in the same number of steps, and each the best of the same learning
rates; ReLU with an L1 penalty two of them, at several penalties. A peer is judged
twice: gated as it ships, and by a threshold that gives an L0 of k on held-out rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from results_file import add, read
from study import peers
from study.judge import judge
from study.rows import Rows, load

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE

OUT = Path(__file__).parent / "results" / "study" / "quality_peer.json"
RATES = (2.5e-3, 5e-3, 1.25e-3, 1e-2)
PENALTIES = (0.02, 0.04, 0.08)
SEEDS = range(3)
OURS = {
    "MutualChoiceSAE": MutualChoiceSAE,
    "FeatureChoiceSAE": FeatureChoiceSAE,
    "TokenChoiceSAE": TokenChoiceSAE,
}
BATCH_TOP_K = "BatchTopK"
PEERS: dict[str, tuple[Any, Any]] = {
    BATCH_TOP_K: (peers.batch_top_k, peers.common),
    "BatchTopK, rows standardised": (peers.batch_top_k, peers.by_row),
    **{f"ReLU, L1 {one:g}": (peers.relu(one), peers.common) for one in PENALTIES},
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("activations"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--n-features", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--arms", choices=(*OURS, *PEERS), nargs="*")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    options = parser.parse_args()
    rows = load("lm", options.folder)
    rows = rows._replace(train=rows.train[: options.tokens])
    size = {
        "n_columns": rows.train.shape[1],
        "n_features": options.n_features,
        "k": options.k,
        "batch_size": options.batch_size,
    }
    results = read(options.out)

    def run(name: str, rate: float, seed: int) -> float:
        key = f"{name}/{options.n_features}/{options.tokens}/{rate:g}/{seed}"
        if key not in results:
            start = time.process_time()
            if name in OURS:
                found = ours(name, rows, size, rate, seed)
            else:
                split = rows.train, rows.held_out
                found = peers.fit(*PEERS[name], *split, size, rate, seed)
            about = {
                "arm": name,
                "learning_rate": rate,
                "seed": seed,
                **size,
                "n_train": len(rows.train),
                "cpu_seconds": time.process_time() - start,
            }
            print(key, found, flush=True)
            results[key] = add(options.out, key, about | found)[key]
        return results[key]["fvu"]

    for name in options.arms or (*OURS, *PEERS):
        rates = options.rates[:2] if name.startswith("ReLU") else options.rates
        best = min(rates, key=lambda rate: run(name, rate, 0))
        for seed in SEEDS[1:] if name in (*OURS, BATCH_TOP_K) else ():
            run(name, best, seed)


def ours(name: str, rows: Rows, size: dict, rate: float, seed: int) -> dict:
    """Fit and judge one of ours, on all rows: none is set aside for calibration."""
    sae = OURS[name](
        size["n_features"],
        size["k"],
        batch_size=size["batch_size"],
        learning_rate=rate,
        max_iter=1,
        warmup_fraction=peers.WARMUP,
        decay_fraction=peers.DECAY,
        n_calibration=0,
        random_state=seed,
    ).fit(rows.train)
    found = judge(sae, rows.train, rows.held_out)
    names = ("fvu", "l0", "fvu_shipped", "l0_shipped", "dead", "dead_rows")
    return {name: found[name] for name in names}


if __name__ == "__main__":
    main()
