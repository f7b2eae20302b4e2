"""Cap profiles against their bounds, sums and shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from invariants import assert_density

from skchoice.profiles import (
    by_rank,
    fill_to,
    learned_density,
    uniform_density,
    zipf_density,
)

quick = settings(max_examples=80, deadline=None)

weights = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-9, 10.0), st.floats(1e-250, 1e-200)),
    min_size=1,
    max_size=20,
)


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
    ],
)
def test_what_makes_no_profile_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
