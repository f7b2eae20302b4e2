"""Densities, silence and the mask of underused features against naive recomputation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skchoice.firing import UNDERUSED_FRACTION, FiringTracker
from skchoice.profiles import zipf_density

quick = settings(max_examples=60, deadline=None)
CPU = torch.device("cpu")

batches = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(0, 3), min_size=4, max_size=4)),
    max_size=12,
)


def tracked(batches, window, n_features=4, k=2.0):
    tracker = FiringTracker(n_features, k, window, CPU)
    for n_tokens, counts in batches:
        tracker.update(torch.as_tensor(counts), n_tokens)
    return tracker


# ------------------------------------------------------------------ densities, silence


@quick
@given(batches=batches, window=st.integers(1, 30))
def test_densities_are_exponentially_weighted_means(batches, window):
    tracker = tracked(batches, window)
    matches, tokens, weight = np.zeros(4), 0.0, 1.0
    for n_tokens, counts in reversed(batches):
        matches += weight * np.array(counts)
        tokens += weight * n_tokens
        weight *= max(0.0, 1 - n_tokens / window)
    expected = matches / tokens if batches else np.zeros(4)
    np.testing.assert_allclose(tracker.density().numpy(), expected, rtol=1e-12)
    assert tracker.density().dtype == torch.float64


@quick
@given(batches=batches, window=st.integers(1, 30))
def test_silence_and_death(batches, window):
    tracker = tracked(batches, window)
    silence = np.zeros(4, dtype=int)
    for n_tokens, counts in batches:
        silence = np.where(np.array(counts) > 0, 0, silence + n_tokens)
    assert tracker.silence.tolist() == silence.tolist()
    assert tracker.dead().tolist() == (silence >= window).tolist()
    n_tokens = sum(n for n, _ in batches)
    assert tracker.n_tokens == n_tokens
    assert tracker.ready == (n_tokens >= window)


def test_a_batch_longer_than_the_window_is_all_that_counts():
    tracker = tracked([(100, [100, 0, 50, 0]), (200, [0, 20, 10, 0])], window=150)
    assert tracker.density().tolist() == [0, 0.1, 0.05, 0]
    assert tracker.dead().tolist() == [True, False, False, True]


def test_a_feature_dies_at_the_end_of_the_window_and_comes_back_at_once():
    tracker = FiringTracker(2, 1.0, window=30, device=CPU)
    for step in range(3):
        assert not tracker.dead().any(), step
        tracker.update(torch.tensor([10, 0]), 10)
    assert tracker.dead().tolist() == [False, True]
    tracker.update(torch.tensor([0, 1]), 10)
    assert not tracker.dead().any()


def test_densities_follow_a_change_within_a_few_windows():
    tracker = FiringTracker(1, 1.0, window=1000, device=CPU)
    for _ in range(50):
        tracker.update(torch.tensor([90]), 100)
    assert tracker.density().item() == pytest.approx(0.9)
    for _ in range(30):
        tracker.update(torch.tensor([10]), 100)
    assert tracker.density().item() == pytest.approx(0.1, abs=0.05)


def test_nothing_is_dead_or_underused_before_the_first_token():
    tracker = FiringTracker(5, 2.0, window=10, device=CPU)
    assert tracker.density().tolist() == [0.0] * 5
    assert not tracker.dead().any() and not tracker.underused().any()
    assert not tracker.ready


def test_moving_keeps_all_that_was_seen():
    batches = [(10, [3, 0, 1, 0]), (7, [0, 1, 0, 0])]
    moved, stayed = tracked(batches, 20).to(CPU), tracked(batches, 20)
    for _ in range(2):
        assert torch.equal(moved.density(), stayed.density())
        assert torch.equal(moved.dead(), stayed.dead())
        assert (moved.n_tokens, moved.k, moved.window) == (stayed.n_tokens, 2.0, 20)
        moved.update(torch.tensor([0, 0, 0, 9]), 9)
        stayed.update(torch.tensor([0, 0, 0, 9]), 9)


# --------------------------------------------------------------------------- underused


def poisson_tracker(density, window, n_tokens, seed=0, batch=2000):
    rng = np.random.default_rng(seed)
    tracker = FiringTracker(len(density), float(density.sum()), window, CPU)
    for _ in range(n_tokens // batch):
        counts = rng.binomial(batch, density)
        tracker.update(torch.from_numpy(counts), batch)
    return tracker


def zipf_with_weak_features(n_features, k, n_weak, factor, seed=0):
    """Zipf densities in random order, some of them multiplied by a factor."""
    rng = np.random.default_rng(seed)
    density = rng.permutation(zipf_density(n_features, k, 0.9, 5.0))
    weak = np.zeros(n_features, dtype=bool)
    weak[rng.choice(n_features, n_weak, replace=False)] = True
    floor = np.where(weak, factor * density.min(), density)
    return floor, weak


@pytest.mark.parametrize("n_weak", [0, 5, 60])
@pytest.mark.parametrize("factor", [0.0, 0.02])
def test_underused_finds_the_planted_and_spares_the_healthy(n_weak, factor):
    density, weak = zipf_with_weak_features(600, 10, n_weak, factor)
    tracker = poisson_tracker(density, window=60_000, n_tokens=160_000)
    assert tracker.ready
    assert tracker.underused().tolist() == weak.tolist()


def test_before_a_window_has_been_seen_the_prior_judges():
    # A tenth of the window: what Zipf's law with exponent 1 expects at each rank.
    density, weak = zipf_with_weak_features(300, 10, 10, 0.0)
    tracker = poisson_tracker(density, window=400_000, n_tokens=40_000)
    assert not tracker.ready and not tracker.dead().any()
    assert tracker.underused().tolist() == weak.tolist()


@quick
@given(
    counts=st.lists(st.integers(0, 50), min_size=2, max_size=12),
    window=st.sampled_from([50, 10_000]),
)
def test_underused_by_its_definition(counts, window):
    n_tokens, n_features = 100, len(counts)
    counts = [*counts, 50]  # somebody fires
    tracker = tracked([(n_tokens, counts)], window, n_features + 1, k=2.0)
    density = np.array(counts) / n_tokens
    if tracker.ready:
        target = tracker.zipf_fit().predict(np.arange(1, n_features + 2))
    else:
        target = zipf_density(n_features + 1, 2.0)
    rank = {j: r for r, j in enumerate(np.argsort(-density, kind="stable"))}
    for feature, used in enumerate((~tracker.underused()).tolist()):
        wanted = UNDERUSED_FRACTION * target[rank[feature]]
        weak = density[feature] < wanted and wanted * n_tokens >= 1
        dead = density[feature] == 0 and n_tokens >= window
        assert used == (not (weak or dead))


def test_silence_says_nothing_before_a_feature_could_be_expected_to_fire():
    density = zipf_density(500, 5)
    tracker = FiringTracker(500, 5.0, window=1_000_000, device=CPU)
    tracker.update(torch.from_numpy(np.rint(density * 200)).long(), 200)
    assert (tracker.density() == 0).sum() > 100
    assert not tracker.underused().any()


def test_the_dead_are_underused():
    density, weak = zipf_with_weak_features(100, 4, 7, 0.0)
    tracker = poisson_tracker(density, window=20_000, n_tokens=60_000)
    assert tracker.dead().tolist() == weak.tolist()
    assert (tracker.underused() | ~tracker.dead()).all()


def test_a_window_in_which_nothing_fired_leaves_everybody_underused():
    # All affinities negative, as with too large a learning rate: no law can be fitted,
    # and every feature is dead.
    tracker = tracked([(10, [0, 0, 0, 0])] * 5, window=40)
    assert tracker.dead().all()
    assert tracker.underused().all()


def test_fewer_features_than_matches_per_token():
    tracker = tracked([(10, [10, 10, 9, 10])], window=1000, k=9.0)
    assert not tracker.underused().any()


def test_the_fit_is_to_the_densities_of_the_window():
    ranks = np.arange(1, 801)
    density = 0.8 * (ranks + 10.0) ** -0.7
    tracker = FiringTracker(800, float(density.sum()), 10_000, CPU)
    tracker.update(torch.from_numpy(density * 1e6), 1_000_000)
    fit = tracker.zipf_fit()
    assert fit.exponent == pytest.approx(0.7, rel=1e-2)
    assert fit.offset == pytest.approx(10.0, rel=0.05)
