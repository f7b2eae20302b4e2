"""The losses against their formulas, and their gradients against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import normal

from skchoice.losses import auxiliary_loss, reconstruction_loss

quick = settings(max_examples=50, deadline=None)

shapes = st.tuples(st.integers(2, 9), st.integers(1, 7))
seeds = st.integers(0, 999)


# ---------------------------------------------------------------------- reconstruction


def naive_reconstruction_loss(x, error, norm_limit):
    weights = (norm_limit / x.norm(dim=1).clamp(min=norm_limit)) ** 3
    mean = sum(w * row for w, row in zip(weights, x, strict=True)) / weights.sum()
    total = (weights * ((x - mean) ** 2).sum(1)).sum()
    return (weights * (error**2).sum(1)).sum() / total


@quick
@given(shape=shapes, seed=seeds, norm_limit=st.sampled_from([0.3, 1.5, 100.0]))
def test_reconstruction_loss_is_its_formula(shape, seed, norm_limit):
    x = normal(seed, *shape)
    x_hat = (x + normal(seed + 1, *shape)).requires_grad_()
    kept = x.clone(), (x_hat - x).detach()
    result = reconstruction_loss(x, kept[1], norm_limit)
    expected = naive_reconstruction_loss(x, x_hat - x, norm_limit)
    torch.testing.assert_close(result.loss, expected.detach())
    (gradient,) = torch.autograd.grad(expected, x_hat)
    torch.testing.assert_close(result.gradient, gradient)
    torch.testing.assert_close(result.squared_error, kept[1].square().sum())
    torch.testing.assert_close(result.variance, (x - x.mean(0)).square().sum())
    # Its arguments are needed afterwards.
    assert torch.equal(x, kept[0])
    assert torch.equal(kept[1], (x_hat - x).detach())


@quick
@given(shape=shapes, seed=seeds)
def test_without_loud_tokens_it_is_the_fraction_of_variance_unexplained(shape, seed):
    x, error = normal(seed, *shape), normal(seed + 1, *shape)
    loss, _, squared_error, variance = reconstruction_loss(x, error, 1e3)
    torch.testing.assert_close(loss, squared_error / variance)


def test_the_louder_a_token_the_less_it_counts():
    x, error = normal(0, 50, 6), normal(1, 50, 6)
    x[3] /= x[3].norm()
    error[3] /= error[3].norm()
    without = reconstruction_loss(x[4:], error[4:], 5.0).loss.item()
    moved = []
    for norm in (5.0, 50.0, 5e5):  # its relative error stays the same
        loud, missed = x[3:].clone(), error[3:].clone()
        loud[0] *= norm
        missed[0] *= norm
        loss, _, _, variance = reconstruction_loss(loud, missed, 5.0)
        moved.append(abs(loss.item() - without))
    assert moved[0] > 2 * moved[1] > 100 * moved[2]
    assert variance > 1e5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", [[0.0, 0.0], [0.1, -0.3], [1e5 / 3, 0.7]])
@pytest.mark.parametrize("n_tokens", [2, 7, 1000])
def test_constant_input_has_loss_zero_and_no_gradient(dtype, row, n_tokens):
    x = torch.tensor([row] * n_tokens, dtype=dtype)
    loss, gradient, squared_error, variance = reconstruction_loss(
        x, normal(0, *x.shape).to(dtype), 3.0
    )
    assert loss == 0 and variance == 0
    assert (gradient == 0).all()
    assert squared_error > 0


def test_a_single_token_varies_about_the_origin():
    x, error = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])
    loss, gradient, _, variance = reconstruction_loss(x, error, 9.0)
    assert (loss, variance) == (1 / 25, 25)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 2 / 25]]))
    zero = reconstruction_loss(torch.zeros(1, 2), error, 9.0)
    assert zero.loss == zero.variance == 0 and (zero.gradient == 0).all()


def test_a_token_at_the_origin_has_weight_one():
    x, error = normal(0, 5, 3), normal(1, 5, 3)
    x[2] = 0.0
    result = reconstruction_loss(x, error, 2.0)
    expected = naive_reconstruction_loss(x, error, 2.0)
    torch.testing.assert_close(result.loss, expected)
    assert result.gradient.isfinite().all() and (result.gradient[2] != 0).all()


def test_float32_agrees_with_float64():
    x, error = normal(0, 200, 30), normal(1, 200, 30)
    double, single = (
        reconstruction_loss(x.to(dtype), error.to(dtype), 6.0)
        for dtype in (torch.float64, torch.float32)
    )
    for wide, narrow in zip(double, single, strict=True):
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------------------- auxiliary


def naive_auxiliary_loss(error, preactivations, decoder, k_aux):
    added = torch.zeros_like(error)
    for token in range(len(error)):
        best = preactivations[token].argsort(descending=True)[:k_aux]
        added[token] = preactivations[token, best] @ decoder[best]
    mean = error.mean(0)
    return ((error + added) ** 2).sum() / ((error - mean) ** 2).sum()


k_aux_against_masked = st.sampled_from([(1, 4), (3, 4), (4, 4), (9, 4), (2, 1), (1, 1)])


@quick
@given(shape=shapes, seed=seeds, sizes=k_aux_against_masked)
def test_auxiliary_loss_is_its_formula(shape, seed, sizes):
    k_aux, n_masked = sizes
    error = normal(seed, *shape)
    preactivations = normal(seed + 1, shape[0], n_masked).requires_grad_()
    decoder = normal(seed + 2, n_masked, shape[1]).requires_grad_()
    expected = naive_auxiliary_loss(error, preactivations, decoder, k_aux)
    gradients = torch.autograd.grad(expected, (preactivations, decoder))
    arrays = error, preactivations.detach(), decoder.detach()
    kept = [array.clone() for array in arrays]
    found = auxiliary_loss(*arrays, k_aux)
    torch.testing.assert_close(found.loss, expected.detach())
    torch.testing.assert_close(found[1:], gradients)
    # Its arguments are needed afterwards.
    assert all(map(torch.equal, arrays, kept))


def test_features_negative_everywhere_get_a_gradient():
    preactivations = -normal(1, 6, 3).abs() - 1
    found = auxiliary_loss(normal(0, 6, 4), preactivations, normal(2, 3, 4), 3)
    assert (found.of_preactivations != 0).all()


def test_only_the_largest_get_a_gradient():
    preactivations = normal(1, 6, 5)
    found = auxiliary_loss(normal(0, 6, 4), preactivations, normal(2, 5, 4), 2)
    largest = preactivations.argsort(dim=1, descending=True)
    assert (found.of_preactivations.gather(1, largest[:, :2]) != 0).all()
    assert (found.of_preactivations.gather(1, largest[:, 2:]) == 0).all()


def test_it_is_one_function_of_a_feature_mask():
    # Dead and underused features differ by their mask alone: where the masks coincide
    # so do the losses, and features outside the mask have no part in it.
    error, preactivations, decoder = normal(0, 8, 5), normal(1, 8, 10), normal(2, 10, 5)
    dead = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0, 0, 0]).bool()
    underused = torch.arange(10) % 3 == 0
    underused[9] = False

    def loss(mask, preactivations):
        return auxiliary_loss(error, preactivations[:, mask], decoder[mask], 2).loss

    assert torch.equal(dead, underused)
    expected = loss(dead, preactivations)
    assert torch.equal(loss(underused, preactivations), expected)
    louder = torch.where(dead, preactivations, 100 * preactivations)
    assert torch.equal(loss(dead, louder), expected)
    underused[9] = True
    assert not torch.equal(loss(underused, preactivations), expected)


def test_an_error_that_the_features_rebuild_has_loss_zero():
    codes, decoder = normal(0, 20, 3).abs(), normal(1, 3, 5)
    found = auxiliary_loss(-codes @ decoder, codes, decoder, 3)
    assert found.loss.item() == pytest.approx(0.0, abs=1e-25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e4 / 3])
@pytest.mark.parametrize("n_tokens", [1, 4, 7, 100])
def test_a_constant_error_has_loss_zero_and_a_zero_gradient(value, n_tokens, dtype):
    # Whatever rounding leaves of its mean: there is nothing to learn from it.
    error = torch.full((n_tokens, 4), value, dtype=dtype)
    preactivations = normal(1, n_tokens, 3).to(dtype)
    decoder = normal(2, 3, 4).to(dtype)
    for k_aux in (1, 3, 5):
        loss, *gradients = auxiliary_loss(error, preactivations, decoder, k_aux)
        assert loss == 0
        for gradient in gradients:
            assert (gradient == 0).all()


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e6])
def test_the_auxiliary_loss_has_no_unit(scale):
    # In float32, where the squares of a small error come near the smallest number.
    error, preactivations, decoder = (
        normal(0, 30, 5).float(),
        normal(1, 30, 4).float(),
        normal(2, 4, 5).float(),
    )
    loss, of_preactivations, of_decoder = auxiliary_loss(
        error, preactivations, decoder, 2
    )
    scaled = auxiliary_loss(scale * error, scale * preactivations, decoder, 2)
    expected = loss, of_preactivations / scale, of_decoder
    torch.testing.assert_close(tuple(scaled), expected, rtol=1e-4, atol=0)
