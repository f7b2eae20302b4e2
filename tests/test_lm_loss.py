"""What is spliced into the model, and what it costs."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

pytest.importorskip("transformers")

from sklearn.exceptions import NotFittedError

from skchoice import MutualChoiceSAE
from skchoice.lm import (
    encode_text,
    extract_activations,
    loss,
    loss_recovered,
)
from skchoice.lm.hooks import spliced
from skchoice.lm.sites import HOOKS, find_sites

TEXTS = ["the cat sat on the mat", "a dog", "the mat sat on a dog ran", "cat mat dog"]
ARGUMENTS = dict(context_length=10, batch_size=3)


def identity(rows):
    return rows


def sharpen(model):
    """Make the small model sure of something, so that ablations cost."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 8


def cross_entropy_by_hand(model, tokenizer, texts, length, hand=None):
    """Run each part of each document alone; return sums and counts per part."""
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    found = extract_activations(
        model,
        tokenizer,
        texts,
        layer=0,
        context_length=length,
        drop_first=False,
        drop_special=False,
    )
    assert (found.token_ids[0] == tokenizer.bos_token_id) == begins
    starts = np.flatnonzero(found.position == 0)
    total = n_tokens = 0
    for ids in np.split(found.token_ids, starts[1:]):
        ids = torch.from_numpy(ids)[None]
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        n_tokens += ids.shape[1] - 1
    return total / n_tokens, n_tokens


@pytest.mark.parametrize("hook", HOOKS)
def test_the_identity_costs_exactly_nothing(decoder, hook):
    sharpen(decoder[0])
    result = loss_recovered(*decoder, TEXTS, identity, layer=1, hook=hook, **ARGUMENTS)
    assert result.spliced == result.clean and result.kl == 0
    assert result.recovered == 1 and result.interval == (1, 1)
    assert result.recovered_mean == 1 and result.interval_mean == (1, 1)
    assert result.zero != result.clean and result.mean != result.clean


@pytest.mark.parametrize("hook", HOOKS)
def test_zeros_are_the_zero_ablation(decoder, hook):
    sharpen(decoder[0])
    result = loss_recovered(
        *decoder, TEXTS, torch.zeros_like, layer=1, hook=hook, **ARGUMENTS
    )
    assert result.spliced == result.zero != result.clean
    assert result.recovered == 0 and result.interval == (0, 0)
    assert result.kl > 0


def test_the_clean_loss_is_that_of_each_document_alone(decoder):
    model, tokenizer = decoder
    sharpen(model)
    result = loss_recovered(model, tokenizer, TEXTS, identity, layer=0, **ARGUMENTS)
    expected, n_tokens = cross_entropy_by_hand(model, tokenizer, TEXTS, 10)
    assert result.clean == pytest.approx(expected, rel=1e-5)
    assert result.n_tokens == n_tokens
    across = loss_recovered(
        model,
        tokenizer,
        TEXTS,
        identity,
        layer=0,
        attend_across_documents=True,
        **ARGUMENTS,
    )
    assert across.n_tokens > n_tokens  # also the first tokens of the documents


def test_dropped_positions_pass_through_unchanged(decoder):
    seen = []

    def note(rows):
        seen.append(rows.clone())
        return torch.zeros_like(rows)

    loss_recovered(*decoder, TEXTS, note, layer=1, **ARGUMENTS)
    found = extract_activations(*decoder, TEXTS, layer=1, dtype="float32", **ARGUMENTS)
    assert_array_equal(torch.cat(seen), found.activations)
    # A text of which nothing is kept but the last token: nothing else may change.
    model, _ = decoder
    ids = torch.tensor([[1, 2, 3, 4]])
    keep = torch.tensor([[False, False, False, True]])
    for hook in HOOKS:
        [site] = find_sites(model, [1], [hook])
        with torch.no_grad():
            clean = model(ids).logits
            with spliced(site, loss._at(keep, torch.zeros_like)):
                changed = model(ids).logits
        assert_array_equal(changed[:, :3], clean[:, :3])
        assert not torch.equal(changed[:, 3], clean[:, 3])


@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_spliced_in_is_what_the_model_goes_on_from(decoder, hook):
    model, _ = decoder
    ids = torch.tensor([[1, 2, 3, 4]])
    [site, after] = find_sites(model, [1], [hook, "resid_post"])
    generator = torch.Generator().manual_seed(0)
    new = torch.randn(1, 4, 16, generator=generator)
    seen = {}

    def see(module, args, output):
        seen["post"] = output[0] if isinstance(output, tuple) else output

    with torch.no_grad(), spliced(site, lambda hidden: new.to(hidden)):
        handle = after.module.register_forward_hook(see)
        if hook == "resid_mid":
            inner = site.module.register_forward_pre_hook(
                lambda module, args: seen.update(mid=args[0])
            )
            model(ids)
            inner.remove()
            assert_allclose(seen["mid"], new, atol=1e-6)
        else:
            model(ids)
        handle.remove()
    if hook == "resid_post":
        assert_array_equal(seen["post"], new)
    assert torch.isfinite(seen["post"]).all()


def test_the_mean_ablation_uses_the_mean_of_the_kept_rows(decoder):
    found = extract_activations(*decoder, TEXTS, layer=1, dtype="float32", **ARGUMENTS)
    mean = torch.from_numpy(found.activations).double().mean(0).float()
    result = loss_recovered(
        *decoder, TEXTS, lambda rows: mean.expand_as(rows), layer=1, **ARGUMENTS
    )
    assert result.spliced == pytest.approx(result.mean, rel=1e-6)
    assert result.recovered_mean == pytest.approx(0, abs=1e-3)


def test_kl_by_hand(gpt2):
    model, tokenizer = gpt2
    sharpen(model)
    result = loss_recovered(
        model, tokenizer, ["abcdefgh"], torch.zeros_like, layer=1, **ARGUMENTS
    )
    ids = torch.tensor(tokenizer("abcdefgh").input_ids)[None]
    keep = torch.arange(8)[None] > 0
    [site] = find_sites(model, [1], ["resid_post"])
    with torch.no_grad():
        p = model(ids).logits[0, :-1].log_softmax(-1)
        with spliced(site, loss._at(keep, torch.zeros_like)):
            q = model(ids).logits[0, :-1].log_softmax(-1)
    expected = F.kl_div(q, p, log_target=True, reduction="batchmean").item()
    assert result.kl == pytest.approx(expected, rel=1e-5)
    assert result.n_sequences == 1 and math.isnan(result.interval[0])


def test_the_interval_is_that_of_a_bootstrap():
    rng = np.random.default_rng(0)
    n = 300
    tokens = rng.integers(5, 20, n).astype(float)
    clean = tokens * rng.normal(3, 0.3, n)
    zero = clean + tokens * rng.normal(4, 0.5, n)
    spliced_in = clean + tokens * rng.gamma(2, 0.1, n)
    sums = dict(n_tokens=tokens, clean=clean, zero=zero, spliced=spliced_in)
    ratio, (low, high) = loss._ratio(sums, "zero")
    assert ratio == pytest.approx((zero - spliced_in).sum() / (zero - clean).sum())
    drawn = rng.integers(0, n, (4000, n))
    ratios = (zero - spliced_in)[drawn].sum(1) / (zero - clean)[drawn].sum(1)
    expected = np.quantile(ratios, [0.025, 0.975])
    assert_allclose([low, high], expected, atol=0.1 * (high - low))
    # An empty sequence says nothing.
    padded = {name: np.append(values, 0.0) for name, values in sums.items()}
    assert loss._ratio(padded, "zero") == (ratio, (low, high))


def test_an_ablation_that_changes_nothing_gives_nan(gpt2):
    sums = dict.fromkeys(["n_tokens", "clean", "zero", "spliced"], np.ones(3))
    ratio, interval = loss._ratio(sums, "zero")
    assert math.isnan(ratio) and math.isnan(interval[0])


@pytest.fixture(scope="module")
def sae(folders):
    from skchoice.lm import load_model

    decoder = load_model(folders["gpt2"], device="cpu")
    found = extract_activations(
        *decoder, TEXTS * 10, layer=1, dtype="float32", **ARGUMENTS
    )
    return MutualChoiceSAE(24, 4, max_iter=20, random_state=0).fit(found.activations)


def test_an_estimator_is_its_reconstruction(gpt2, sae):
    direct = loss_recovered(*gpt2, TEXTS, sae, layer=1, **ARGUMENTS)

    def reconstruct(rows):
        codes = sae.transform(rows.numpy())
        return torch.from_numpy(sae.inverse_transform(codes))

    by_hand = loss_recovered(*gpt2, TEXTS, reconstruct, layer=1, **ARGUMENTS)
    assert direct == by_hand
    assert 0 < direct.kl
    dense = sae.set_output(transform="pandas")
    assert loss_recovered(*gpt2, TEXTS, dense, layer=1, **ARGUMENTS) == direct
    sae.set_output(transform="default")


def test_max_tokens_ends_after_a_context(gpt2):
    few = loss_recovered(*gpt2, TEXTS, identity, layer=1, max_tokens=12, **ARGUMENTS)
    assert few.n_sequences == 2


@pytest.mark.parametrize("texts", [[], [""], ["a", "b"]])
def test_too_little_text(gpt2, texts):
    with pytest.raises(ValueError, match="no token"):
        loss_recovered(*gpt2, texts, identity, layer=1, context_length=2)
    with pytest.raises(ValueError, match="no token is predicted"):
        loss_recovered(
            *gpt2, ["a"], identity, layer=1, drop_first=False, context_length=2
        )


# -------------------------------------------------------------------------- encode_text


def test_codes_of_a_text_are_aligned_with_its_tokens(gpt2, sae):
    text = "the cat sat on the mat"
    found = encode_text(*gpt2, sae, text, layer=1, context_length=10)
    assert "".join(found.tokens) == text
    assert found.codes.shape == (len(text), 24)
    assert np.flatnonzero(~found.encoded).tolist() == [0, 10, 20]
    rows = extract_activations(
        *gpt2, [text], layer=1, context_length=10, batch_size=1, dtype="float32"
    )
    expected = sae.transform(rows.activations)
    assert_array_equal(found.codes[found.encoded].toarray(), expected.toarray())
    assert found.codes[~found.encoded].nnz == 0
    assert_array_equal(found.token_ids[found.encoded], rows.token_ids)
    whole = encode_text(*gpt2, sae, text, layer=1, drop_first=False)
    assert whole.encoded.all() and whole.codes.has_sorted_indices


def test_texts_of_one_token_and_of_none(gpt2, sae):
    found = encode_text(*gpt2, sae, "a", layer=1)
    assert found.codes.shape == (1, 24) and found.codes.nnz == 0
    with pytest.raises(ValueError, match="no token"):
        encode_text(*gpt2, sae, "", layer=1)


def test_what_is_not_fitted_and_what_is_no_text_is_refused(gpt2, sae):
    with pytest.raises(NotFittedError):
        encode_text(*gpt2, MutualChoiceSAE(), "the cat", layer=1)
    with pytest.raises(NotFittedError):
        loss_recovered(*gpt2, TEXTS, MutualChoiceSAE(), layer=1)
    for wrong in (["the cat"], None, b"the cat"):
        with pytest.raises(TypeError, match="text must be one string"):
            encode_text(*gpt2, sae, wrong, layer=1)
