"""Thresholds: what they give on the sample, and what they give on new rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from invariants import MatrixAffinities

from skchoice.calibration import calibrate_features, calibrate_mutual
from skchoice.profiles import uniform_density, zipf_density

# Affinities whose chance to pass a threshold is known: what a threshold gives on new
# rows is then a number, not another sample.
TAILS = {
    "exponential": lambda t: np.exp(-t),
    "uniform": lambda t: 1 - np.minimum(t, 1),
    "pareto": lambda t: np.minimum(1, 1 / np.maximum(t, 1e-300) ** 3),
}
QUANTILES = {
    "exponential": lambda p: -np.log(p),
    "uniform": lambda p: 1 - p,
    "pareto": lambda p: p ** (-1 / 3),
}
every_tail = pytest.mark.parametrize("tail", TAILS)


def columns(n_rows, supply, tail="exponential", seed=0, dtype=torch.float64):
    """Independent rows; feature j is positive on a share of supply[j]."""
    rng = np.random.default_rng(seed)
    values = QUANTILES[tail](rng.uniform(size=(n_rows, len(supply))))
    positive = rng.uniform(size=values.shape) < supply
    return torch.from_numpy(np.where(positive, values, -values)).to(dtype)


def features(matrix, density, start=0.0, seed=0):
    return calibrate_features(
        MatrixAffinities(matrix, 512, 100_000),
        density,
        torch.full((len(density),), start, dtype=matrix.dtype),
        np.random.default_rng(seed).permutation(len(density)),
    )


def mutual(matrix, k, start=0.0):
    level = torch.full((1,), start, dtype=matrix.dtype)
    return calibrate_mutual(MatrixAffinities(matrix, 512, 100_000), k, level)


def assert_calibration(calibration, matrix):
    """Thresholds that transform can use, and densities that they give."""
    thresholds = calibration.thresholds
    assert thresholds.shape == (matrix.shape[1],) and thresholds.dtype == matrix.dtype
    assert thresholds.isfinite().all() and (thresholds >= 0).all()
    passing = (matrix > thresholds).double().mean(0)
    np.testing.assert_allclose(calibration.density, passing.numpy())
    assert 0.0 <= calibration.unfilled <= 1.0


# ----------------------------------------------------------------------- on the sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 8, 17.3])
def test_mutual_calibration_gives_k_on_the_sample(k, dtype):
    matrix = columns(701, np.full(60, 0.6), dtype=dtype)
    calibration = mutual(matrix, k)
    assert_calibration(calibration, matrix)
    assert calibration.density.sum() == pytest.approx(k, rel=0.005)
    assert len(calibration.thresholds.unique()) == 1
    assert calibration.thresholds[0] > 0
    assert calibration.unfilled == 0
    np.testing.assert_array_equal(calibration.target, calibration.density)


def test_mutual_calibration_with_too_few_positives_lets_all_of_them_pass():
    matrix = columns(400, np.full(50, 0.1))
    calibration = mutual(matrix, k=20)
    assert_calibration(calibration, matrix)
    positives = (matrix > 0).double().mean(0).sum().item()
    assert (calibration.thresholds == 0).all()
    assert calibration.density.sum() == pytest.approx(positives)
    assert calibration.unfilled == pytest.approx(1 - positives / 20)


@pytest.mark.parametrize("k", [50, 80])
def test_mutual_calibration_can_ask_for_everything(k):
    matrix = columns(30, np.ones(50))
    calibration = mutual(matrix, k)
    assert_calibration(calibration, matrix)
    assert (calibration.density == 1).all()


def test_mutual_calibration_for_less_than_one_match():
    # A budget that rounds to nothing: no row of the sample passes.
    matrix = columns(40, np.ones(10))
    calibration = mutual(matrix, k=0.01)
    assert_calibration(calibration, matrix)
    assert calibration.density.sum() == 0
    assert calibration.unfilled == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "density",
    [uniform_density(120, 6), zipf_density(120, 6, 1.0), zipf_density(120, 6, 3.0)],
    ids=["uniform", "zipf", "steep"],
)
def test_each_feature_gets_its_density_on_the_sample(density, dtype):
    matrix = columns(997, np.ones(120), dtype=dtype)
    for seed in range(20):
        calibration = features(matrix, density, seed=seed)
        assert_calibration(calibration, matrix)
        assert calibration.density.sum() == pytest.approx(6, rel=0.005)
        matches, expected = calibration.density * 997, density * 997
        assert np.abs(matches - expected).max() < 1 + 1e-9
        np.testing.assert_allclose(calibration.target, density)
        assert calibration.unfilled == 0


def test_ties_at_the_gate_are_left_out_and_not_let_in():
    matrix = torch.tensor([[3.0], [2.0], [2.0], [2.0], [1.0], [1.0], [-1.0]])
    calibration = features(matrix, np.array([0.4]))
    assert_calibration(calibration, matrix)
    assert calibration.density.item() == pytest.approx(1 / 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gate_tells_numbers_apart_that_are_next_to_each_other(dtype):
    steps = torch.arange(20, dtype=dtype) * torch.finfo(dtype).eps
    matrix = (1.0 + steps)[:, None]
    calibration = features(matrix, np.array([0.4]))
    assert_calibration(calibration, matrix)
    assert calibration.density.item() == pytest.approx(0.4, abs=1 / 20)


@pytest.mark.parametrize("start", [0.0, 0.5, 3.0, 1e6])
def test_where_the_search_starts_does_not_matter(start):
    matrix = columns(300, np.linspace(0.02, 0.9, 40))
    density = zipf_density(40, 5)
    for calibrate, ask in ((mutual, 5), (features, density)):
        warm, cold = calibrate(matrix, ask, start), calibrate(matrix, ask)
        assert torch.equal(warm.thresholds, cold.thresholds)
        np.testing.assert_array_equal(warm.density, cold.density)
        assert warm.unfilled == cold.unfilled


# -------------------------------------------------------------------- too few positives


def test_the_budget_of_exhausted_features_goes_to_the_others():
    # The first ten have positives on 2% of the rows and are asked for 10%.
    supply = np.where(np.arange(80) < 10, 0.02, 0.7)
    matrix = columns(1500, supply)
    density = np.where(np.arange(80) < 40, 0.1, 0.05)
    k = density.sum()
    calibration = features(matrix, density)
    assert_calibration(calibration, matrix)
    # Every positive of an exhausted feature passes ...
    positives = (matrix > 0).double().mean(0).numpy()
    np.testing.assert_allclose(calibration.density[:10], positives[:10])
    least = matrix.where(matrix > 0, torch.inf).amin(0)
    assert (calibration.thresholds[:10] < least[:10]).all()
    # ... and what it could not fill is shared in proportion by those who can.
    assert calibration.target.sum() == pytest.approx(k)
    assert calibration.density.sum() == pytest.approx(k, rel=0.005)
    gain = calibration.target[10:] / density[10:]
    np.testing.assert_allclose(gain, gain[0])
    assert gain[0] == pytest.approx((k - positives[:10].sum()) / (k - 1.0), rel=1e-3)
    assert np.abs(calibration.density - calibration.target).max() * 1500 < 2
    assert calibration.unfilled < 1e-3


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("shape", ["linear", "geometric"])
def test_features_that_run_dry_one_after_the_other(shape, share):
    # Whoever is given more by those that ran dry may run dry in turn.
    space = {"linear": np.linspace, "geometric": np.geomspace}[shape]
    matrix = columns(1000, space(0.01, 0.5, 100))
    supply = (matrix > 0).double().mean(0).numpy()
    k = share * supply.sum()
    calibration = features(matrix, uniform_density(100, k))
    assert_calibration(calibration, matrix)
    assert calibration.target.sum() == pytest.approx(k)
    assert calibration.density.sum() == pytest.approx(k, rel=0.005)
    assert np.abs(calibration.density - calibration.target).max() * 1000 < 2


def test_a_budget_beyond_all_positives_lets_all_of_them_pass():
    matrix = columns(1000, np.full(100, 0.1))
    positives = (matrix > 0).double().mean(0).numpy()
    calibration = features(matrix, uniform_density(100, 20))
    assert_calibration(calibration, matrix)
    np.testing.assert_allclose(calibration.density, positives)
    assert calibration.unfilled == pytest.approx(1 - positives.sum() / 20, abs=1e-3)


def test_features_that_are_silent_on_the_sample():
    supply = np.where(np.arange(30) < 5, 0.0, 0.8)
    matrix = columns(500, supply)
    calibration = features(matrix, uniform_density(30, 3))
    assert_calibration(calibration, matrix)
    assert (calibration.density[:5] == 0).all()
    # They may yet have a positive: it is to pass.
    assert (calibration.thresholds[:5] == 0).all()
    assert calibration.density.sum() == pytest.approx(3, rel=0.005)


@pytest.mark.parametrize("n_rows", [1, 2, 3])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-30, 1.0, 1e30])
def test_tiny_samples(n_rows, value):
    matrix = torch.full((n_rows, 4), value)
    matrix[0, 0] = 2 * abs(value)
    for density in ([0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 0.0, 0.0], [1e-9, 0.5, 1.0, 0.5]):
        assert_calibration(features(matrix, np.array(density)), matrix)
    for k in (1, 2, 4):
        assert_calibration(mutual(matrix, k), matrix)


# ------------------------------------------------------------------ one factor for all


def scaled(calibration, matrix):
    over = matrix / calibration.thresholds.clamp(min=1e-9)
    return calibration.scaled_to(MatrixAffinities(over, 512, 100_000))


@pytest.mark.parametrize("loudness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("density", [uniform_density(80, 6), zipf_density(80, 6, 1.0)])
def test_few_other_rows_tell_one_factor(loudness, density):
    # So few that a feature has three matches in them on average.
    others = loudness * columns(40, np.ones(80), seed=1)
    found = features(columns(900, np.ones(80)), density)
    moved = scaled(found, others)
    factor = moved.thresholds / found.thresholds
    assert factor.max() == pytest.approx(factor.min())
    passing = (others > moved.thresholds).sum()
    assert passing == pytest.approx(6 * len(others), abs=1)
    assert factor[0] == pytest.approx(loudness, rel=0.15)
    np.testing.assert_array_equal(moved.density, found.density)
    np.testing.assert_array_equal(moved.target, found.target)


def test_under_one_factor_features_that_are_open_stay_open():
    found = features(columns(900, np.ones(60)), uniform_density(60, 6))
    found.thresholds[:6] = 0.0
    others = 2.0 * columns(200, np.full(60, 0.3), seed=1)
    moved = scaled(found, others)
    assert (moved.thresholds[:6] == 0).all() and (moved.thresholds[6:] > 0).all()
    # What they take of the budget, the others do not get.
    assert (others > moved.thresholds).sum() == pytest.approx(6 * len(others), abs=1)


def test_one_factor_where_all_features_are_open_or_must_be():
    matrix = columns(900, np.full(60, 0.05))
    found = features(matrix, uniform_density(60, 6))
    assert (found.thresholds == 0).all() and found.unfilled > 0.4
    assert (scaled(found, 2.0 * matrix).thresholds == 0).all()
    found = features(columns(900, np.ones(60)), uniform_density(60, 6))
    assert (scaled(found, matrix).thresholds == 0).all()


# ------------------------------------------------------------------------- on new rows


def steady(matrix, thresholds, tail):
    """Chance of each feature to fire on a new row, the luck of the sample taken off.

    The r-th largest of n is passed with chance r / (n + 1) on average. What it is
    passed with in this sample, more or less, is luck, and known.
    """
    thresholds = thresholds.double().numpy()
    falling = matrix.double().sort(dim=0, descending=True).values.numpy()
    rank = np.maximum(1, (matrix.double().numpy() > thresholds).sum(0))
    at_rank = TAILS[tail](falling[rank - 1, np.arange(len(rank))])
    luck = at_rank - rank / (len(matrix) + 1)
    return TAILS[tail](thresholds) - luck


@every_tail
def test_mutual_calibration_gives_k_on_new_rows(tail):
    n_rows, n_features, k = 300, 150, 8
    loudness = np.geomspace(0.5, 2.0, n_features)
    given_ = []
    for seed in range(40):
        matrix = columns(n_rows, np.ones(n_features), tail, seed)
        threshold = mutual(matrix * torch.from_numpy(loudness), k).thresholds[0].item()
        given_.append(TAILS[tail](threshold / loudness).sum())
    error = np.std(given_) / np.sqrt(len(given_))
    assert error < 0.01 * k
    assert np.mean(given_) == pytest.approx(k, abs=4 * error)


@every_tail
@pytest.mark.parametrize("expected", [1.0, 1.5, 4.0, 30.0])
def test_features_fire_on_new_rows_as_often_as_they_should(tail, expected):
    n_rows, n_features = 150, 6_000
    density = np.full(n_features, expected / (n_rows + 1))
    matrix = columns(n_rows, np.ones(n_features), tail)
    thresholds = features(matrix, density).thresholds
    chance = steady(matrix, thresholds, tail).mean()
    assert chance == pytest.approx(density[0], rel=0.01)
    given_ = TAILS[tail](thresholds.numpy())
    error = given_.std() / np.sqrt(n_features)
    assert given_.mean() == pytest.approx(density[0], rel=0.01, abs=4 * error)


@pytest.mark.parametrize("exponent", [0.7, 1.0])
def test_l0_on_new_rows_is_k_with_many_more_features_than_matches(exponent):
    # Most features are expected a handful of times in the sample.
    n_rows, n_features, k = 800, 4000, 24
    density = zipf_density(n_features, k, exponent)
    assert 1 < np.median(density) * n_rows < 10
    matrix = columns(n_rows, np.ones(n_features), dtype=torch.float32)
    thresholds = features(matrix, density).thresholds
    l0 = steady(matrix, thresholds, "exponential").sum()
    assert l0 == pytest.approx(k, rel=0.005)


@pytest.mark.parametrize("expected", [0.05, 0.3, 0.7])
def test_features_rarer_than_the_sample_still_fire(expected):
    n_rows, n_features = 150, 12_000
    density = np.full(n_features, expected / (n_rows + 1))
    matrix = columns(n_rows, np.ones(n_features))
    calibration = features(matrix, density)
    assert_calibration(calibration, matrix)
    given_ = TAILS["exponential"](calibration.thresholds.numpy())
    assert (given_ > 0).all()
    assert given_.mean() == pytest.approx(density[0], rel=0.25)
