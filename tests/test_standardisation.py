"""The centre and the scale of rows, of any size and with outliers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skchoice.standardisation import Standardisation, standardise


def spread_rows(n_rows=400, n_columns=6, seed=0):
    rng = np.random.default_rng(seed)
    return 3.0 * rng.normal(size=(n_rows, n_columns)) + np.arange(n_columns)


def test_standardise_centres_and_scales():
    x = torch.tensor(spread_rows())
    standardisation, outlying = standardise(x)
    assert outlying == 0
    assert_allclose(standardisation.centre, x.mean(0))
    z = standardisation.apply(x)
    assert z.dtype == torch.float32
    assert_allclose(z.mean(0), 0, atol=1e-6)
    assert torch.linalg.vector_norm(z, dim=1).median() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_standardise_takes_any_float(dtype):
    x = torch.tensor(spread_rows()).to(dtype)
    standardisation, _ = standardise(x)
    assert standardisation.centre.dtype == torch.float64
    assert type(standardisation.scale) is float


@pytest.mark.parametrize("size", [50.0, 1e3, 1e6])
@pytest.mark.parametrize("share", [0.0025, 0.01, 0.05])
@pytest.mark.parametrize("one_sided", [True, False])
def test_standardise_is_robust_to_outliers(size, share, one_sided):
    x = spread_rows()
    clean, _ = standardise(torch.tensor(x))
    n_outliers = max(1, int(share * len(x)))
    if one_sided:
        x[:n_outliers] = np.abs(x[:n_outliers])
    x[:n_outliers] *= size
    standardisation, outlying = standardise(torch.tensor(x))
    assert standardisation.scale == pytest.approx(clean.scale, rel=0.05)
    assert_allclose(standardisation.centre, clean.centre, atol=0.3)
    assert 0.4 < outlying <= 1.0


@given(scale=st.floats(1e-12, 1e12), offset=st.floats(-100, 100))
def test_standardise_is_equivariant(scale, offset):
    x = torch.tensor(spread_rows(50))
    plain, _ = standardise(x)
    moved, _ = standardise(scale * (x + offset))
    assert moved.scale == pytest.approx(scale * plain.scale, rel=1e-6)
    assert_allclose(
        moved.centre, scale * (plain.centre + offset), rtol=1e-6, atol=1e-9 * scale
    )


def test_standardise_by_powers_of_two_is_exact():
    x = torch.tensor(spread_rows())
    plain, _ = standardise(x)
    scaled, _ = standardise(1024 * x)
    assert scaled.scale == 1024 * plain.scale
    assert torch.equal(scaled.centre, 1024 * plain.centre)
    assert torch.equal(scaled.apply(1024 * x), plain.apply(x))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7e5, 1e-20])
@pytest.mark.parametrize("n_rows", [1, 2, 50])
def test_standardise_constant_rows(value, n_rows):
    x = torch.full((n_rows, 3), value, dtype=torch.float64)
    standardisation, outlying = standardise(x)
    assert_allclose(standardisation.centre, x[0])
    assert outlying == 0
    assert standardisation.scale > 0
    z = standardisation.apply(x)
    assert torch.isfinite(z).all()
    assert (z.abs() < 2).all()


def test_standardise_mostly_equal_rows():
    # The median distance is zero; the scale is that of the rows which differ.
    x = torch.zeros(100, 3, dtype=torch.float64)
    x[:20] = torch.tensor(spread_rows(20, 3))
    standardisation, _ = standardise(x)
    z = standardisation.apply(x)
    assert torch.isfinite(z).all()
    assert 0.1 < torch.linalg.vector_norm(z, dim=1).max() < 100


def test_standardise_huge_offset():
    x = torch.tensor(spread_rows())
    plain, _ = standardise(x)
    moved, _ = standardise(x + 1e9)
    assert moved.scale == pytest.approx(plain.scale, rel=1e-5)
    assert_allclose(moved.apply(x + 1e9), plain.apply(x), atol=1e-5)


@pytest.mark.parametrize(
    "centre, scale, far",
    [(0, 1.9, False), (0, 2.1, True), (0, 0.4, True), (0.5, 1, False), (0.6, 1, True)],
)
def test_standardisations_far_from_each_other(centre, scale, far):
    one = Standardisation(torch.zeros(3, dtype=torch.float64), 1.0)
    other = Standardisation(torch.full((3,), float(centre)).double(), scale)
    assert one.refutes(other) is other.refutes(one) is far


@pytest.mark.parametrize(
    "n_rows, n_others, enough",
    [(2, 2, True), (2, 3, False), (999, 5000, False), (1000, 5000, True)],
)
def test_few_rows_refute_no_standardisation_of_more(n_rows, n_others, enough):
    one = Standardisation(torch.zeros(3, dtype=torch.float64), 1.0, n_rows)
    other = Standardisation(torch.zeros(3, dtype=torch.float64), 9.0, n_others)
    assert one.refutes(other) is enough
