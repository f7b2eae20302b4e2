"""The dense halves of the model against their definition, in tiles of any size."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import every_importance, normal, some_parameters
from test_allocation import RULES, every_rule, expected

from skchoice import model, tiles
from skchoice.allocation import allocate
from skchoice.codes import SparseCodes
from skchoice.model import decode, encoder_input, random_parameters
from skchoice.ops import coarse
from skchoice.rules import MutualChoice
from skchoice.tiles import EncoderAffinities


def dense_affinities(x, parameters):
    """The definition, a token at a time; a token without direction has none."""
    rows = []
    for token in x - parameters.decoder_bias:
        norm = token.norm() if parameters.relative else 1.0
        if norm == 0:
            rows.append(torch.full_like(parameters.encoder_bias, -torch.inf))
        else:
            direction = token / norm
            rows.append(parameters.encoder @ direction + parameters.encoder_bias)
    return torch.stack(rows)


def affinities_in_chunks(x, parameters, size):
    chunks = [encoder_input(chunk, parameters) for chunk in x.split(size)]
    return EncoderAffinities(parameters, lambda: chunks, len(x))


# --------------------------------------------------------------------------- parameters


def test_random_parameters():
    def draw(seed):
        return random_parameters(
            30, 7, relative=True, generator=torch.Generator().manual_seed(seed)
        )

    parameters = draw(0)
    assert parameters.n_features == 30 and parameters.relative
    torch.testing.assert_close(parameters.decoder.norm(dim=1), torch.ones(30))
    assert torch.equal(parameters.encoder, parameters.decoder)
    assert torch.equal(parameters.encoder_bias, torch.full((30,), -0.02))
    assert not parameters.decoder_bias.any()
    assert parameters.decoder_bias.shape == (7,)
    # Training changes one and must not change the other.
    parameters.encoder += 1
    assert torch.equal(parameters.decoder, draw(0).decoder)
    assert not torch.equal(parameters.decoder, draw(1).decoder)


def test_random_directions_are_uniform_on_the_sphere():
    generator = torch.Generator().manual_seed(0)
    decoder = random_parameters(20_000, 3, False, generator).decoder
    torch.testing.assert_close(decoder.mean(0), torch.zeros(3), rtol=0, atol=0.02)
    second_moment = decoder.T @ decoder / 20_000
    torch.testing.assert_close(second_moment, torch.eye(3) / 3, rtol=0, atol=0.02)


def test_parameters_move_together():
    parameters = some_parameters(0, 5, 3, relative=True)
    single = parameters.to(torch.device("cpu"), torch.float32)
    assert single.relative
    for wide, narrow in zip(parameters.arrays(), single.arrays(), strict=True):
        assert narrow.dtype == torch.float32 and torch.equal(wide.float(), narrow)


# ------------------------------------------------------------------------ encoder input


def test_absolute_input_is_centred():
    parameters, x = some_parameters(0, 5, 3, relative=False), normal(4, 6, 3)
    tokens = encoder_input(x, parameters)
    assert torch.equal(tokens.scaled, x - parameters.decoder_bias)
    assert tokens.norms is None and tokens.silent is None


def test_relative_input_is_centred_and_of_unit_norm():
    parameters, x = some_parameters(0, 5, 3, relative=True), normal(4, 6, 3)
    kept = x.clone()
    tokens = encoder_input(x, parameters)
    torch.testing.assert_close(tokens.norms, (x - parameters.decoder_bias).norm(dim=1))
    torch.testing.assert_close(tokens.scaled.norm(dim=1), torch.ones(6).double())
    torch.testing.assert_close(
        tokens.scaled * tokens.norms[:, None], x - parameters.decoder_bias
    )
    assert tokens.silent is None
    assert torch.equal(x, kept)


def test_a_token_at_the_decoder_bias_is_silent_under_relative_importance():
    parameters, x = some_parameters(0, 5, 3, relative=True), normal(4, 6, 3)
    x[[1, 4]] = parameters.decoder_bias
    tokens = encoder_input(x, parameters)
    assert tokens.silent.tolist() == [False, True, False, False, True, False]
    assert tokens.scaled.isfinite().all()
    some = tokens.some(torch.tensor([4, 0]))
    assert some.silent.tolist() == [True, False]
    assert torch.equal(some.norms, tokens.norms[[4, 0]])
    assert torch.equal(some.scaled, tokens.scaled[[4, 0]])


@every_importance
def test_affinities_become_codes(relative):
    parameters, x = some_parameters(0, 5, 3, relative), normal(4, 6, 3)
    tokens = encoder_input(x, parameters)
    rows, cols = torch.tensor([0, 3, 3, 5]), torch.tensor([0, 0, 2, 4])
    affinities = torch.arange(1.0, 5.0).double()
    codes = tokens.to_codes(SparseCodes.sorted(rows, cols, affinities, (6, 5)))
    norms = (x - parameters.decoder_bias).norm(dim=1) if relative else torch.ones(6)
    torch.testing.assert_close(codes.values, affinities * norms[codes.rows])
    assert codes.rows.tolist() == [0, 3, 3, 5]


@every_importance
def test_matches_take_new_affinities(relative):
    parameters, x = some_parameters(0, 5, 3, relative), normal(4, 6, 3)
    x[2] = parameters.decoder_bias  # without direction, where importance is relative
    everywhere = torch.ones(6, 5).double().to_sparse()
    cols, rows = everywhere.T.coalesce().indices()
    all_pairs = SparseCodes(rows.int(), cols.int(), torch.ones(30).double(), (6, 5))
    found = encoder_input(x, parameters).rescored(all_pairs, parameters)
    exact = dense_affinities(x, parameters).clamp(min=0)
    assert 0 < (exact > 0).sum() < 30
    torch.testing.assert_close(found.to_dense(), exact)
    some = found.of_tokens(1, 4)
    assert some.shape == (3, 5)
    torch.testing.assert_close(some.to_dense(), exact[1:4])
    assert (some.cols.diff() >= 0).all()


# -------------------------------------------------------------------------------- tiles


@every_importance
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 50), st.integers(1, 6)),
    chunk=st.integers(1, 12),
    entries=st.sampled_from([1, 400, 1 << 23]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 999),
    restrict=st.sampled_from([None, "features", "tokens"]),
    of_token=st.booleans(),
    first=st.sampled_from([None, 1, 7, 100]),
)
def test_tiles_hold_every_affinity_once(
    relative, shape, chunk, entries, dtype, seed, restrict, of_token, first
):
    n_tokens, n_features, d = shape
    parameters = some_parameters(seed, n_features, d, relative, dtype)
    parameters.encoder_bias += 100.0  # affinities all positive, and so all reach 0
    x = normal(seed + 4, n_tokens, d, dtype=dtype)
    if seed % 3 == 0:
        x[seed % n_tokens] = parameters.decoder_bias
    affinities = affinities_in_chunks(x, parameters, chunk)
    assert affinities.shape == (n_tokens, n_features) and affinities.dtype == dtype
    rng = np.random.default_rng(seed)
    wanted = torch.ones(n_tokens, n_features, dtype=torch.bool)
    members = {}
    if restrict:
        size = n_features if restrict == "features" else n_tokens
        some = np.sort(rng.choice(size, rng.integers(1, size + 1), replace=False))
        members[restrict] = torch.from_numpy(some)
        inside = torch.from_numpy(np.isin(np.arange(size), some))
        wanted &= inside if restrict == "features" else inside[:, None]
    found = torch.full((n_tokens, n_features), torch.nan, dtype=dtype)
    times = torch.zeros(n_tokens, n_features)
    with (
        mock.patch.object(tiles, "_TILE_BYTES", {"cpu": entries}),
        mock.patch.object(tiles, "_BLOCK_BYTES", 5 * entries),
    ):
        for tile, of_tile, of_chunk in affinities.tiles(**members, first=first):
            assert first is None or of_tile[0] > 0 or len(of_tile) <= first
            for block in tile.blocks():
                least = torch.full((1, 1), torch.finfo(dtype).tiny, dtype=dtype)
                if of_token:
                    least = least.expand(1, len(of_chunk[block]))
                features, tokens, values = tile.hits(least, block)
                rows, cols = of_chunk[block][tokens], of_tile[features]
                found[rows, cols] = values
                times[rows, cols] += 1
    exact = dense_affinities(x, parameters)
    assert torch.equal(times.bool(), wanted & exact.isfinite())
    assert times.max() <= 1
    there = times.bool()
    tolerance = 5e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found[there], exact[there], rtol=0, atol=tolerance)


@every_importance
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("coarsely", [False, True])
def test_hits_are_what_reaches_the_threshold(relative, dtype, coarsely):
    parameters = some_parameters(0, 70, 9, relative, dtype)
    x = normal(4, 50, 9, dtype=dtype)
    exact = dense_affinities(x, parameters)
    per_feature = exact.quantile(0.9, dim=0) + 1e-4
    per_token = exact.quantile(0.9, dim=1) + 1e-4
    with (
        mock.patch.object(tiles, "_TILE_BYTES", {"cpu": 20 * 32 * 4}),
        mock.patch.object(coarse, "supported", lambda device: coarsely),
        mock.patch.object(tiles, "_BLOCK_BYTES", 7 * 9 * 4),
        mock.patch.object(model, "_MIN_COARSE_TOKENS", 1),
    ):
        for spread, reached in (
            (lambda cols, rows: per_feature[cols][:, None], exact >= per_feature),
            (lambda cols, rows: per_token[rows][None], exact.T >= per_token),
            (lambda cols, rows: torch.full((1, 1), 0.7, dtype=dtype), exact >= 0.7),
        ):
            found = torch.zeros(50, 70, dtype=torch.bool)
            for tile, cols, rows in affinities_in_chunks(x, parameters, 20).tiles():
                for block in tile.blocks():
                    of_block = rows[block]
                    features, tokens, _ = tile.hits(spread(cols, of_block), block)
                    found[of_block[tokens], cols[features]] = True
            reached = reached if reached.shape == found.shape else reached.T
            assert torch.equal(found, reached)
            assert 0 < found.sum() < 2500


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
@pytest.mark.parametrize("n_tokens", [1, 2, 37])
@pytest.mark.parametrize("coarsely", [False, True])
def test_blocks_divide_the_tokens(n_tokens, size, coarsely):
    parameters = some_parameters(0, 5, 3, True, torch.float32)
    x = normal(4, n_tokens, 3, dtype=torch.float32)
    with (
        mock.patch.object(tiles, "_BLOCK_BYTES", size),
        mock.patch.object(coarse, "supported", lambda device: coarsely),
        mock.patch.object(model, "_MIN_COARSE_TOKENS", 1),
    ):
        for tile, _, of_tile in affinities_in_chunks(x, parameters, n_tokens).tiles():
            blocks = [of_tile[block] for block in tile.blocks()]
    assert torch.equal(torch.cat(blocks), torch.arange(n_tokens))
    lengths = [len(block) for block in blocks]
    if not coarsely:  # no affinity is computed anew
        assert lengths == [n_tokens]
        return
    # 12 bytes a token; in shares as equal as may be.
    assert min(lengths) > 0 and max(lengths) <= size // 12 + 1
    assert max(lengths) - min(lengths) <= 1


@every_importance
def test_token_sizes_are_the_norms_that_the_encoder_sees(relative):
    parameters, x = some_parameters(0, 5, 3, relative), normal(4, 7, 3)
    sizes = affinities_in_chunks(x, parameters, 3).token_sizes()
    norms = torch.ones(7) if relative else (x - parameters.decoder_bias).norm(dim=1)
    torch.testing.assert_close(sizes, norms.double())


@every_importance
@every_rule
@pytest.mark.parametrize("coarsely", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_allocation_streams_through_the_encoder(make, relative, dtype, coarsely):
    parameters = some_parameters(0, 60, 8, relative, dtype)
    x = normal(4, 40, 8, dtype=dtype)
    x[11] = parameters.decoder_bias
    exact = dense_affinities(x, parameters)
    rule = make((40, 60), 6, np.random.default_rng(0))
    mask = expected(exact, rule)
    n_groups = len(rule.caps((40, 60)))
    with (
        mock.patch.object(tiles, "_TILE_BYTES", {"cpu": 20 * 17 * 4}),
        mock.patch.object(coarse, "supported", lambda device: coarsely),
        mock.patch.object(tiles, "_BLOCK_BYTES", 7 * 9 * 4),
        mock.patch.object(model, "_MIN_COARSE_TOKENS", 1),
    ):
        for start in (0.0, 0.8, 100.0):
            thresholds = torch.full((n_groups,), start, dtype=dtype)
            matches = allocate(
                affinities_in_chunks(x, parameters, 20), rule, thresholds
            ).matches
            assert torch.equal(matches.to_dense() > 0, mask)
            torch.testing.assert_close(
                matches.to_dense()[mask], exact[mask], rtol=1e-5, atol=1e-6
            )
    assert 0 < mask.sum() < (exact > 0).sum()


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_codes_scale_with_the_token_under_relative_importance(scale):
    parameters = some_parameters(0, 20, 5, relative=True)
    x = normal(4, 12, 5)
    further = parameters.decoder_bias + scale * (x - parameters.decoder_bias)
    rule = RULES["mutual"]((12, 20), 4, None)

    def codes(x):
        tokens = encoder_input(x, parameters)
        affinities = EncoderAffinities(parameters, lambda: [tokens], len(x))
        return tokens.to_codes(allocate(affinities, rule, torch.zeros(1)).matches)

    torch.testing.assert_close(codes(further).to_dense(), scale * codes(x).to_dense())


@every_importance
@pytest.mark.parametrize("zero", [slice(0), slice(3, 6), slice(None)], ids=str)
def test_affinities_over_thresholds(relative, zero):
    parameters = some_parameters(3, 20, 7, relative)
    x = normal(4, 30, 7)
    thresholds = normal(5, 20).abs() + 0.1
    thresholds[7] = 1e9  # of a feature that must not fire
    thresholds[zero] = 0.0
    affinities = affinities_in_chunks(x, parameters, 11)
    rule = MutualChoice(20)  # all that are positive
    plain, over = (
        allocate(each, rule, torch.zeros(1, dtype=x.dtype)).matches.to_dense()
        for each in (affinities, affinities.over(thresholds))
    )
    assert torch.equal(plain > 0, over > 0)
    at = thresholds > 0
    torch.testing.assert_close(over[:, at], plain[:, at] / thresholds[at])
    assert over.isfinite().all()
    if at.any():  # what is over zero is over whatever the others are over
        of_open = over[:, ~at][plain[:, ~at] > 0.01]
        assert (of_open > over[:, at].amax()).all()


# ------------------------------------------------------------------------------- decode


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 999),
)
def test_decode_is_the_dense_product(dtype, shape, share, seed):
    n_tokens, n_features, d = shape
    parameters = some_parameters(seed, n_features, d, False, dtype)
    dense = normal(seed, n_tokens, n_features, dtype=dtype).abs()
    dense *= torch.from_numpy(
        np.random.default_rng(seed).random((n_tokens, n_features)) < share
    )
    rows, cols = dense.nonzero(as_tuple=True)
    codes = SparseCodes.sorted(rows, cols, dense[rows, cols], (n_tokens, n_features))
    x_hat = decode(codes, parameters)
    assert x_hat.dtype == dtype
    torch.testing.assert_close(
        x_hat, dense @ parameters.decoder + parameters.decoder_bias
    )
