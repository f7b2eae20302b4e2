"""Do the real SAELens and dictionary_learning read our files, and we theirs?

    make interop

Needs both packages in the environment it runs in; see the Makefile. Models are fitted
on activations, exported, opened by the packages, and made to encode held-out rows; then
the packages write what they have read, and that is imported. Codes must be nonzero in
the same places, but for features within 1e-5 of their gate (the threshold, or the last
of the k), and equal to 1e-5, both relative to the largest code of the row. Where that
code is itself what two long sums leave of each other, float32's rounding of a sum as
long as the row is the least that is told apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import results_file
import torch
from activations import activations
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE

import skchoice
from skchoice import io as skio

TOLERANCE = 1e-5


def compare(name: str, sae, X: np.ndarray, theirs: torch.Tensor) -> dict:
    """Compare codes and return what was found; raise where they differ."""
    ours = sae.transform(X).toarray()
    theirs = theirs.numpy()
    different = (ours > 0) != (theirs > 0)
    # What only one side has must be near the gate: its threshold, or the last of k.
    codes = np.maximum(ours, theirs)
    rounding = np.finfo(np.float32).eps * np.linalg.norm(X, axis=1, keepdims=True)
    size = np.maximum(codes.max(axis=1, keepdims=True), rounding / TOLERANCE)
    gate = sae.thresholds_[None, :]
    if isinstance(sae, skchoice.TokenChoiceSAE):
        gate = np.sort(codes, axis=1)[:, [-sae.k]]
    distance = np.abs(codes - gate) / size
    far = different & (distance > TOLERANCE)
    error = np.where(different, 0, np.abs(ours - theirs)) / size
    result = {
        "what": name,
        "rows": len(X),
        "l0": float((ours > 0).sum() / len(X)),
        "rows_with_other_nonzeros": int(different.any(axis=1).sum()),
        "of_these_not_at_the_gate": int(far.any(axis=1).sum()),
        "largest_error": float(error.max()),
    }
    result["ok"] = not far.any() and bool(error.max() <= TOLERANCE)
    print(json.dumps(result), flush=True)
    return result


def trips(sae, name: str, X: np.ndarray, folder: Path):
    """Yield the name and codes of every reading, by the packages and back by us."""
    x = torch.from_numpy(X)
    skio.to_saelens(sae, folder / "saelens", model_name="smollm2", hook_name="layer15")
    theirs = SAE.load_from_disk(folder / "saelens")
    yield compare(f"{name}: SAELens reads ours", sae, X, theirs.encode(x))
    theirs.save_model(folder / "saelens back")
    back = skio.from_saelens(folder / "saelens back")
    yield compare(f"{name}: we read what SAELens wrote", back, X, theirs.encode(x))
    codes = torch.from_numpy(back.transform(X).toarray())
    yield compare(f"{name}: through SAELens and back", sae, X, codes)

    skio.to_dictionary_learning(sae, folder / "dl", lm_name="smollm2", layer=15)
    theirs, config = load_dictionary(str(folder / "dl"), "cpu")
    yield compare(f"{name}: dictionary_learning reads ours", sae, X, theirs.encode(x))
    (folder / "dl back").mkdir()
    torch.save(theirs.state_dict(), folder / "dl back" / "ae.pt")
    (folder / "dl back" / "config.json").write_text(json.dumps(config))
    back = skio.from_dictionary_learning(folder / "dl back")
    yield compare(
        f"{name}: we read what dictionary_learning wrote", back, X, theirs.encode(x)
    )


@torch.no_grad()
def main() -> None:
    """Fit, export, open, encode, import."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=Path, help=".npy, .npz or store")
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X = activations(options.activations, 30_000, 128)
    order = np.random.default_rng(0).permutation(len(X))
    held, train = X[order[: options.rows]], X[order[options.rows :]]
    results = []
    for estimator in (
        skchoice.TokenChoiceSAE,
        skchoice.MutualChoiceSAE,
        skchoice.FeatureChoiceSAE,
    ):
        sae = estimator(
            options.features, 32, importance="absolute", max_iter=1, random_state=0
        ).fit(train)
        with tempfile.TemporaryDirectory() as folder:
            results += trips(sae, estimator.__name__, held, Path(folder))
    packages = {name: version(name) for name in ("sae-lens", "dictionary-learning")}
    rows = "given" if options.activations else "made up"
    results_file.write(
        options.out,
        {"packages": packages, "activations": rows, "results": results},
    )
    sys.exit(0 if all(result["ok"] for result in results) else 1)


if __name__ == "__main__":
    main()
