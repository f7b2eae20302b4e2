"""Three sparse autoencoders on the residual stream of a real language model.

Activations of SmolLM2-135M on the Python documentation; TokenChoice, MutualChoice and
FeatureChoice autoencoders with the same budget, compared on topics that none of them
was trained on; what a few features fire on; a picture of where the matches went; and a
page on which to look at all features.

Run it as ``python examples/quickstart.py``, with ``--help`` for its options. Nothing is
downloaded unless ``--model`` names a model on the hub, such as gpt2. Results go to
``quickstart_output``, and so do the activations: a second run starts from those.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import time
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse

from skchoice import (
    FeatureChoiceSAE,
    MutualChoiceSAE,
    TokenChoiceSAE,
    metrics,
    report,
)
from skchoice.lm import (
    Activations,
    extract_activations,
    load_model,
    packaged_model,
    top_contexts,
)
from skchoice.plots import DensityDisplay, L0Display

PACKAGED = "packaged SmolLM2-135M"
N_HELD_OUT = 8_000
# The start of each held-out topic only, so that no long one is most of them.
HELD_OUT_CHARACTERS = 4_000


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    train, held_out = cached_activations(args)
    print(
        f"{len(train):,} training rows and {len(held_out):,} held-out rows of "
        f"{train.shape[1]} numbers"
    )

    saes, codes, results = [], [], []
    for choice in (TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE):
        sae = choice(
            args.n_features, args.k, max_iter=args.passes, random_state=0, verbose=1
        )
        start = time.perf_counter()
        sae.fit(train)
        seconds = time.perf_counter() - start
        saes.append(sae)
        codes.append(sae.transform(held_out.activations))
        results.append(
            {
                "estimator": choice.__name__,
                "explained_variance": sae.score(held_out.activations),
                "l0": metrics.l0(codes[-1]),
                "dead_features": int(sae.dead_features_.sum()),
                "training_seconds": seconds,
                "training_tokens_per_second": sae.n_iter_ * len(train) / seconds,
            }
        )

    print_table(results, args)
    print_features(held_out, codes[-1])
    draw(saes, codes, args.out / "quickstart.png")
    report(
        saes[-1],
        held_out.activations,
        tokens=held_out.tokens,
        document=held_out.document,
        position=held_out.position,
        path=args.out / "report.html",
        title=f"{args.model}, residual stream after block {args.layer}",
    )
    settings = {
        "model": args.model,
        "layer": args.layer,
        "n_train": len(train),
        "n_held_out": len(held_out),
        "n_passes": args.passes,
        "n_features": args.n_features,
        "k": args.k,
    }
    text = json.dumps({"settings": settings, "results": results}, indent=2)
    (args.out / "results.json").write_text(text + "\n")
    print(f"\nIn {args.out}: quickstart.png, results.json, and report.html to look at")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fit three sparse autoencoders to activations of a language model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=PACKAGED, help="or a hub name, a folder, a .gguf file")
    add("--layer", type=int, default=15, help="block whose output is read, from 0")
    add("--tokens", type=int, default=36_000, help="rows to train on")
    add("--passes", type=int, default=4, help="over these rows")
    add("--n-features", type=int, default=4096, help="size of the dictionary")
    add("--k", type=int, default=32, help="matches per token, on average")
    add("--out", type=Path, default=Path("quickstart_output"), help="folder to write")
    return parser.parse_args()


# ------------------------------------------------------------------------ activations

COLUMNS = ("activations", "token_ids", "tokens", "document", "position")


def cached_activations(args: argparse.Namespace) -> tuple[np.ndarray, Activations]:
    """Training rows and held-out activations, from the last run if it had the same."""
    # The text is the documentation of the Python that runs this.
    key = [args.model, args.layer, args.tokens, N_HELD_OUT, platform.python_version()]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    path = args.out / f"activations_{name}.npz"
    if not path.exists():
        save_activations(path, *read_activations(args))
    with np.load(path) as stored:
        columns = {name: stored[name] for name in COLUMNS}
        origin = json.loads(str(stored["origin"]))
        return stored["train"], Activations(**columns, **origin)


def save_activations(path: Path, train: Activations, held_out: Activations) -> None:
    columns = {name: getattr(held_out, name) for name in COLUMNS}
    origin = {name: getattr(held_out, name) for name in ("layer", "hook", "dropped")}
    # A run that is broken off must not leave half a file under the final name.
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, train=train.activations, origin=json.dumps(origin), **columns)
    os.replace(partial, path)


def read_activations(args: argparse.Namespace) -> tuple[Activations, Activations]:
    """Run the model on the topics of the documentation; some are held out."""
    print("Reading activations; the next run will find them in", args.out)
    texts = [topics[name] for name in sorted(topics)]
    random.Random(0).shuffle(texts)
    source = packaged_model() if args.model == PACKAGED else args.model
    model, tokenizer = load_model(source)
    held_out = extract_activations(
        model,
        tokenizer,
        [text[:HELD_OUT_CHARACTERS] for text in texts],
        layer=args.layer,
        max_tokens=N_HELD_OUT,
        verbose=1,
    )
    train = extract_activations(
        model,
        tokenizer,
        texts[held_out.document.max() + 1 :],
        layer=args.layer,
        max_tokens=args.tokens,
        verbose=1,
    )
    if len(train) < args.tokens:
        print(f"The documentation has only {len(train):,} tokens to train on.")
    return train.without_outliers(), held_out.without_outliers()


# ---------------------------------------------------------------------------- results


def print_table(results: list[dict], args: argparse.Namespace) -> None:
    print(f"\nOn the held-out rows, {args.n_features} features, k = {args.k}:\n")
    print(
        f"{'':<18}{'explained':>11}{'measured':>10}{'dead':>10}{'training':>12}\n"
        f"{'':<18}{'variance':>11}{'L0':>10}{'features':>10}{'tokens/s':>12}"
    )
    for row in results:
        print(
            f"{row['estimator']:<18}{row['explained_variance']:>11.4f}"
            f"{row['l0']:>10.2f}{row['dead_features']:>10}"
            f"{row['training_tokens_per_second']:>12,.0f}"
        )


def print_features(held_out: Activations, codes: sparse.csr_array) -> None:
    """Show where three features of middling density fire most strongly."""
    by_density = np.argsort(-metrics.density(codes), kind="stable")
    n_firing = np.count_nonzero(metrics.density(codes))
    print("\nFeatures of the FeatureChoiceSAE, where they fire most strongly:")
    for share in (0.2, 0.35, 0.5):
        feature = by_density[int(share * n_firing)]
        n_tokens = codes[:, [feature]].nnz
        print(f"\nfeature {feature}, on {n_tokens} of {codes.shape[0]:,} tokens")
        for context in top_contexts(held_out, codes, int(feature)):
            left, token, right = (
                text.replace("\n", "\\n")
                for text in (context.left, context.token, context.right)
            )
            print(f"{context.activation:8.2f}  {left[-38:]:>38}[{token}]{right[:38]}")


def draw(saes: list, codes: list, path: Path) -> None:
    figure, (left, right) = plt.subplots(
        ncols=2, figsize=(11, 4.2), layout="constrained"
    )
    for sae, found in zip(saes, codes, strict=True):
        # FeatureChoiceSAE gets its caps from such a fit, made in its mutual phase.
        zipf = isinstance(sae, MutualChoiceSAE)
        DensityDisplay.from_estimator(sae, ax=left, zipf=zipf)
        L0Display.from_codes(found, right, label=type(sae).__name__)
    left.set_title("How often each feature fires")
    right.set_title("How many features fire on a token (held out)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
