"""Extraction against the bare forward pass, and its memory against the text's length.

    python benchmarks/extract.py --out benchmarks/results/extract.json

``speed``: tokens per second of `store_activations` on the packaged SmolLM2-135M, and of
the forward pass alone, truncated at the same layer, on the same batches; the two take
turns in one process. Extraction is timed whole, with reading, tokenising, hashing and
writing. ``memory``: peak anonymous memory of extractions from text files of growing
length, each in a process of its own, with a small random GPT-2 so that it is quick.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import results_file
import torch
from memory import Peak

from skchoice.lm import load_model, packaged_model, store_activations
from skchoice.lm.contexts import Cutting, batches
from skchoice.lm.sites import decoder_blocks

CONTEXT_LENGTH, BATCH_SIZE = 128, 8


class Stop(Exception):
    """Ends the bare forward pass."""


def bare_pass(model, layer: int, ids: list[torch.Tensor]) -> None:
    """Run batches as far as a layer, and keep nothing."""

    def stop(*_: object) -> None:
        raise Stop

    handle = decoder_blocks(model)[layer].register_forward_hook(stop)
    for batch in ids:
        try:
            with torch.no_grad():
                model(input_ids=batch, use_cache=False)
        except Stop:
            pass
    handle.remove()


def measure_speed(source: str | None, layer: int, repeats: int, n_texts: int) -> dict:
    """Time the two in turns: a few bare batches each time extraction asks for a text.

    Both in wall time and in processor time, which other work on the machine disturbs
    less.
    """
    model, tokenizer = load_model(source or packaged_model())
    names = sorted(topics)
    cutting = Cutting(CONTEXT_LENGTH, False, True, True)
    turns = []
    for repeat in range(-1, repeats):  # the first to warm up
        first = max(repeat, 0) * n_texts
        n = n_texts if repeat >= 0 else 1
        picked = (names[number % len(names)] for number in range(first, first + n))
        texts = [topics[name][:4000] for name in picked]
        packed = list(batches(cutting.contexts(tokenizer, texts), BATCH_SIZE))
        ids = [torch.from_numpy(b.tokens["token_id"].astype(np.int64)) for b in packed]
        bare = np.zeros(2)

        def alternating(texts=texts, ids=ids, bare=bare):
            for number, text in enumerate(texts):
                part = slice(*(len(ids) * (number + i) // len(texts) for i in (0, 1)))
                start = clocks()
                bare_pass(model, layer, ids[part])
                bare += clocks() - start
                yield text

        with tempfile.TemporaryDirectory() as folder:
            start = clocks()
            store_activations(
                model,
                tokenizer,
                alternating(),
                folder,
                layers=layer,
                context_length=CONTEXT_LENGTH,
                batch_size=BATCH_SIZE,
            )
            extraction = clocks() - start - bare
        if repeat >= 0:
            n_tokens = sum(int((b.tokens["document"] >= 0).sum()) for b in packed)
            turns.append((n_tokens, bare, extraction))
            print(n_tokens, "tokens, shares", bare / extraction, flush=True)
    n_tokens = sum(n for n, _, _ in turns)
    seconds = {
        name: sum(turn[i] for turn in turns)
        for i, name in ((1, "bare"), (2, "extraction"))
    }
    return {
        "what": "speed",
        "layer": layer,
        "tokens": n_tokens,
        "threads": torch.get_num_threads(),
        "tokens_per_second": {k: float(n_tokens / t[0]) for k, t in seconds.items()},
        "share_of_bare": float(seconds["bare"][0] / seconds["extraction"][0]),
        "share_in_processor_time": float(seconds["bare"][1] / seconds["extraction"][1]),
    }


def clocks() -> np.ndarray:
    """Return wall time and processor time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def small_model(folder: str) -> None:
    """Write a small random GPT-2 with one token per byte."""
    import tokenizers
    import transformers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>"
    ).save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=256, n_embd=32, n_layer=1, n_head=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


def measure_memory(megabytes: float, folder: str) -> dict:
    """Extract from a text file of a given length, and note the peak."""
    path = Path(folder, f"{megabytes}.txt")
    line = "The quick brown fox jumps over the lazy dog, again and again.\n"
    path.write_text(line * int(megabytes * 1e6 / len(line)))
    model, tokenizer = load_model(folder, device="cpu")
    settings = dict(layers=0, context_length=256, batch_size=64, shard_rows=65536)
    warm = [line * 3000]  # loads libraries, and fills buffers once
    store_activations(model, tokenizer, warm, Path(folder, "warm"), **settings)
    start = time.perf_counter()
    with Peak("RssAnon") as peak:
        stores = store_activations(
            model, tokenizer, path, Path(folder, f"out{megabytes}"), **settings
        )
    [store] = stores.values()
    return {
        "what": "memory",
        "text_mb": megabytes,
        "rows": len(store),
        "peak_mb": peak.value,
        "beyond_start_mb": peak.value - peak.start,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the packaged SmolLM2-135M if not given")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--texts", type=int, default=76, help="documents of each")
    parser.add_argument("--megabytes", type=float, nargs="*", default=[1, 4, 16])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure_memory(float(options.only[0]), options.only[1])))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        small_model(folder)
        for megabytes in options.megabytes:
            done = subprocess.run(
                [sys.executable, sys.argv[0], "--only", str(megabytes), folder],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(results[-1], flush=True)
    if options.repeats:
        results.append(
            measure_speed(options.model, options.layer, options.repeats, options.texts)
        )
        print(results[-1])
    results_file.write(options.out, results)


if __name__ == "__main__":
    main()
