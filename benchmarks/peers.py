"""A training step, and what it learns, of other libraries and ours at equal work.

    make peers    # the libraries, in .venv-peers
    .venv-peers/bin/python benchmarks/peers.py time --out benchmarks/results/peers.json
    .venv-peers/bin/python benchmarks/peers.py quality --out ...

All have the same rows, width, ``k``, batch and, for ``quality``, number of steps. What
the variants of a peer are is said in ``arms``; ours are ``as shipped``, with the
auxiliary loss that is their default, and ``no auxiliary``, which is the equal work:
that of the peers computes nothing until features have been silent for millions of
tokens.

``time``: a step is everything done for a batch. Arms take turns in one process. Each is
checked first: it must keep exactly ``k`` matches per token, and its squared error must
be that of our exact selection with its parameters (but for those that round to
bfloat16, where the difference is only reported). ``times_ours`` is the median over
blocks of its step over ours under the same rule.

``quality``: after the same number of tokens, the FVU of rows held out and the L0 that
each way to encode single rows gives; then, so that L0 is ``k`` for all, the FVU of the
same rows with matches chosen in batches as in training.

Of more arms than fit a short time, run some: the records of a file are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import results_file
import torch
from activations import activations
from arms import LEARNING_RATE, PEERS, Arm, Encoding, Entry, Size
from step import ARMS as OURS
from step import check_exact, prepare
from timing import earlier, encoder_gemm, hardware, take_turns
from torch import Tensor

from skchoice import metrics
from skchoice.batches import shuffled_batches
from skchoice.inputs import Rows
from skchoice.model import Parameters, decode, encoder_input
from skchoice.rules import MutualChoice, Rule, TokenChoice
from skchoice.tiles import EncoderAffinities
from skchoice.warm import WarmAllocator

RULES = {"mutual": MutualChoice, "token": TokenChoice}
# Feature Choice is set against Mutual Choice's peers, having none of its own.
OUR_RULES = {"mutual": ("mutual", "feature"), "token": ("token",)}
AUXILIARY = {"no auxiliary": None, "as shipped": "zipf"}
# Ours are timed in the steady state: few features underused, thresholds warm.
OUR_STEPS = 150
SAME_ERROR = 1e-4


def our_name(rule: str, variant: str) -> str:
    return f"skchoice {rule}, {variant}"


def standardised(X: np.ndarray, scale: float) -> Tensor:
    """Centre rows, and give them a root mean square norm."""
    x = torch.from_numpy(X - X.mean(0, dtype=np.float64).astype(np.float32))
    return x * (scale / x.square().sum(1).mean().sqrt())


def batches_of(x: Tensor, batch_size: int):
    rows = Rows(x, None, torch.device("cpu"))
    return shuffled_batches(rows, rows.units(), batch_size, seed=0)


# ------------------------------------------------------------------------------ time


def our_reconstruction(encoding: Encoding, x: Tensor, rule: Rule) -> Tensor:
    """Select matches by our rule, with a peer's parameters, and decode them."""
    parameters = Parameters(*encoding, relative=False)
    affinities = EncoderAffinities(parameters, encoder_input(x, parameters), len(x))
    return decode(WarmAllocator()(affinities, rule).matches, parameters)


def checked(entry: Entry, arm: Arm, x: Tensor, size: Size) -> dict:
    """Compare a peer's matches and error with ours; raise where they differ."""
    with entry.rounding():
        x_hat, l0 = arm.reconstruct(x, training=True)
    found = {"l0_training": l0}
    encoding = arm.encoding()
    if encoding is None:
        return found
    ours = our_reconstruction(encoding, x, RULES[entry.rule](size.k))
    error = (x - x_hat).square().sum().item()
    difference = abs((x - ours).square().sum().item() / error - 1.0)
    found["error_difference"] = difference
    exact = l0 == size.k and difference <= SAME_ERROR
    if entry.precision == "highest" and not exact:
        raise AssertionError(f"{entry.name} computes something else: {found}")
    return found


def measure_times(
    entries: list[Entry], rule: str, X: np.ndarray, size: Size, blocks: int
) -> list[dict]:
    steps: dict[str, Callable[[], object]] = {}
    records: dict[str, dict] = {}
    for of in OUR_RULES[rule]:
        for variant, aux in AUXILIARY.items():
            name = our_name(of, variant)
            step, state, batches = prepare(
                of,
                X,
                size.n_features,
                size.k,
                size.batch_size,
                warm_steps=OUR_STEPS // 2,
                aux=aux,
            )
            for _ in range(OUR_STEPS):
                kept = step()
            check_exact(state, state.standardisation.apply(next(batches)), kept)
            underused = 0 if state.underused is None else len(state.underused)
            steps[name] = step
            records[name] = {
                **identity("skchoice", of, variant),
                "underused": underused / size.n_features,
            }
    for entry in entries:
        arm = entry.build(size)
        batches = batches_of(standardised(X, arm.scale), size.batch_size)

        def step(entry=entry, arm=arm, batches=batches) -> None:
            with entry.rounding():
                arm.step(next(batches))

        step()
        steps[entry.name] = step
        records[entry.name] = {
            **identity(entry.package, entry.rule, entry.variant),
            **checked(entry, arm, next(batches), size),
        }
        print(f"checked {entry.name}", flush=True)
    gemm = encoder_gemm(size.batch_size, size.n_columns, size.n_features)
    times = take_turns(steps, gemm, blocks)
    ours = np.array(times[our_name(rule, "no auxiliary")].taken)
    for name, record in records.items():
        over = np.array(times[name].taken) / ours
        record |= times[name].summary()
        record["times_ours"] = float(np.median(over))
        record["times_ours_low"] = float(np.quantile(over, 0.1))
        record["times_ours_high"] = float(np.quantile(over, 0.9))
        show(record)
    return list(records.values())


# --------------------------------------------------------------------------- quality


def our_quality(
    rule: str, aux: str | None, train: np.ndarray, held: np.ndarray, size: Size, n: int
) -> dict:
    sae = OURS[rule](
        size.n_features,
        size.k,
        aux=aux,
        batch_size=size.batch_size,
        max_iter=n,
        learning_rate=LEARNING_RATE,
        random_state=0,
        device="cpu",
    ).fit(train)
    codes = sae.transform(held)
    parts = [
        sae.inverse_transform(sae.allocate(part))
        for part in in_batches(held, size.batch_size)
    ]
    return {
        "steps": sae.history_[-1]["step"],
        "fvu": 1.0 - sae.score(held),
        "l0": codes.nnz / len(held),
        "fvu_at_k": metrics.fvu(held, np.concatenate(parts)),
    }


def peer_quality(entry: Entry, train: np.ndarray, held: np.ndarray, size: Size) -> dict:
    arm = entry.build(size)
    together = standardised(np.concatenate([train, held]), arm.scale)
    batches = batches_of(together[: len(train)], size.batch_size)
    held_x = together[len(train) :]
    with entry.rounding():
        for _ in range(size.n_steps):
            arm.step(next(batches))
        found: dict[str, float] = {}
        for training in (False, True):
            parts = [
                arm.reconstruct(part, training)
                for part in in_batches(held_x, size.batch_size)
            ]
            x_hat = torch.cat([part for part, _ in parts])
            fvu = metrics.fvu(held_x.numpy(), x_hat.numpy())
            if training:
                found["fvu_at_k"] = fvu
            else:
                found |= {"fvu": fvu, "l0": float(np.mean([l0 for _, l0 in parts]))}
    return found


def in_batches(X, size: int) -> list:
    """Cut rows into whole batches: some peers keep a number of matches, not a share."""
    return [X[first : first + size] for first in range(0, len(X), size)]


def measure_quality(
    entries: list[Entry],
    rule: str,
    X: np.ndarray,
    size: Size,
    max_iter: int,
    write: Callable[[list[dict]], None],
) -> None:
    order = np.random.default_rng(0).permutation(len(X))
    n_held = len(X) // 8 // size.batch_size * size.batch_size or size.batch_size
    held, train = X[order[:n_held]], X[order[n_held:]]
    for of in OUR_RULES[rule]:
        for variant, aux in AUXILIARY.items():
            found = our_quality(of, aux, train, held, size, max_iter)
            n_steps = found["steps"]
            tokens = {"tokens": n_steps * size.batch_size}
            record = identity("skchoice", of, variant) | found | tokens
            show(record)
            write([record])
    # fit sets some rows aside for its thresholds: peers take as many steps as it did.
    size = size._replace(n_steps=n_steps)
    for entry in entries:
        found = {"steps": n_steps} | peer_quality(entry, train, held, size)
        record = identity(entry.package, entry.rule, entry.variant) | found | tokens
        show(record)
        write([record])


# --------------------------------------------------------------------------- records


def identity(package: str, rule: str, variant: str) -> dict:
    return {"package": package, "rule": rule, "variant": variant}


def show(record: dict) -> None:
    print(
        "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else str(value)
            for name, value in record.items()
        ),
        flush=True,
    )


def merged(path: Path | None, document: dict) -> dict:
    """Return a document with the records of an older one that it does not replace."""
    old = earlier(path)
    if not old:
        return document
    if old["settings"] != document["settings"]:
        raise SystemExit(
            f"{path} has records of other settings, {old['settings']}. Give another "
            "--out, or delete it."
        )

    def key(record: dict) -> tuple:
        return record["package"], record["rule"], record["variant"]

    records = {key(record): record for record in old["results"]}
    for record in document["results"]:
        records[key(record)] = records.get(key(record), {}) | record
    packages = old["packages"] | document["packages"]
    return document | {"packages": packages, "results": list(records.values())}


def installed(entries: list[Entry]) -> dict[str, str]:
    """Return the versions of the packages; raise where one is missing."""
    versions = {}
    for package in dict.fromkeys(entry.package for entry in entries):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            raise SystemExit(
                f"{package} is not installed here. `make peers` installs all in "
                ".venv-peers; or leave it out with --peers."
            ) from None
    return versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["time", "quality"])
    parser.add_argument("--rule", choices=list(OUR_RULES), default="mutual")
    packages = list(dict.fromkeys(entry.package for entry in PEERS))
    parser.add_argument("--peers", nargs="*", choices=packages, default=packages)
    variants = list(dict.fromkeys(entry.variant for entry in PEERS))
    parser.add_argument("--variants", nargs="+", choices=variants, default=variants)
    parser.add_argument("--activations", type=Path, help=".npy, .npz or store")
    parser.add_argument("--rows", type=int, default=36576, help="made-up rows")
    parser.add_argument("--columns", type=int, default=576, help="made-up columns")
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--max-iter", type=int, default=10, help="passes, for quality")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    entries = [
        entry
        for entry in PEERS
        if entry.rule == options.rule
        and entry.package in options.peers
        and entry.variant in options.variants
    ]
    versions = installed(entries)
    X = activations(options.activations, options.rows, options.columns)
    size = Size(options.batch_size, X.shape[1], options.features, options.k, None)
    document = {
        **hardware(),
        "packages": versions,
        "settings": {
            "activations": "given" if options.activations else "made up",
            "rows": len(X),
            "n_columns": size.n_columns,
            "n_features": size.n_features,
            "batch_size": size.batch_size,
            "k": size.k,
        },
        "results": [],
    }

    def write(records: list[dict]) -> None:
        if options.out:
            document["results"] = records
            results_file.write(options.out, merged(options.out, document))

    if options.what == "time":
        write(measure_times(entries, options.rule, X, size, options.blocks))
    else:
        measure_quality(entries, options.rule, X, size, options.max_iter, write)


if __name__ == "__main__":
    main()
