"""Probes on codes against probes on activations and on principal components.

    python benchmarks/probes.py --folder activations
    python benchmarks/probes.py --folder activations --small   # some minutes

What a linear probe reads off the residual stream of a language model: the kind of text
a token is from, whether it is early in its document, and what sort of token comes next.
Fitted on tokens of some documents and judged on those of others.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results_file import add, read
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, StandardScaler
from study.cells import ESTIMATORS, MIDDLE, SMALL, Cell
from study.options import parser
from study.rows import load
from texts import documents

from skchoice.lm import load_model, packaged_model

# Of the inverse penalties, the one that does best on a third of the probe's documents.
PENALTIES = (0.01, 0.1, 1.0)
EARLY = 256  # tokens of a document that count as its beginning
UNKNOWN = ""  # label of a token that has none


def main() -> None:
    """Fit the autoencoders once, and all probes on what they return."""
    options = parser(__doc__, "probes").parse_args()
    group, size = ("small", SMALL["lm"]) if options.small else ("middle", MIDDLE)
    n_probe = 5_000 if options.small else 20_000
    results = read(options.out)
    rows = load("lm", options.folder)
    # Of the rows that the autoencoders are fitted to, from beginning to end, so that
    # they are of many documents.
    train = np.linspace(0, size["tokens"] - 1, n_probe).astype(int)
    sorts, kinds = sorts_of_tokens(), np.array([kind for kind, _ in documents()])
    labels = labels_of(rows.train_tokens, kinds, sorts)
    labels_new = labels_of(rows.held_out_tokens, kinds, sorts)
    x, x_new = np.float32(rows.train[train]), np.float32(rows.held_out)
    for name, encoder in encoders(size).items():
        keys = {label: f"{group}/{name}/{label}" for label in labels}
        if set(keys.values()) <= results.keys():
            continue
        if isinstance(encoder, Cell):
            encoder = encoder.fit(rows.train)
        else:
            encoder.fit(x)
        seen, unseen = encoder.transform(x), encoder.transform(x_new)
        for label, key in keys.items():
            if key in results:
                continue
            found = judged(seen, labels[label][train], unseen, labels_new[label])
            about = {"group": group, "columns": name, "label": label}
            print(key, found, flush=True)
            results = add(options.out, key, about | found)


def encoders(size: dict) -> dict[str, Any]:
    """Return what turns activations into columns for a probe, not fitted yet."""
    components = PCA(size["k"], random_state=0)
    return {
        "activations": StandardScaler(),
        f"{size['k']} principal components": components,
        **{
            f"codes of {estimator.__name__}": Cell("probes", "lm", name, name, size, 0)
            for name, estimator in ESTIMATORS.items()
        },
        "nothing": FunctionTransformer(lambda X: np.zeros((len(X), 1))),
    }


def judged(seen: Any, y: NDArray, new: Any, y_new: NDArray) -> dict:
    """Choose a penalty on the columns of known tokens, and judge it on new ones."""
    seen, y = seen[y != UNKNOWN], y[y != UNKNOWN]
    new, y_new = new[y_new != UNKNOWN], y_new[y_new != UNKNOWN]
    # The rows are in the order of documents, so the last third is of others.
    n_fit = 2 * len(y) // 3
    scores = {
        penalty: probe(penalty)
        .fit(seen[:n_fit], y[:n_fit])
        .score(seen[n_fit:], y[n_fit:])
        for penalty in PENALTIES
    }
    best = max(scores, key=scores.__getitem__)
    _, counts = np.unique(y_new, return_counts=True)
    return {
        "accuracy": probe(best).fit(seen, y).score(new, y_new),
        "most_frequent": counts.max() / counts.sum(),
        "penalty": best,
        "n_columns": seen.shape[1],
        "n_fitted": len(y),
        "n_judged": len(y_new),
    }


def probe(penalty: float):
    """Return a probe; columns are scaled, zeros stay zeros."""
    return make_pipeline(MaxAbsScaler(), LogisticRegression(C=penalty, max_iter=100))


def labels_of(tokens: NDArray, kinds: NDArray, sorts: NDArray) -> dict[str, NDArray]:
    """Return each label of some tokens that are in the order of their documents."""
    document, position = tokens["document"], tokens["position"]
    place = np.arange(len(tokens)) - np.searchsorted(document, document)
    # The first tokens of contexts are no rows, so the next row is not always the next
    # token.
    follows = (np.diff(document) == 0) & (np.diff(position) == 1)
    following = np.where(follows, sorts[tokens["token_id"][1:]], UNKNOWN)
    return {
        "kind of text": kinds[document],
        "part of document": np.where(place < EARLY, "beginning", "later"),
        "next token": np.append(following, UNKNOWN),
    }


def sorts_of_tokens() -> NDArray:
    """Return the sort of each token of the language model."""
    tokenizer = load_model(packaged_model())[1]
    return np.array([sort_of(tokenizer.decode([i])) for i in range(len(tokenizer))])


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
