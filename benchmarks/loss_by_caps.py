"""Loss recovered under Zipf, learned and uniform caps, and by the other rules.

    python benchmarks/loss_by_caps.py --folder activations

The paper reports over 10% more loss recovered with Zipf caps than with uniform ones.
Fitted to the residual stream of the packaged model, judged on documents held out, with
a 95% interval over contexts.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import data
import numpy as np
from quality import read, write
from study.judge import codes_at_k
from study.rows import load
from texts import documents

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, metrics
from skchoice.lm import load_model, loss_recovered, packaged_model

OUT = Path(__file__).parent / "results" / "study" / "loss_by_caps.json"
ARMS = {
    "feature, zipf": (FeatureChoiceSAE, {"caps": "zipf"}),
    "feature, uniform": (FeatureChoiceSAE, {"caps": "uniform"}),
    "feature, learned": (FeatureChoiceSAE, {"caps": "learned"}),
    "mutual": (MutualChoiceSAE, {}),
    "token": (TokenChoiceSAE, {}),
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("activations"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--n-features", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--held-out-tokens", type=int, default=3_000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rows = load("lm", options.folder)
    model, tokenizer = load_model(packaged_model())
    held_out = np.unique(rows.held_out_tokens["document"])
    every = documents()
    texts = [every[number][1] for number in held_out]
    results = read(options.out)
    for seed in range(options.seeds):
        for name, (choice, settings) in ARMS.items():
            if f"{name}/{seed}" in results:
                continue
            sae = choice(
                options.n_features,
                options.k,
                max_iter=1,
                batch_size=512,
                learning_rate=2.5e-3,
                random_state=seed,
                **settings,
            ).fit(rows.train[: options.tokens])
            codes = codes_at_k(sae, rows.held_out)[1]
            x_hat = sae.inverse_transform(codes)
            loss = loss_recovered(
                model,
                tokenizer,
                texts,
                sae,
                layer=data.LM_LAYER,
                max_tokens=options.held_out_tokens,
                context_length=128,
                batch_size=8,
            )
            results[f"{name}/{seed}"] = {
                "arm": name,
                "seed": seed,
                "n_features": options.n_features,
                "k": options.k,
                "n_train": options.tokens,
                "fvu": metrics.fvu(rows.held_out, x_hat),
                **dataclasses.asdict(loss),
            }
            write(options.out, results)
            print(results[f"{name}/{seed}"], flush=True)


if __name__ == "__main__":
    main()
