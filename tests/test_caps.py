"""Densities against their bounds and sums, and the integer caps drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from invariants import assert_density, assert_drawn_caps

from skchoice.caps import (
    CapSampler,
    by_rank,
    fill_to,
    learned_density,
    systematic_caps,
    uniform_density,
    zipf_density,
)

quick = settings(max_examples=80, deadline=None)

weights = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-9, 10.0), st.floats(1e-250, 1e-200)),
    min_size=1,
    max_size=20,
)


def densities():
    """Densities of all shapes whose sum is a whole number of matches per token."""

    def of(n, share, exponent, seed):
        profile = zipf_density(n, max(1, round(share * n)), exponent)
        return np.random.default_rng(seed).permutation(profile)

    return st.builds(
        of,
        st.integers(1, 40),
        st.floats(0.0, 1.0),
        st.sampled_from([0.0, 0.5, 1.0, 3.0, 20.0]),
        st.integers(0, 99),
    )


offsets = st.floats(0.0, 1.0, exclude_max=True)


# ------------------------------------------------------------------------------ fill_to


@quick
@given(weights=weights, share=st.floats(0.0, 1.0), floor=st.sampled_from([0, 0.1, 1]))
def test_fill_to_reaches_every_total_that_the_bounds_allow(weights, share, floor):
    weights = np.array(weights)
    highest = np.where(weights > 0, 1.0, floor)
    total = floor * len(weights) + share * (highest.sum() - floor * len(weights))
    filled = fill_to(weights, total, lower=floor)
    assert filled.dtype == np.float64
    np.testing.assert_allclose(filled.sum(), total, rtol=1e-12)
    assert (filled >= floor).all() and (filled <= highest).all()


@quick
@given(weights=weights.filter(any), share=st.floats(0.01, 0.99), data=st.data())
def test_fill_to_is_one_scale_clipped_to_bounds(weights, share, data):
    weights = np.array(weights)
    bound = st.lists(
        st.floats(0.0, 1.0), min_size=len(weights), max_size=len(weights)
    ).map(np.array)
    lower, upper = np.sort([data.draw(bound), data.draw(bound)], axis=0)
    highest = np.where(weights > 0, upper, lower)
    total = (1 - share) * lower.sum() + share * highest.sum()
    filled = fill_to(weights, total, lower, upper)
    # What is strictly between its bounds is the same multiple of its weight; what is
    # at its lower bound would not be more than that, at its upper not less.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = filled / weights
    low, high = filled < upper - 1e-9, filled > lower + 1e-9
    free = low & high
    if free.any():
        common = scale[free].max()
        np.testing.assert_allclose(scale[free], common, rtol=1e-6)
        assert (common * weights[low] <= filled[low] + 1e-6).all()
        assert (common * weights[high] >= filled[high] - 1e-6).all()
    np.testing.assert_allclose(filled.sum(), total, rtol=1e-12)


@quick
@given(weights=weights, total=st.floats(0.0, 30.0), factor=st.floats(1e-3, 1e3))
def test_fill_to_ignores_the_scale_of_weights(weights, total, factor):
    weights = np.array(weights)
    np.testing.assert_allclose(
        fill_to(factor * weights, total), fill_to(weights, total), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    ("weights", "total", "bounds", "expected"),
    [
        ([1.0, 2.0], 5.0, {}, [1.0, 1.0]),  # more than there is room for
        ([1.0, 2.0], 2.0, {}, [1.0, 1.0]),  # exactly what there is room for
        ([1.0, 2.0], 0.0, {}, [0.0, 0.0]),
        ([1.0, 2.0], 0.1, {"lower": 0.2}, [0.2, 0.2]),  # less than the floor
        ([0.0, 0.0], 1.0, {}, [0.0, 0.0]),  # nothing to scale
        ([0.0, 1.0], 2.0, {}, [0.0, 1.0]),
        ([0.0, 1.0], 1.0, {"lower": [0.25, 0.0]}, [0.25, 0.75]),
        ([1.0, 1.0], 1.0, {"upper": [0.25, 1.0]}, [0.25, 0.75]),
        ([1.0, 1.0], 1.0, {"lower": 0.5, "upper": 0.5}, [0.5, 0.5]),
        ([7.0], 0.3, {}, [0.3]),
        ([1e-320, 1.0], 1.5, {}, [0.5, 1.0]),  # subnormal weights are weights
        ([5e-324], 0.5, {"lower": 0.1}, [0.5]),
        ([1e-200, 1.0], 1.5, {}, [0.5, 1.0]),
    ],
)
def test_fill_to_at_its_edges(weights, total, bounds, expected):
    np.testing.assert_allclose(fill_to(np.array(weights), total, **bounds), expected)


def test_fill_to_leaves_its_arguments_alone():
    weights, lower, upper = np.array([1.0, 3.0]), np.zeros(2), np.ones(2)
    for total in (0.0, 1.5, 9.0):
        fill_to(weights, total, lower, upper)[:] = 7.0
    assert weights.tolist() == [1, 3]
    assert lower.tolist() == [0, 0] and upper.tolist() == [1, 1]


# ---------------------------------------------------------------------------- profiles


@quick
@given(
    n_features=st.integers(1, 300),
    share=st.floats(0.001, 1.0),
    exponent=st.floats(0.0, 100.0),
    offset=st.floats(0.0, 500.0),
)
def test_zipf_density_sums_to_k_and_descends(n_features, share, exponent, offset):
    k = share * n_features
    density = zipf_density(n_features, k, exponent, offset)
    assert density.shape == (n_features,)
    assert_density(density, k)
    assert (np.diff(density) <= 1e-15).all()


def test_zipf_density_is_zipf_where_it_is_not_cut():
    ranks = np.arange(1, 2001)
    density = zipf_density(2000, 32, exponent=0.8, offset=5.0)
    assert density[0] < 1
    np.testing.assert_allclose(density[0] / density, ((ranks + 5) / 6) ** 0.8)
    steep = zipf_density(2000, 32, exponent=1.3)
    full = (steep == 1.0).sum()
    assert 1 < full < 32
    np.testing.assert_allclose(
        steep[full] / steep[full:], (ranks[full:] / ranks[full]) ** 1.3
    )


def test_zipf_density_of_exponent_zero_is_uniform():
    np.testing.assert_allclose(zipf_density(60, 6, 0.0, 3.0), uniform_density(60, 6))


@quick
@given(n_features=st.integers(1, 200), share=st.floats(0.0, 1.0))
def test_uniform_density(n_features, share):
    density = uniform_density(n_features, share * n_features)
    assert_density(density, share * n_features)
    assert len(np.unique(density)) == 1


@quick
@given(
    measured=st.lists(
        st.one_of(st.just(0.0), st.floats(0.0, 1.0)), min_size=1, max_size=50
    ),
    share=st.floats(0.01, 1.0),
)
def test_learned_density_sums_to_k_and_leaves_nobody_dead(measured, share):
    k = share * len(measured)
    density = learned_density(np.array(measured), k)
    assert_density(density, k)
    assert density.min() >= 0.05 * share * (1 - 1e-12)
    # Who fired more does not get less.
    assert (np.diff(density[np.argsort(measured, kind="stable")]) >= -1e-15).all()


def test_learned_density_is_what_was_measured_where_nothing_needs_a_floor():
    measured = np.array([0.7, 0.2, 0.35, 0.75])
    np.testing.assert_allclose(learned_density(measured, 2.0), measured)
    np.testing.assert_allclose(learned_density(measured, 1.0), measured / 2)


@quick
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_by_rank_gives_the_largest_to_the_densest(measured):
    profile = np.arange(len(measured), 0, -1.0)
    density = by_rank(profile, np.array(measured))
    assert sorted(density, reverse=True) == profile.tolist()
    # Ties go to the smaller index.
    order = sorted(range(len(measured)), key=lambda j: (-measured[j], j))
    assert density[order].tolist() == profile.tolist()


# ----------------------------------------------------------------------- integer caps


@quick
@given(density=densities(), n_tokens=st.integers(1, 5000), offset=offsets)
def test_drawn_caps_have_the_exact_sum_and_are_near_their_expectation(
    density, n_tokens, offset
):
    caps = systematic_caps(density, n_tokens, offset)
    assert_drawn_caps(caps, density, n_tokens)
    assert caps.sum() == round(density.sum()) * n_tokens
    assert (caps[density == 1.0] == n_tokens).all()


@quick
@given(
    density=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20).map(np.array),
    n_tokens=st.integers(1, 50),
    offset=offsets,
)
def test_drawn_caps_of_any_density_where_the_budget_is_rounded(
    density, n_tokens, offset
):
    # Sums like 3.5 matches: the half that rounding adds or takes must not push a
    # feature out of its bounds.
    assert_drawn_caps(systematic_caps(density, n_tokens, offset), density, n_tokens)


def test_a_rounded_budget_keeps_every_cap_within_one_of_its_expectation():
    # 3.1 and 1.4 matches expected, a budget of 4.
    for offset in np.arange(0.0, 1.0, 0.05):
        caps = systematic_caps(np.array([0.31, 0.14]), 10, offset)
        assert caps.sum() == 4
        assert (np.abs(caps - [3.1, 1.4]) < 1).all(), caps


@quick
@given(
    eighths=st.lists(st.integers(0, 8), min_size=1, max_size=12),
    thirds=st.integers(1, 40),
)
def test_drawn_caps_are_unbiased(eighths, thirds):
    # Expectations in eighths of a match, so that eight offsets see all that can happen.
    eighths = np.array([*eighths, -sum(eighths) % 8])
    drawn = [
        systematic_caps(eighths / 24, 3 * thirds, step / 8 + 1 / 16)
        for step in range(8)
    ]
    np.testing.assert_allclose(np.mean(drawn, axis=0), eighths * thirds / 8, atol=1e-12)


@quick
@given(density=densities(), n_tokens=st.integers(1, 300), offset=offsets)
def test_drawn_caps_follow_the_order_of_the_walk(density, n_tokens, offset):
    order = np.random.default_rng(0).permutation(len(density))
    caps = systematic_caps(density, n_tokens, offset, order)
    walked = systematic_caps(density[order], n_tokens, offset)
    assert caps[order].tolist() == walked.tolist()


@pytest.mark.parametrize(
    ("density", "n_tokens", "expected"),
    [
        ([1.0], 7, [7]),
        ([0.0], 7, [0]),
        ([1.0, 0.0, 1.0], 3, [3, 0, 3]),
        ([1.0, 1.0, 1.0], 1, [1, 1, 1]),
        ([0.25, 0.75], 4, [1, 3]),
        ([0.25, 0.75], 0, [0, 0]),
    ],
)
def test_whole_expectations_are_drawn_as_they_are(density, n_tokens, expected):
    for offset in (0.0, 0.3, 0.999999, np.nextafter(1, 0)):
        caps = systematic_caps(np.array(density), n_tokens, offset)
        assert caps.tolist() == expected


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("n_tokens", [4096, 100_000_007, 3 * 2**27])
def test_drawn_caps_are_exact_at_any_size(exponent, n_tokens):
    n_features, k = 131_072, 32
    density = zipf_density(n_features, k, exponent)
    order = np.random.default_rng(0).permutation(n_features)
    for offset in (0.0, 0.123456789, 0.99999):
        caps = systematic_caps(density, n_tokens, offset, order)
        assert int(caps.sum()) == k * n_tokens
        assert caps.min() >= 0 and caps.max() <= n_tokens
        # A float64 knows an expectation this large to about a millionth.
        assert np.abs(caps - density * n_tokens).max() < 1 + 1e-5


def test_plain_rounding_would_starve_the_tail_and_drawing_does_not():
    density = zipf_density(32_768, 32)
    sampler = CapSampler(density, np.random.default_rng(0))
    served = np.zeros(32_768, dtype=bool)
    for _ in range(8):
        served |= sampler.draw(4096) > 0
    assert (np.rint(density * 4096) == 0).sum() > 6000
    assert served.all()


@quick
@given(
    n_features=st.integers(2, 200),
    n_tokens=st.integers(1, 5000),
    exponent=st.floats(0.5, 3.0),
    seed=st.integers(0, 99),
)
def test_a_floor_of_one_match_holds_in_every_batch(
    n_features, n_tokens, exponent, seed
):
    k = max(1, n_features // 3)
    lower = min(1.0, 1.0 / n_tokens)
    density = fill_to(zipf_density(n_features, k, exponent), k, lower=lower)
    assume(density.min() >= lower)
    sampler = CapSampler(density, np.random.default_rng(seed))
    for _ in range(5):
        caps = sampler.draw(n_tokens)
        assert_drawn_caps(caps, density, n_tokens)
        assert caps.min() >= 1


@quick
@given(
    n_features=st.integers(2, 200),
    matches_each=st.integers(1, 9),
    exponent=st.floats(0.0, 3.0),
    seed=st.integers(0, 99),
)
def test_a_smallest_cap_asked_for_holds_in_a_batch_of_any_size(
    n_features, matches_each, exponent, seed
):
    k = max(1, n_features // 5)
    sampler = CapSampler(
        zipf_density(n_features, k, exponent), np.random.default_rng(seed)
    )
    fewest = -(-matches_each * n_features // k)
    for n_tokens in (fewest, 7 * fewest, fewest + 1):
        caps = sampler.draw(n_tokens, matches_each)
        assert caps.sum() == k * n_tokens
        assert caps.min() >= matches_each and caps.max() <= n_tokens


# -------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_the_sampler_serves_every_feature_at_bounded_intervals(exponent):
    # A feature is served before it is owed two matches; by independent draws, at times
    # ten.
    n_tokens, n_draws = 20, 3000
    density = zipf_density(60, 2, exponent)
    sampler = CapSampler(density, np.random.default_rng(1))
    draws = np.array([sampler.draw(n_tokens) for _ in range(n_draws)])
    for j, expected in enumerate(density * n_tokens):
        served = np.flatnonzero(draws[:, j])
        waits = np.diff(np.concatenate([[-1], served, [n_draws]]))
        assert waits.max() <= np.ceil(2.0 / min(expected, 1.0)), (j, expected)
    assert (density * n_tokens).min() < 0.4


def test_the_sampler_is_right_on_average_and_every_time():
    density = zipf_density(200, 5, 1.2)
    sampler = CapSampler(density, np.random.default_rng(2))
    draws = np.array([sampler.draw(37) for _ in range(2000)])
    assert (draws.sum(axis=1) == 5 * 37).all()
    # However many draws: independent ones err by more and more.
    np.testing.assert_allclose(draws.sum(axis=0), 2000 * 37 * density, atol=2.0)


@pytest.mark.parametrize("change", [0.01, 0.3])
@pytest.mark.parametrize("n_tokens", [20, 500])
def test_the_sampler_serves_every_feature_while_the_density_changes(change, n_tokens):
    rng = np.random.default_rng(0)
    weights = zipf_density(300, 2, 1.0)
    sampler = CapSampler(fill_to(weights, 2.0), rng)
    owed = np.zeros(300)
    unserved, longest = np.zeros((2, 300))
    for _ in range(1500):
        weights *= np.exp(change * rng.standard_normal(300))
        weights = np.clip(weights, 1e-4, 1.0)
        sampler.density = fill_to(weights, 2.0)
        caps = sampler.draw(n_tokens)
        assert_drawn_caps(caps, sampler.density, n_tokens)
        expected = sampler.density * n_tokens
        owed += expected - caps
        assert np.abs(owed).max() < 2.0
        unserved += expected
        longest = np.maximum(longest, np.where(expected < 1, unserved, 0.0))
        unserved[caps > 0] = 0.0
    assert longest.max() < 3.0


def test_the_sampler_serves_batches_of_any_size():
    density = zipf_density(50, 3, 1.0)
    sampler = CapSampler(density, np.random.default_rng(3))
    for n_tokens in (64, 64, 1, 33, 64, 2):
        assert_drawn_caps(sampler.draw(n_tokens), density, n_tokens)


def test_the_sampler_is_what_its_generator_makes_it():
    def sequence(seed):
        sampler = CapSampler(zipf_density(30, 2), np.random.default_rng(seed))
        return [sampler.draw(16).tolist() for _ in range(4)]

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)
    assert len({tuple(caps) for caps in sequence(5)}) > 1


# --------------------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform_density(5, k=7), "k must be from 0 to n_features=5, got 7"),
        (lambda: uniform_density(0, k=0), "n_features must be an integer"),
        (lambda: zipf_density(5, k=10), "k must be from 0 to n_features=5"),
        (lambda: zipf_density(5, k=-1), "k must be from 0 to n_features=5"),
        (lambda: zipf_density(5, k=np.nan), "k must be from 0 to n_features=5"),
        (lambda: zipf_density(5, k=1, exponent=-1), "exponent must be a number"),
        (lambda: zipf_density(5, k=1, offset=-1), "offset must be a number"),
        (lambda: fill_to([-1.0, 1.0], 1), "weights must be.*got -1.0 for feature 0"),
        (lambda: fill_to([1.0, np.nan], 1), "weights must be.*got nan for feature 1"),
        (lambda: fill_to([np.inf], 1), "weights must be finite"),
        (lambda: systematic_caps([2.0, 0.5], 3), "density must be from 0 to 1"),
        (lambda: systematic_caps([0.5, -0.5], 3), "got -0.5 for feature 1"),
        (lambda: systematic_caps([np.nan, 0.5], 3), "got nan for feature 0"),
    ],
)
def test_what_is_no_density_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
