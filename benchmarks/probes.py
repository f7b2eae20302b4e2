"""Probes on codes against probes on activations and on principal components.

    python benchmarks/probes.py --folder activations
    python benchmarks/probes.py --folder activations --small   # some minutes

What a linear probe reads off the residual stream of a language model: the kind of text
a token is from, whether it is early in its document, and what sort of token comes next.
Fitted on tokens of some documents and judged on those of others. What a probe gains on
one on activations is given with a 95% interval over documents, which are drawn anew.
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
from study.cells import ESTIMATORS, LARGE, SMALL, Cell
from study.options import parser
from study.rows import load
from texts import documents

from skchoice.lm import load_model, packaged_model

# Of the inverse penalties, the one that does best on a third of the probe's documents.
PENALTIES = (0.01, 0.1, 1.0, 10.0)
EARLY = 256  # tokens of a document that count as its beginning
DRAWS = 2000  # of the documents, for an interval
UNKNOWN = ""  # label of a token that has none


def main() -> None:
    """Fit the autoencoders once, and all probes on what they return."""
    options = parser(__doc__, "probes").parse_args()
    group, size = ("small", SMALL["lm"]) if options.small else ("large", LARGE)
    n_probe = 5_000 if options.small else 100_000
    results = read(options.out)
    rows = load("lm", options.folder)
    # Of the rows that the autoencoders are fitted to, from beginning to end, so that
    # they are of many documents.
    n_train = min(size.get("tokens", len(rows.train)), len(rows.train))
    train = np.linspace(0, n_train - 1, n_probe).astype(int)
    sorts, kinds = sorts_of_tokens(), np.array([kind for kind, _ in documents()])
    labels = labels_of(rows.train_tokens, kinds, sorts)
    labels_new = labels_of(rows.held_out_tokens, kinds, sorts)
    x, x_new = np.float32(rows.train[train]), np.float32(rows.held_out)
    names = encoders(size)
    keys = {(name, one): f"{group}/{name}/{one}" for name in names for one in labels}
    if set(keys.values()) <= results.keys():
        return
    on_activations: dict[str, NDArray] = {}
    for name, encoder in names.items():
        if isinstance(encoder, Cell):
            encoder = encoder.fit(rows.train)
        else:
            encoder.fit(x)
        seen, unseen = encoder.transform(x), encoder.transform(x_new)
        for label in labels:
            y_new = labels_new[label]
            right, found = judged(seen, labels[label][train], unseen, y_new)
            other = on_activations.setdefault(label, right)
            document = rows.held_out_tokens["document"][y_new != UNKNOWN]
            about = {"group": group, "columns": name, "label": label}
            gained = gain(right, other, document)
            reached = {"gain": gained, "within_2_points": bool(gained[0] >= -0.02)}
            found = about | found | reached
            print(found, flush=True)
            results = add(options.out, keys[name, label], found)


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


def judged(seen: Any, y: NDArray, new: Any, y_new: NDArray) -> tuple[NDArray, dict]:
    """Choose a penalty on the columns of known tokens, and judge it on new ones.

    Returns of each new token that has a label whether it was right, and the measures.
    """
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
    right = probe(best).fit(seen, y).predict(new) == y_new
    return right, {
        "accuracy": float(right.mean()),
        "most_frequent": counts.max() / counts.sum(),
        "penalty": best,
        "n_columns": seen.shape[1],
        "n_fitted": len(y),
        "n_judged": len(y_new),
    }


def gain(right: NDArray, other: NDArray, document: NDArray) -> list[float]:
    """Return the gain in accuracy on another probe, and the ends of its interval."""
    _, which = np.unique(document, return_inverse=True)
    gained = np.bincount(which, right.astype(float) - other)
    tokens = np.bincount(which)
    shares = np.full(len(tokens), 1 / len(tokens))
    drawn = np.random.default_rng(0).multinomial(len(tokens), shares, DRAWS)
    ends = np.quantile(drawn @ gained / (drawn @ tokens), [0.025, 0.975])
    return [float(gained.sum() / tokens.sum()), *ends.tolist()]


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
