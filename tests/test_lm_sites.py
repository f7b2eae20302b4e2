"""Every hook point against hooks written out by hand for each architecture."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

pytest.importorskip("transformers")

import transformers
from decoders import N_LAYERS

from skchoice.lm import extract_activations, load_model
from skchoice.lm.hooks import keeps_documents_apart, spliced
from skchoice.lm.sites import HOOKS, decoder_blocks, find_sites


def gpt2_by_hand(model, layer, ids):
    """What is at each hook point of a GPT-2, by its own modules' names."""
    block = model.transformer.h[layer]
    return by_hand(model, block, block.attn, block.ln_2, block.mlp, ids)


def llama_by_hand(model, layer, ids):
    block = model.model.layers[layer]
    norm = block.post_attention_layernorm
    return by_hand(model, block, block.self_attn, norm, block.mlp, ids)


BY_HAND = {"gpt2": gpt2_by_hand, "llama": llama_by_hand}


def by_hand(model, block, attention, norm, mlp, ids):
    seen = {}

    def first(value):
        return value[0] if isinstance(value, tuple) else value

    def before(name):
        def hook(module, args, kwargs):
            value = args[0] if args else kwargs["hidden_states"]
            seen[name] = value.detach().clone()

        return hook

    def after(name):
        def hook(module, args, output):
            seen[name] = first(output).detach().clone()

        return hook

    handles = [
        block.register_forward_pre_hook(before("resid_pre"), with_kwargs=True),
        attention.register_forward_hook(after("attn_out")),
        norm.register_forward_pre_hook(before("resid_mid"), with_kwargs=True),
        mlp.register_forward_hook(after("mlp_out")),
        block.register_forward_hook(after("resid_post")),
    ]
    model(torch.from_numpy(ids))
    for handle in handles:
        handle.remove()
    return seen


def assert_rows_are_those_of_hooks(decoder, texts, layer, reference, atol):
    """Compare every hook point, whole contexts in batches, with one at a time."""
    model, tokenizer = decoder
    for hook in HOOKS:
        arguments = dict(
            layer=layer, hook=hook, context_length=8, drop_first=False, batch_size=3
        )
        found = extract_activations(
            model, tokenizer, texts, drop_special=False, dtype="float32", **arguments
        )
        half = extract_activations(
            model, tokenizer, texts, drop_special=False, dtype="float16", **arguments
        )
        assert_array_equal(half.activations, found.activations.astype(np.float16))
        # Each document of each context alone: a context's padding, its neighbours in
        # the batch and the documents beside it must not matter.
        starts = np.flatnonzero(found.position == 0)
        assert len(starts) > 3
        parts = zip(
            np.split(found.token_ids, starts[1:]),
            np.split(found.activations, starts[1:]),
            strict=True,
        )
        for ids, rows in parts:
            with torch.no_grad():
                expected = reference(model, layer, ids[None])[hook][0]
            difference = np.abs(rows - expected.numpy()).max(axis=1)
            size = expected.abs().max(dim=1).values.clamp(min=1).numpy()
            assert (difference <= atol * size).all(), hook


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_rows_are_what_hooks_by_hand_see(decoder, name, layer):
    texts = ["the cat sat on the mat", "a dog", "ran", "the mat sat on a dog ran"]
    assert_rows_are_those_of_hooks(decoder, texts, layer, BY_HAND[name], atol=1e-5)


def test_rows_of_smollm2_are_what_hooks_by_hand_see(smollm2):
    texts = ["The cat sat on the mat, and it was good.", "A dog ran", "Paris is a city"]
    # Alone, matrices have other shapes, and twelve layers round otherwise.
    assert_rows_are_those_of_hooks(smollm2, texts, 12, llama_by_hand, atol=3e-5)

    model, _ = smollm2
    for hook in HOOKS:
        found = extract_activations(
            *smollm2,
            texts,
            layer=12,
            hook=hook,
            context_length=6,
            drop_first=False,
            drop_special=False,
            attend_across_documents=True,
            dtype="float32",
        )
        n_contexts = -(-len(found) // 6)
        ids = np.zeros(n_contexts * 6, np.int64)
        ids[: len(found)] = found.token_ids
        with torch.no_grad():
            seen = llama_by_hand(model, 12, ids.reshape(n_contexts, 6))[hook]
        expected = seen.reshape(-1, seen.shape[-1])[: len(found)]
        assert_allclose(found.activations, expected, rtol=1e-5, atol=1e-5)


def test_batches_do_not_matter(decoder):
    texts = ["the cat sat on the mat", "a dog", "the mat sat on a dog ran"] * 3
    found = [
        extract_activations(
            *decoder, texts, layer=2, context_length=9, dtype="float32", batch_size=size
        ).activations
        for size in (1, 2, 5, 100)
    ]
    for other in found[1:]:
        assert_allclose(other, found[0], rtol=0, atol=1e-5)


# --------------------------------------------------------------- other architectures


def neox(parallel):
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            use_parallel_residual=parallel,
        )
    )


def gemma2():
    # With weights that are not the ones it is made with, norms after attention matter.
    model = transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=64,
        )
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def olmo2():
    return transformers.Olmo2ForCausalLM(
        transformers.Olmo2Config(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )


def found_in(model, hook, layer=1):
    [site] = find_sites(model.eval(), [layer], [hook])
    parts = {
        module: name for name, module in decoder_blocks(model)[layer].named_children()
    }
    return parts.get(site.module, "block"), site.is_input


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_where_both_read_the_same_stream_there_is_no_middle():
    model = neox(parallel=True)
    assert found_in(model, "attn_out")[0] in ("attention", "post_attention_dropout")
    assert found_in(model, "mlp_out")[0] in ("mlp", "post_mlp_dropout")
    with pytest.raises(ValueError, match=r"no hook 'resid_mid'.*'attn_out', 'mlp_out'"):
        find_sites(model, [0], ["resid_mid"])


def test_the_same_architecture_may_have_one():
    assert found_in(neox(parallel=False), "resid_mid") == (
        "post_attention_layernorm",
        True,
    )


def test_what_is_added_may_be_normalised_first():
    assert found_in(gemma2(), "attn_out") == ("post_attention_layernorm", False)
    assert found_in(gemma2(), "resid_mid") == ("pre_feedforward_layernorm", True)
    assert found_in(gemma2(), "mlp_out") == ("post_feedforward_layernorm", False)
    assert found_in(olmo2(), "attn_out") == ("post_attention_layernorm", False)
    assert found_in(olmo2(), "resid_mid") == ("mlp", True)


def test_sums_hold_in_bfloat16(folders, name):
    model, _ = load_model(folders[name], device="cpu", dtype="bfloat16")
    assert len(find_sites(model, [0, 2], list(HOOKS))) == 2 * len(HOOKS)


def test_a_block_that_scales_has_no_inner_hooks(gpt2):
    model, _ = gpt2
    block = decoder_blocks(model)[1]
    block.register_forward_hook(lambda module, args, output: 1.5 * output)
    assert len(find_sites(model, [0, 1], ["resid_post"])) == 2
    with pytest.raises(ValueError, match=r"layer 1 .*\('resid_pre', 'resid_post'\)"):
        find_sites(model, [0, 1], ["mlp_out"])


def test_no_hook_is_left_behind(decoder):
    model, _ = decoder
    [site] = find_sites(model, [1], ["resid_mid"])
    with spliced(site, torch.zeros_like):
        pass
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0


# ----------------------------------------------------------------- documents stay apart


def test_documents_are_kept_apart(decoder):
    model, _ = decoder
    [site] = find_sites(model, [2], ["resid_post"])
    assert keeps_documents_apart(model, site)


def test_a_model_that_mixes_documents_is_found_out(gpt2):
    model, tokenizer = gpt2

    def forget(module, args, kwargs):
        return args, kwargs | {"position_ids": None}

    model.transformer.register_forward_pre_hook(forget, with_kwargs=True)
    arguments = {"layer": 1, "context_length": 8}
    with pytest.raises(ValueError, match="attend_across_documents=True"):
        extract_activations(model, tokenizer, ["abc"], **arguments)
    extract_activations(
        model, tokenizer, ["abc"], attend_across_documents=True, **arguments
    )
