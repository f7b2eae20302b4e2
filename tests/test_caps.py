"""The integer caps drawn from densities, against these and their sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from invariants import assert_drawn_caps

from skchoice.caps import CapSampler, systematic_caps
from skchoice.profiles import fill_to, zipf_density

quick = settings(max_examples=80, deadline=None)


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
        (lambda: systematic_caps([2.0, 0.5], 3), "density must be from 0 to 1"),
        (lambda: systematic_caps([0.5, -0.5], 3), "got -0.5 for feature 1"),
        (lambda: systematic_caps([np.nan, 0.5], 3), "got nan for feature 0"),
    ],
)
def test_what_is_no_density_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
