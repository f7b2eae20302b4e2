"""Loss recovered under Zipf, learned and uniform caps, and by the other rules.

    python benchmarks/loss_by_caps.py --folder activations
    python benchmarks/loss_by_caps.py --folder activations --small   # some minutes

The paper reports over 10% more loss recovered with Zipf caps than with uniform ones.
Fitted to the residual stream of the packaged model, judged on documents held out, with
a 95% interval over contexts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import data
import numpy as np
from results_file import add, read
from study.cells import MIDDLE, SMALL, Cell
from study.judge import codes_at_k
from study.options import parser
from study.rows import load
from texts import documents

from skchoice import metrics
from skchoice.lm import load_model, loss_recovered, packaged_model

ARMS = {
    "feature, zipf": ("feature", {"caps": "zipf"}),
    "feature, uniform": ("feature", {"caps": "uniform"}),
    "feature, learned": ("feature", {"caps": "learned"}),
    "mutual": ("mutual", {}),
    "token": ("token", {}),
}


def cells(small: bool) -> Iterator[Cell]:
    """Yield all arms, seed by seed."""
    group, size = ("small", SMALL["lm"]) if small else ("middle", MIDDLE)
    for seed in range(1 if small else 2):
        for label, (estimator, settings) in ARMS.items():
            yield Cell(group, "lm", label, estimator, size | settings, seed)


def main() -> None:
    """Run what is missing."""
    options = parser(__doc__, "loss_by_caps").parse_args()
    results = read(options.out)
    rows = load("lm", options.folder)
    model, tokenizer = load_model(packaged_model())
    every = documents()
    held_out = np.unique(rows.held_out_tokens["document"])
    texts = [every[number][1] for number in held_out]
    for cell in cells(options.small):
        if cell.key in results:
            continue
        sae = cell.fit(rows.train)
        x_hat = sae.inverse_transform(codes_at_k(sae, rows.held_out)[1])
        loss = loss_recovered(
            model,
            tokenizer,
            texts,
            sae,
            layer=data.LM_LAYER,
            max_tokens=1_000 if options.small else 3_000,
            context_length=128,
            batch_size=8,
        )
        found = {
            "group": cell.group,
            "data": cell.data,
            "label": cell.label,
            "seed": cell.seed,
            "n_features": len(sae.components_),
            "k": sae.k,
            "n_train": len(cell.rows(rows.train)),
            "fvu": metrics.fvu(rows.held_out, x_hat),
            **dataclasses.asdict(loss),
        }
        print(found, flush=True)
        results = add(options.out, cell.key, found)


if __name__ == "__main__":
    main()
