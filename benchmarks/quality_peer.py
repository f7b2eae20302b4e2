"""Autoencoders as dictionary_learning ships them, beside ours on the same rows.

    python benchmarks/quality_peer.py --folder activations
    python benchmarks/quality_peer.py --folder activations --small   # some minutes

Needs ``dictionary_learning`` (`make interop` sets up an environment that has it). All
get the same rows in the same number of steps, and each the best of the same learning
rates; ReLU with an L1 penalty two of them, at several penalties. A peer is judged
twice: gated as it ships, and by a threshold that gives an L0 of k on held-out rows.
"""

from __future__ import annotations

import time
from typing import Any

from results_file import add, read
from study import peers
from study.judge import judge
from study.options import parser
from study.rows import Rows, load

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE

SIZE, TOKENS = {"n_features": 8192, "k": 32, "batch_size": 512}, 100_000
SMALL, SMALL_TOKENS = {"n_features": 2048, "k": 32, "batch_size": 194}, 20_000
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
    BATCH_TOP_K: (peers.batch_top_k(False), peers.common),
    "BatchTopK, dead revived": (peers.batch_top_k(True), peers.common),
    "BatchTopK, rows standardised": (peers.batch_top_k(False), peers.by_row),
    **{f"ReLU, L1 {one:g}": (peers.relu(one), peers.common) for one in PENALTIES},
}


def main() -> None:
    """Run what is missing."""
    asked = parser(__doc__, "quality_peer")
    asked.add_argument("--tokens", type=int, help="to train on")
    asked.add_argument("--arms", choices=(*OURS, *PEERS), nargs="*")
    asked.add_argument("--rates", type=float, nargs="*", default=RATES)
    options = asked.parse_args()
    size, n_train = (SMALL, SMALL_TOKENS) if options.small else (SIZE, TOKENS)
    n_train = options.tokens or n_train
    rows = load("lm", options.folder)
    rows = rows._replace(train=rows.train[:n_train])
    size = {"n_columns": rows.train.shape[1], **size}
    results = read(options.out)

    def run(name: str, rate: float, seed: int) -> float:
        key = f"{name}/{size['n_features']}/{n_train}/{rate:g}/{seed}"
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
        several = name in (*OURS, BATCH_TOP_K) and not options.small
        for seed in SEEDS[1:] if several else ():
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
