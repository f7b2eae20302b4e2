"""Loss recovered by the three estimators on the packaged SmolLM2-135M.

    python benchmarks/loss_recovered.py --out benchmarks/results/loss_recovered.json

Fitted to layer 15 on the documentation of Python, judged on topics that none of them
was trained on: next-token cross-entropy with their reconstructions spliced in, between
that of the model and that of a zero ablation, with a 95% interval over contexts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import results_file

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, metrics
from skchoice.lm import load_model, loss_recovered, packaged_model, store_activations

SETTINGS = dict(context_length=128, batch_size=8)


def main() -> None:
    """Extract, fit and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the packaged SmolLM2-135M if not given")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=36_000, help="to train on")
    parser.add_argument("--held-out-tokens", type=int, default=4_000)
    parser.add_argument("--n-features", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--stores", type=Path, help="kept there for another run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    documents = [topics[name] for name in sorted(topics)]
    random.Random(0).shuffle(documents)
    held_out, train = [text[:4000] for text in documents[:16]], documents[16:]
    model, tokenizer = load_model(options.model or packaged_model())
    with tempfile.TemporaryDirectory() as folder:
        stores = [
            store_activations(
                model,
                tokenizer,
                texts,
                (options.stores or Path(folder)) / name,
                layers=options.layer,
                max_tokens=n_rows,
                verbose=1,
                **SETTINGS,
            )[options.layer, "resid_post"]
            for name, texts, n_rows in (
                ("train", train, options.tokens),
                ("held_out", held_out, options.held_out_tokens),
            )
        ]
        results = [
            judged(choice, *stores, model, tokenizer, held_out, options)
            for choice in (TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE)
        ]
    settings = {"layer": options.layer, "k": options.k, **SETTINGS}
    settings |= {"n_features": options.n_features, "n_train": len(stores[0])}
    results_file.write(options.out, {"settings": settings, "results": results})


def judged(choice, train, new, model, tokenizer, texts, options) -> dict:
    """Fit one estimator and measure what it recovers."""
    start = time.perf_counter()
    sae = choice(options.n_features, options.k, random_state=0).fit(
        train.without_outliers()
    )
    middle = time.perf_counter()
    loss = loss_recovered(
        model,
        tokenizer,
        texts,
        sae,
        layer=options.layer,
        max_tokens=options.held_out_tokens,
        **SETTINGS,
    )
    result = {
        "estimator": choice.__name__,
        **dataclasses.asdict(loss),
        "explained_variance": sae.score(new.without_outliers()),
        "l0": metrics.l0(sae.transform(new.without_outliers())),
        "dead_features": int(sae.dead_features_.sum()),
        "fit_seconds": middle - start,
        "loss_seconds": time.perf_counter() - middle,
    }
    print(json.dumps(result, indent=1), flush=True)
    return result


if __name__ == "__main__":
    main()
