"""What features want, against populations whose wants are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skchoice import FeatureChoiceSAE
from skchoice.caps import systematic_caps
from skchoice.demand import Demand
from skchoice.firing import FiringTracker
from skchoice.profiles import fill_to

quick = settings(max_examples=60, deadline=None)
CPU = torch.device("cpu")


def demand_after(counts, n_tokens, window=100):
    """Begin where the tracker has seen one batch."""
    tracker = FiringTracker(len(counts), 1.0, window, CPU)
    tracker.update(torch.as_tensor(counts), n_tokens)
    return Demand(tracker)


def cuts_of(wanted, caps, rng, n_tokens):
    """Draw affinities that fall with the fourth power, and cut them at the caps."""
    cuts = np.zeros(len(caps))
    for j, cap in enumerate(caps):
        # Of a Poisson process: the numbers above level 1 are wanted * n_tokens.
        arrivals = rng.exponential(size=cap + 1).cumsum()
        cuts[j] = (wanted[j] * n_tokens / arrivals[cap]) ** 0.25
    return cuts


@pytest.mark.parametrize("start", ["uniform", "reversed"])
def test_caps_that_follow_demand_come_to_what_the_features_want(start):
    rng = np.random.default_rng(0)
    wanted = 1.0 / np.arange(1, 41)
    k, n_tokens = wanted.sum(), 400
    begin = np.ones(40) if start == "uniform" else wanted[::-1]
    density = fill_to(begin, k)
    demand = demand_after((density * n_tokens).astype(int), n_tokens, window=4000)
    for step in range(300):
        caps = systematic_caps(density, n_tokens, offset=step * 0.618 % 1)
        cuts = cuts_of(wanted, caps, rng, n_tokens)
        demand.update(torch.from_numpy(caps), torch.from_numpy(cuts), n_tokens)
        density = fill_to(demand.density.numpy(), k)
    np.testing.assert_allclose(density, wanted, rtol=0.25)


@quick
@given(
    caps=st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any),
    scale=st.floats(0.01, 100.0),
)
def test_equal_cuts_leave_a_demand_that_the_caps_meet(caps, scale):
    demand = demand_after(caps, 10)
    before = demand.density.clone()
    demand.update(torch.as_tensor(caps), torch.full((3,), scale), 10)
    np.testing.assert_allclose(demand.density, before, rtol=1e-12)


@quick
@given(
    cuts=st.lists(st.just(0.0) | st.floats(1e-6, 10.0), min_size=3, max_size=3),
    scale=st.sampled_from([2.0**-20, 2.0**20]),
)
def test_one_batch_says_no_more_than_four_times_and_scale_says_nothing(cuts, scale):
    caps, cuts = torch.tensor([1, 2, 3]), torch.tensor(cuts, dtype=torch.float64)
    one, other = (demand_after([3, 2, 1], 10) for _ in range(2))
    one.update(caps, cuts, 10)
    other.update(caps, cuts * scale, 10)
    np.testing.assert_allclose(one.density, other.density, rtol=1e-12)
    if cuts.any():
        said = one.density * 20 - torch.tensor([3, 2, 1])
        assert (said <= 4 * caps + 1e-9).all() and (said >= caps / 4 - 1e-9).all()
    else:
        assert one.density.tolist() == [0.3, 0.2, 0.1]


def test_old_batches_fade_once_four_windows_are_full():
    demand = demand_after([10, 0], 10, window=10)
    for _ in range(200):
        demand.update(torch.tensor([0, 10]), torch.tensor([0.0, 1.0]), 10)
    np.testing.assert_allclose(demand.density, [0.0, 1.0], atol=1e-6)


def two_groups(rng):
    """Rows of directions of which half are ten times as frequent as the others."""
    directions = rng.normal(size=(32, 24))
    often = np.repeat([0.2, 0.02], 16)
    active = rng.random((4000, 32)) < often
    return (active * rng.uniform(1, 2, size=active.shape)) @ directions


def test_learned_caps_leave_a_wrong_start_behind():
    X = two_groups(np.random.default_rng(0))
    sae = FeatureChoiceSAE(
        32,
        3.5,
        caps="learned",
        mutual_fraction=0.0,  # begins with uniform caps
        batch_size=200,
        max_iter=20,
        random_state=0,
    ).fit(X)
    assert sae.caps_.max() > 4 * sae.caps_.min()
    assert sae.caps_.sum() == pytest.approx(3.5)


def test_given_caps_stay_what_they_are():
    caps = np.linspace(0.05, 0.2, 32)
    X = two_groups(np.random.default_rng(0))
    sae = FeatureChoiceSAE(32, caps.sum(), caps=caps, batch_size=200, random_state=0)
    np.testing.assert_array_equal(sae.fit(X).caps_, caps)
