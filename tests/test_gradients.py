"""Gradients by matches against autograd through the dense model."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import every_importance, normal, some_parameters
from test_allocation import RULES, every_rule

from skchoice.codes import SparseCodes
from skchoice.gradients import MatchGradients
from skchoice.losses import reconstruction_loss
from skchoice.model import Parameters, Tokens, decode, encoder_input
from skchoice.tiles import EncoderAffinities
from skchoice.warm import WarmAllocator

NAMES = ("encoder", "encoder_bias", "decoder", "decoder_bias")


def forward(x, parameters, rule) -> tuple[Tokens, SparseCodes]:
    tokens = encoder_input(x, parameters)
    affinities = EncoderAffinities(parameters, lambda: [tokens], len(x))
    return tokens, tokens.to_codes(WarmAllocator()(affinities, rule).matches)


def dense_reconstruction(x, parameters, matches):
    """The model by its definition, with the matches as a 0/1 matrix."""
    residual = x - parameters.decoder_bias
    norms = torch.ones(len(x), 1, dtype=x.dtype)
    if parameters.relative:
        norms = residual.norm(dim=1, keepdim=True)
    affinities = (residual / norms) @ parameters.encoder.T + parameters.encoder_bias
    return (matches * norms * affinities) @ parameters.decoder + parameters.decoder_bias


class Gradients(NamedTuple):
    encoder: torch.Tensor
    encoder_bias: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor
    parallel: torch.Tensor


def by_autograd(upstream, x, parameters, codes) -> Gradients:
    leaves = [array.clone().requires_grad_() for array in parameters.arrays()]
    matches = (codes.to_dense() > 0).to(x.dtype)
    x_hat = dense_reconstruction(x, Parameters(*leaves, parameters.relative), matches)
    gradients = torch.autograd.grad(x_hat, leaves, upstream)
    return Gradients(*gradients, (gradients[2] * parameters.decoder).sum(1))


def by_matches(upstream, tokens, parameters, codes) -> Gradients:
    gradients = MatchGradients(upstream, tokens, codes, parameters)
    encoder, decoder = gradients.weights(slice(0, parameters.n_features))
    return Gradients(
        encoder,
        gradients.encoder_bias,
        decoder,
        gradients.decoder_bias,
        gradients.parallel,
    )


def assert_gradients(actual, expected, tolerance):
    for name, one, other in zip(Gradients._fields, actual, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype, name
        torch.testing.assert_close(
            one,
            other,
            rtol=0,
            atol=tolerance * max(1e-3, other.abs().max().item()),
            msg=lambda text, name=name: f"{name}: {text}",
        )


@every_importance
@every_rule
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 20), st.integers(1, 17), st.sampled_from([1, 3, 8, 13])
    ),
    k=st.integers(0, 5),
    seed=st.integers(0, 999),
)
def test_every_gradient_is_that_of_autograd(make, relative, shape, k, seed):
    n_tokens, n_features, d = shape
    parameters = some_parameters(seed, n_features, d, relative)
    x, upstream = normal(seed + 4, n_tokens, d), normal(seed + 5, n_tokens, d)
    rule = make((n_tokens, n_features), k, np.random.default_rng(seed))
    tokens, codes = forward(x, parameters, rule)
    # The definition and the code agree on what is differentiated.
    matches = (codes.to_dense() > 0).double()
    torch.testing.assert_close(
        decode(codes, parameters), dense_reconstruction(x, parameters, matches)
    )
    actual = by_matches(upstream, tokens, parameters, codes)
    assert_gradients(actual, by_autograd(upstream, x, parameters, codes), 1e-11)


@every_importance
@pytest.mark.parametrize("rule", ["token", "mutual", "feature, zipf"])
def test_float32_keeps_five_digits(relative, rule):
    n_tokens, n_features, d = 301, 97, 65
    double = some_parameters(0, n_features, d, relative)
    x, upstream = normal(4, n_tokens, d), normal(5, n_tokens, d)
    rule = RULES[rule]((n_tokens, n_features), 7, np.random.default_rng(0))
    single = double.to(torch.device("cpu"), torch.float32)
    tokens, codes = forward(x.float(), single, rule)
    actual = by_matches(upstream.float(), tokens, single, codes)
    assert {gradient.dtype for gradient in actual} == {torch.float32}
    expected = by_autograd(upstream, x, double, codes)
    assert_gradients([gradient.double() for gradient in actual], expected, 1e-5)


@every_importance
def test_the_loss_of_weighted_rows_through_the_whole_model(relative):
    parameters = some_parameters(3, 23, 9, relative)
    x = normal(7, 40, 9) * torch.linspace(0.2, 4, 40)[:, None].double()
    rule = RULES["mutual"](x.shape, 4, None)
    tokens, codes = forward(x, parameters, rule)
    norm_limit = 5.0
    assert (x.norm(dim=1) > norm_limit).sum() > 5
    result = reconstruction_loss(x, decode(codes, parameters) - x, norm_limit)
    actual = by_matches(result.gradient, tokens, parameters, codes)

    def loss(*arrays):
        matches = (codes.to_dense() > 0).double()
        x_hat = dense_reconstruction(x, Parameters(*arrays, relative), matches)
        weights = (norm_limit / x.norm(dim=1).clamp(min=norm_limit)) ** 3
        mean = (weights[:, None] * x).sum(0) / weights.sum()
        error = (weights[:, None] * (x_hat - x) ** 2).sum()
        return error / (weights[:, None] * (x - mean) ** 2).sum()

    leaves = [array.clone().requires_grad_() for array in parameters.arrays()]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for name, gradient in zip(NAMES, expected, strict=True):
        torch.testing.assert_close(getattr(actual, name), gradient)
    assert torch.autograd.gradcheck(loss, leaves)


@every_importance
@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 19), max_size=4),
    others=st.sets(st.integers(0, 18)),
    seed=st.integers(0, 99),
)
def test_some_features_are_parts_of_the_whole(relative, cuts, others, seed):
    parameters = some_parameters(seed, 19, 5, relative)
    x, upstream = normal(seed + 4, 12, 5), normal(seed + 5, 12, 5)
    rule = RULES["feature, any caps"]((12, 19), 0, np.random.default_rng(seed))
    tokens, codes = forward(x, parameters, rule)
    gradients = MatchGradients(upstream, tokens, codes, parameters)
    encoder, decoder = gradients.weights(slice(0, 19))
    edges = [0, *sorted(cuts), 19]
    ranges = [slice(start, stop) for start, stop in pairwise(edges)]
    # By number, they have to hold all between them that matched.
    numbers = torch.tensor(sorted(others | set(gradients.matched().tolist())))
    numbered = [part for part in numbers.split(1 + len(cuts)) if len(part)]
    for features in (*ranges, *numbered):
        for part, whole in zip(
            gradients.weights(features), (encoder, decoder), strict=True
        ):
            torch.testing.assert_close(part, whole[features])


@every_importance
def test_matched_are_the_features_with_a_match(relative):
    parameters = some_parameters(3, 30, 5, relative)
    x, upstream = normal(4, 6, 5), normal(5, 6, 5)
    tokens, codes = forward(x, parameters, RULES["mutual"]((6, 30), 2, None))
    matched = MatchGradients(upstream, tokens, codes, parameters).matched()
    assert matched.tolist() == sorted(set(codes.cols.tolist()))
    assert 0 < len(matched) < 30


@every_importance
def test_features_and_tokens_without_a_match(relative):
    parameters = some_parameters(0, 11, 6, relative)
    x, upstream = normal(4, 8, 6), normal(5, 8, 6)
    tokens, codes = forward(x, parameters, RULES["mutual"]((8, 11), 11, None))
    # Keep the matches of three features and five tokens, one in the middle left out.
    keep = torch.isin(codes.cols, torch.tensor([2, 3, 9]))
    keep &= torch.isin(codes.rows, torch.tensor([1, 2, 4, 5, 6]))
    codes = SparseCodes(
        codes.rows[keep], codes.cols[keep], codes.values[keep], codes.shape
    )
    actual = by_matches(upstream, tokens, parameters, codes)
    assert_gradients(actual, by_autograd(upstream, x, parameters, codes), 1e-11)
    idle = torch.ones(11, dtype=torch.bool)
    idle[codes.cols.long()] = False
    assert idle.sum() >= 8
    for name in ("encoder", "encoder_bias", "decoder", "parallel"):
        assert (getattr(actual, name)[idle] == 0).all()


@every_importance
def test_no_match_at_all_leaves_the_decoder_bias(relative):
    parameters = some_parameters(0, 4, 3, relative)
    x, upstream = normal(4, 5, 3), normal(5, 5, 3)
    tokens, codes = forward(x, parameters, RULES["mutual"]((5, 4), 0, None))
    assert len(codes) == 0
    actual = by_matches(upstream, tokens, parameters, codes)
    torch.testing.assert_close(actual.decoder_bias, upstream.sum(0))
    for name in ("encoder", "encoder_bias", "decoder", "parallel"):
        assert (getattr(actual, name) == 0).all()


def test_a_token_at_the_decoder_bias_takes_no_part():
    parameters = some_parameters(0, 7, 4, relative=True)
    parameters.encoder_bias.abs_()  # an affinity that would need no direction
    x, upstream = normal(4, 6, 4), normal(5, 6, 4)
    x[2] = parameters.decoder_bias
    tokens, codes = forward(x, parameters, RULES["token"]((6, 7), 3, None))
    assert (codes.rows != 2).all()
    actual = by_matches(upstream, tokens, parameters, codes)
    others = torch.arange(6) != 2
    codes_of_others = SparseCodes(
        codes.rows - (codes.rows > 2).int(), codes.cols, codes.values, (5, 7)
    )
    expected = by_autograd(upstream[others], x[others], parameters, codes_of_others)
    expected = expected._replace(decoder_bias=expected.decoder_bias + upstream[2])
    assert_gradients(actual, expected, 1e-11)


def test_nothing_that_was_given_is_changed():
    parameters = some_parameters(0, 7, 4, relative=True)
    x, upstream = normal(4, 6, 4), normal(5, 6, 4)
    tokens, codes = forward(x, parameters, RULES["token"]((6, 7), 3, None))
    given_ = [*parameters.arrays(), upstream, codes.values, tokens.scaled, tokens.norms]
    before = [array.clone() for array in given_]
    by_matches(upstream, tokens, parameters, codes)
    for array, copy in zip(given_, before, strict=True):
        assert torch.equal(array, copy)
