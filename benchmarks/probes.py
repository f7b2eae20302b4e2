"""Probes on codes against probes on activations and on principal components.

    python benchmarks/probes.py --folder activations

What a linear probe reads off the residual stream of a language model: the kind of text
a token is from, whether it is early in its document, and what sort of token comes next.
Fitted on tokens of some documents and judged on those of others.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import read, write
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler
from study.rows import Rows, load
from texts import documents

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.lm import load_model, packaged_model

OUT = Path(__file__).parent / "results" / "study" / "probes.json"
# Of the inverse penalties, the one that does best on a third of the probe's documents.
PENALTIES = (0.01, 0.1, 1.0)
EARLY = 256  # tokens of a document that count as its beginning


def main() -> None:
    """Fit the autoencoders once, and all probes on what they return."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("activations"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--n-features", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--probe-tokens", type=int, default=20_000)
    options = parser.parse_args()
    rows = load("lm", options.folder)
    labels = labels_of(rows)
    # The probe's tokens come from the end of the training documents.
    train = slice(len(rows.train) - options.probe_tokens, None)
    results = read(options.out)
    for name, encode in encoders(rows, options).items():
        wanted = [label for label in labels if f"{name}/{label}" not in results]
        if not wanted:
            continue
        encoder = encode()
        # The rows are in the order of documents, so the last third is of others.
        seen = encoder.transform(np.float32(rows.train[train]))
        new = encoder.transform(np.float32(rows.held_out))
        for label in wanted:
            y, y_new = labels[label]
            y = y[train]
            n_fit = 2 * options.probe_tokens // 3
            found = {
                penalty: probe(penalty)
                .fit(seen[:n_fit], y[:n_fit])
                .score(seen[n_fit:], y[n_fit:])
                for penalty in PENALTIES
            }
            best = max(found, key=found.__getitem__)
            _, counts = np.unique(y_new, return_counts=True)
            results[f"{name}/{label}"] = {
                "columns": name,
                "label": label,
                "accuracy": probe(best).fit(seen, y).score(new, y_new),
                "most_frequent": counts.max() / counts.sum(),
                "penalty": best,
                "n_columns": seen.shape[1],
                "n_fitted": options.probe_tokens,
                "n_judged": len(y_new),
            }
            write(options.out, results)
            print(results[f"{name}/{label}"], flush=True)


def probe(penalty: float):
    """Return a probe; columns are scaled, zeros stay zeros."""
    return make_pipeline(MaxAbsScaler(), LogisticRegression(C=penalty, max_iter=100))


def encoders(rows: Rows, options) -> dict:
    """Return what turns activations into columns for a probe."""
    some = np.float32(rows.train[-options.probe_tokens :])
    found = {
        "activations": lambda: StandardScaler().fit(some),
        f"{options.k} principal components": lambda: PCA(options.k).fit(some),
    }
    for choice in (FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE):
        found[f"codes of {choice.__name__}"] = lambda choice=choice: choice(
            options.n_features,
            options.k,
            max_iter=1,
            batch_size=512,
            learning_rate=2.5e-3,
            random_state=0,
        ).fit(rows.train[-options.tokens :])
    found["nothing"] = lambda: FunctionTransformer(lambda X: np.zeros((len(X), 1)))
    return found


def labels_of(rows: Rows) -> dict[str, tuple[NDArray, NDArray]]:
    """Return each label for the training rows and for those held out."""
    kinds = np.array([kind for kind, _ in documents()])
    tokenizer = load_model(packaged_model())[1]
    sorts = np.array(
        [sort_of(tokenizer.decode([i])) for i in range(len(tokenizer))], dtype=object
    )
    found = {}
    for tokens in (rows.train_tokens, rows.held_out_tokens):
        following = np.append(tokens["token_id"][1:], tokens["token_id"][-1])
        for label, values in {
            "kind of text": kinds[tokens["document"]],
            "part of document": tokens["position"] < EARLY,
            "next token": sorts[following].astype(str),
        }.items():
            found.setdefault(label, []).append(values)
    return {label: tuple(values) for label, values in found.items()}


def sort_of(text: str) -> str:
    """Return the sort of a token: what it is made of, and whether it begins a word."""
    if not text.strip():
        return "line break" if "\n" in text else "space"
    if re.fullmatch(r"\s*\d+", text):
        return "digits"
    if text.strip()[0].isalpha():
        return "word" if text[0].isspace() else "rest of word"
    return "punctuation"


if __name__ == "__main__":
    main()
