"""Stores of a run hold what extract_activations gives, broken off or not."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal

pytest.importorskip("transformers")

from decoders import save

from skchoice import MutualChoiceSAE
from skchoice.exceptions import StoreError
from skchoice.lm import (
    Texts,
    extract_activations,
    load_model,
    store_activations,
)
from skchoice.store import ActivationStore, StoreWriter

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran"]


def made_up_texts(n_documents=16, seed=0):
    rng = np.random.default_rng(seed)
    return [
        " ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(n_documents)
    ]


ARGUMENTS = dict(context_length=12, batch_size=3)
TEXTS = made_up_texts()


def run(decoder, folder, texts=TEXTS, **arguments):
    settings = dict(layers=[2, 0], hooks=["resid_post", "attn_out"], shard_rows=100)
    return store_activations(
        *decoder, texts, folder, **(settings | ARGUMENTS | arguments)
    )


def assert_same_tree(one, other):
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*"))
    for name in names:
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stores_hold_what_is_extracted(decoder, tmp_path, across, dtype):
    common = dict(dtype=dtype, attend_across_documents=across)
    stores = run(decoder, tmp_path, iter(TEXTS), **common)
    assert list(stores) == [
        (2, "resid_post"),
        (2, "attn_out"),
        (0, "resid_post"),
        (0, "attn_out"),
    ]
    for (layer, hook), store in stores.items():
        found = extract_activations(
            *decoder, TEXTS, layer=layer, hook=hook, **ARGUMENTS, **common
        )
        assert store.dtype == dtype and store.complete
        assert store.folder == tmp_path / f"layer{layer}-{hook}"
        assert_array_equal(np.asarray(store), found.activations)
        for column in ("document", "position"):
            assert_array_equal(store.tokens[column], getattr(found, column))
        assert_array_equal(store.tokens["token_id"], found.token_ids)
        assert store.progress["dropped"].items() <= found.dropped.items()
        store.verify()
        assert len(list(store.folder.glob("activations-*"))) > 1


def test_the_manifest_says_how_the_rows_were_made(gpt2, tmp_path):
    stores = run(gpt2, tmp_path, drop_special=False, max_tokens=77)
    made = stores[0, "attn_out"].configuration
    assert made["layer"] == 0 and made["hook"] == "attn_out"
    assert made["model"]["class"] == "GPT2LMHeadModel"
    assert made["model"]["dtype"] == "float32" and len(made["model"]["sha256"]) == 64
    assert len(made["tokenizer"]["sha256"]) == 64
    assert made["context_length"] == 12 and made["drop_first"] is True
    assert made["drop_special"] is False and made["max_tokens"] == 77
    assert made["attends_across_documents"] is False
    assert len(stores[0, "attn_out"]) == 77


def test_one_layer_and_one_hook(gpt2, tmp_path):
    stores = run(gpt2, tmp_path, layers=1, hooks="mlp_out")
    assert list(stores) == [(1, "mlp_out")]
    sae = MutualChoiceSAE(24, 4, max_iter=1).fit(stores[1, "mlp_out"])
    assert sae.n_features_in_ == 16


@pytest.mark.parametrize("max_tokens", [1, 100, 10**6])
def test_max_tokens(gpt2, tmp_path, max_tokens):
    whole = run(gpt2, tmp_path / "whole")[2, "resid_post"]
    part = run(gpt2, tmp_path / "part", max_tokens=max_tokens)[2, "resid_post"]
    assert len(part) == min(max_tokens, len(whole))
    assert_array_equal(part, whole[:max_tokens])


def test_a_complete_run_is_not_run_again(gpt2, tmp_path, monkeypatch):
    run(gpt2, tmp_path)
    calls = []
    monkeypatch.setattr(
        "skchoice.lm.storing.captured", lambda *args: calls.append(args)
    )
    run(gpt2, tmp_path)
    assert calls == []


def test_the_bar_shows_speed_time_and_disk(gpt2, tmp_path, capfd):
    run(gpt2, tmp_path, verbose=1)
    shown = capfd.readouterr().err
    assert "tokens/s" in shown and "kB" in shown and "<" in shown


# ------------------------------------------------------------------------- broken off


@pytest.mark.parametrize("max_tokens", [None, 350])
def test_broken_off_at_any_append_and_resumed(
    shared_gpt2, tmp_path, monkeypatch, max_tokens
):
    arguments = dict(layers=2, max_tokens=max_tokens)
    whole = tmp_path / "whole"
    run(shared_gpt2, whole, **arguments)
    replace = os.replace
    for after in range(1, 40, 8):
        folder = tmp_path / str(after)
        left = after

        def limited_replace(source, target):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", limited_replace)
            try:
                run(shared_gpt2, folder, **arguments)
            except KeyboardInterrupt:
                lengths = [
                    len(ActivationStore(path.parent))
                    for path in folder.rglob("manifest.json")
                ]
                assert max(lengths, default=0) - min(lengths, default=0) <= 140
        run(shared_gpt2, folder, **arguments)
        assert_same_tree(whole, folder)


def run_until_killed(n_appends, seconds, *arguments, **more):
    """Run in a process of its own, which another one kills soon after some appends."""
    append, victim = StoreWriter.append, os.getpid()

    def counted(*args, **kwargs):
        nonlocal n_appends
        if n_appends == 0 and os.fork() == 0:
            time.sleep(seconds)
            if os.getppid() == victim:
                os.kill(victim, signal.SIGKILL)
            os._exit(0)
        n_appends -= 1
        append(*args, **kwargs)

    StoreWriter.append = counted
    run(*arguments, **more)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_at_random_instants_and_resumed(shared_gpt2, tmp_path, n_kills):
    texts = made_up_texts(16 * n_kills)
    arguments = dict(shard_rows=60, layers=[2, 1], hooks=["resid_post"])
    run(shared_gpt2, tmp_path / "whole", texts, **arguments)
    rng = np.random.default_rng(0)
    context = multiprocessing.get_context("fork")
    folder = tmp_path / "killed"
    lengths, exits = [0], []
    for _ in range(n_kills):
        # Counted in appends, of which there are 24 for each kill, so that a slow
        # machine has runs that were begun, and a quick one runs that were not ended.
        instant = (int(rng.integers(1, 16)), rng.uniform(1e-4, 0.01))
        process = context.Process(
            target=run_until_killed,
            args=(*instant, shared_gpt2, folder, texts),
            kwargs=arguments,
        )
        process.start()
        process.join()
        exits.append(process.exitcode)
        stores = [
            ActivationStore(path.parent) for path in folder.rglob("manifest.json")
        ]
        for store in stores:
            store.verify()
        lengths.append(min(map(len, stores), default=0))
    assert exits == [-signal.SIGKILL] * n_kills
    assert lengths == sorted(lengths) and lengths[-1] > 0
    run(shared_gpt2, folder, texts, **arguments)
    assert_same_tree(tmp_path / "whole", folder)


# --------------------------------------------------------------------------- bad input


def test_another_configuration_is_told(gpt2, llama, tmp_path, folders):
    run(gpt2, tmp_path)
    for change, message in [
        ({"context_length": 10}, "context_length 12 there, 10 now"),
        ({"dtype": "float32"}, "dtype 'float16' there, 'float32' now"),
        ({"attend_across_documents": True}, "attends_across_documents False there"),
        ({"drop_first": False}, "drop_first True there, False now"),
    ]:
        with pytest.raises(StoreError, match=message):
            run(gpt2, tmp_path, **change)
    with pytest.raises(StoreError, match=r"model .* there"):
        run(llama, tmp_path)
    other, _ = load_model(folders["gpt2"], device="cpu")
    other.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 1
    with pytest.raises(StoreError, match=r"model .* there"):
        run((other, gpt2[1]), tmp_path)


def test_a_layer_is_added_and_complete_stores_stay(gpt2, tmp_path, monkeypatch):
    def failing():
        yield from TEXTS[:14]
        raise OSError("the source is gone")

    run(gpt2, tmp_path / "one", layers=[0])
    run(gpt2, tmp_path / "both", layers=[0])
    with pytest.raises(OSError, match="the source is gone"):
        run(gpt2, tmp_path / "both", failing())
    for name in ("layer0-attn_out", "layer0-resid_post"):
        assert_same_tree(tmp_path / "one" / name, tmp_path / "both" / name)
    assert len(ActivationStore(tmp_path / "both" / "layer2-attn_out")) > 0
    run(gpt2, tmp_path / "both", iter(TEXTS))
    run(gpt2, tmp_path / "at once")
    assert_same_tree(tmp_path / "at once", tmp_path / "both")


def test_a_layer_of_other_texts_is_told_and_harms_nothing(gpt2, tmp_path):
    stores = run(gpt2, tmp_path, layers=[0])
    rows = np.asarray(stores[0, "resid_post"])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"of different texts"):
            run(gpt2, tmp_path, ["another", *TEXTS[1:]], layers=[2, 0])
    found = run(gpt2, tmp_path, layers=[0])[0, "resid_post"]
    assert found.complete
    assert_array_equal(np.asarray(found), rows)


def test_numbers_of_numpy_are_numbers(gpt2, tmp_path):
    two, rows = np.int64(2), np.int64(40)
    arguments = {"batch_size": two, "max_tokens": rows, "drop_first": np.bool_(True)}
    stores = run(gpt2, tmp_path, layers=np.array([1]), shard_rows=two, **arguments)
    assert len(stores[1, "resid_post"]) == 40


def test_where_the_model_lies_does_not_matter(gpt2, tmp_path):
    run(gpt2, tmp_path / "stores")
    moved = tmp_path / "elsewhere" / os.path.basename(gpt2[0].config._name_or_path)
    save("gpt2", moved)
    run(load_model(moved, device="cpu"), tmp_path / "stores")


def test_other_texts_are_told(gpt2, tmp_path, monkeypatch):
    def failing():
        yield from TEXTS[:14]
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        run(gpt2, tmp_path, failing())
    assert len(ActivationStore(tmp_path / "layer0-attn_out")) > 0
    with pytest.raises(StoreError, match=r"texts are not those.*sha256"):
        run(gpt2, tmp_path, ["another", *TEXTS[1:]])
    with pytest.raises(StoreError, match="texts are not those"):
        run(gpt2, tmp_path, TEXTS[:2])
    run(gpt2, tmp_path / "whole")
    run(gpt2, tmp_path)
    for name in ("layer0-attn_out", "layer2-resid_post"):
        assert_same_tree(tmp_path / "whole" / name, tmp_path / name)


@pytest.mark.parametrize("texts", [[], [""], ["", "a"]])
def test_too_little_text(gpt2, tmp_path, texts):
    with pytest.raises(ValueError, match="no token is left"):
        run(gpt2, tmp_path, texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [0, 3]}, "layer must be an integer from 0 to 2, got 3"),
        ({"layers": []}, "layers must"),
        ({"hooks": ["resid_post", "mlp"]}, r"hook must be one of .*'resid_mid'"),
        ({"shard_rows": 0}, "shard_rows must be"),
        ({"dtype": "bfloat16"}, "dtype must be one of"),
        ({"texts": "abc"}, "got a str"),
    ],
)
def test_wrong_values_are_named_before_anything_is_written(
    gpt2, tmp_path, change, message
):
    with pytest.raises((ValueError, TypeError), match=message):
        run(gpt2, tmp_path / "stores", **change)
    assert not (tmp_path / "stores").exists()


def test_overflow_is_refused_and_what_was_stored_stays(gpt2, tmp_path):
    model, tokenizer = gpt2
    model.get_input_embeddings().weight.data[tokenizer("z").input_ids[0]] *= 1e8
    texts = [*TEXTS[:14], "buzz"]
    with pytest.raises(ValueError, match=r'float16 cannot hold it.*dtype="float32"'):
        run(gpt2, tmp_path / "half", texts)
    store = ActivationStore(tmp_path / "half" / "layer0-resid_post")
    assert len(store) >= 100 and np.isfinite(np.asarray(store)).all()
    stores = run(gpt2, tmp_path / "single", texts, dtype="float32")
    assert np.abs(np.asarray(stores[0, "resid_post"])).max() > 65504


def test_texts_may_be_given_as_texts(gpt2, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "the cat sat"}\n')
    stores = run(gpt2, tmp_path / "stores", Texts(path, field="body"))
    assert len(stores[2, "resid_post"]) == 10


@pytest.mark.parametrize("max_tokens", [None, 100, 10**6])
def test_a_complete_store_is_not_taken_for_one_of_other_texts(
    gpt2, tmp_path, max_tokens
):
    run(gpt2, tmp_path, max_tokens=max_tokens)
    with pytest.raises(StoreError, match="texts are not those"):
        run(gpt2, tmp_path, ["another", *TEXTS[1:]], max_tokens=max_tokens)
    more = [*TEXTS, "the cat sat"]
    if max_tokens == 100:  # further texts would not have been read
        run(gpt2, tmp_path, more, max_tokens=max_tokens)
    else:
        with pytest.raises(StoreError, match=r"texts now go on after the .* rows"):
            run(gpt2, tmp_path, more, max_tokens=max_tokens)
    run(gpt2, tmp_path, max_tokens=max_tokens)


def test_a_missing_file_is_told_before_the_files_before_it_are_read(gpt2, tmp_path):
    (tmp_path / "one.txt").write_text("the cat sat")
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    with pytest.raises(FileNotFoundError, match=r"no text file at .*two"):
        run(gpt2, tmp_path / "stores", files)
    assert not (tmp_path / "stores").exists()
