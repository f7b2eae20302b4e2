"""Metrics against their definitions, their invariances, and degenerate input."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from skchoice import metrics
from skchoice.metrics import (
    ZipfFit,
    dead_features,
    density,
    errors,
    explained_variance,
    fvu,
    l0,
    l0_per_token,
    nmse,
    zipf_fit,
)

CONTAINERS = {
    "dense": np.asarray,
    "list": lambda codes: codes.tolist(),
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "coo_array": sparse.coo_array,
    "tensor": lambda codes: torch.tensor(codes, requires_grad=True).bfloat16(),
}

# Few values and many zeros, so that whole columns are dead and counts repeat.
sparse_codes = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.sampled_from([0.0, 0.0, 0.0, 0.5, 2.0]),
)

matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.integers(-8, 8).map(float),
)

pairs = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
    lambda shape: st.tuples(
        *[hnp.arrays(np.float64, shape, elements=st.integers(-8, 8).map(float))] * 2
    )
)

densities = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-300, 1.0), st.integers(1, 1000).map(float)),
    min_size=1,
    max_size=60,
).filter(any)


# --------------------------------------------------------------------------- codes


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
@given(codes=sparse_codes)
def test_counts_are_those_of_the_dense_codes(container, codes):
    held = container(codes)
    np.testing.assert_array_equal(l0_per_token(held), (codes != 0).sum(axis=1))
    np.testing.assert_allclose(density(held), (codes != 0).mean(axis=0))
    np.testing.assert_array_equal(dead_features(held), (codes == 0).all(axis=0))
    assert l0(held) == pytest.approx((codes != 0).sum(axis=1).mean())


@given(codes=sparse_codes)
def test_densities_sum_to_l0_and_dead_means_density_zero(codes):
    assert density(codes).sum() == pytest.approx(l0(codes))
    np.testing.assert_array_equal(dead_features(codes), density(codes) == 0)


def test_shapes_and_types():
    codes = sparse.csr_array((3, 5), dtype=np.float32)
    assert l0_per_token(codes).shape == (3,)
    assert l0_per_token(codes).dtype == np.int64
    assert density(codes).shape == (5,)
    assert density(codes).dtype == np.float64
    assert dead_features(codes).dtype == np.bool_
    assert type(l0(codes)) is float


def test_stored_zeros_and_duplicates_count_once_and_input_is_untouched():
    # Row 0 stores a zero and column 2 in two parts; row 1 stores a pair that cancels.
    data = np.array([0.0, 1.0, 1.0, 3.0, -3.0])
    indices = np.array([0, 2, 2, 1, 1])
    codes = sparse.csr_array((data, indices, np.array([0, 3, 5])), shape=(2, 3))
    np.testing.assert_array_equal(l0_per_token(codes), [1, 0])
    np.testing.assert_array_equal(dead_features(codes), [True, True, False])
    assert codes.nnz == 5


@pytest.mark.parametrize("measure", [l0_per_token, l0, density, dead_features])
def test_codes_must_be_two_dimensional(measure):
    with pytest.raises(ValueError, match="2-D"):
        measure(np.ones(3))


@pytest.mark.parametrize("measure", [l0, density])
def test_means_over_no_tokens_are_refused(measure):
    with pytest.raises(ValueError, match="no token"):
        measure(np.ones((0, 3)))


# ----------------------------------------------------------------- reconstructions


@given(pair=pairs)
def test_fvu_is_its_formula(pair):
    X, X_hat = pair
    error, total = np.sum((X - X_hat) ** 2), np.sum((X - X.mean(axis=0)) ** 2)
    if (X == X[0]).all():
        expected = 0.0 if error == 0 else 1.0
    else:
        expected = error / total
    assert fvu(X, X_hat) == pytest.approx(expected)
    assert explained_variance(X, X_hat) == pytest.approx(1 - expected)
    assert type(fvu(X, X_hat)) is float


@given(pair=pairs, scale=st.sampled_from([-3.0, 0.25, 1e4]), shift=st.integers(-9, 9))
def test_fvu_ignores_scale_and_origin(pair, scale, shift):
    X, X_hat = pair
    moved = fvu(scale * (X + shift), scale * (X_hat + shift))
    assert moved == pytest.approx(fvu(X, X_hat))


@given(pair=pairs, scale=st.sampled_from([-3.0, 0.25, 1e4]))
def test_nmse_is_its_formula_and_ignores_scale(pair, scale):
    X, X_hat = pair
    rows = [
        np.sum((x - y) ** 2) / np.sum(x**2) if x.any() else float(y.any())
        for x, y in zip(X, X_hat, strict=True)
    ]
    assert nmse(X, X_hat) == pytest.approx(np.mean(rows))
    assert nmse(scale * X, scale * X_hat) == pytest.approx(np.mean(rows))
    assert type(nmse(X, X_hat)) is float


@given(X=matrices)
def test_exact_scores_zero_and_the_baselines_score_one(X):
    assert fvu(X, X) == 0.0
    assert nmse(X, X) == 0.0
    if X.std(axis=0).any():
        assert fvu(X, np.broadcast_to(X.mean(axis=0), X.shape)) == pytest.approx(1.0)
    if X.any(axis=1).all():
        assert nmse(X, np.zeros_like(X)) == pytest.approx(1.0)


@given(pair=pairs, chunk_elements=st.integers(1, 40))
def test_chunking_changes_nothing(pair, chunk_elements):
    expected = fvu(*pair), nmse(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors, "_CHUNK_ELEMENTS", chunk_elements)
        assert (fvu(*pair), nmse(*pair)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e20 / 3])
def test_constant_input_has_no_variance_to_the_last_bit(value):
    X = np.full((1000, 3), value)
    assert fvu(X, X) == 0.0
    assert explained_variance(X, X) == 1.0
    assert fvu(X, X + 1 + value) == 1.0
    assert explained_variance(X, X + 1 + value) == 0.0


@pytest.mark.parametrize("measure", [fvu, explained_variance, nmse])
def test_tensors_are_measured_as_arrays(measure):
    X, noise = np.random.default_rng(0).standard_normal((2, 20, 3))
    x, x_hat = torch.tensor(X), torch.tensor(X + noise, requires_grad=True)
    assert measure(x, x_hat) == measure(X, X + noise)
    halves = x.bfloat16(), x_hat.bfloat16()
    assert measure(*halves) == measure(*(h.detach().double().numpy() for h in halves))


def test_fvu_keeps_its_digits_far_from_the_origin():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 4))
    X_hat = X + 0.1 * rng.standard_normal(X.shape)
    assert fvu(X + 1e6, X_hat + 1e6) == pytest.approx(fvu(X, X_hat), rel=1e-6)


def test_float16_memmap_is_read_in_chunks_and_summed_in_float64(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    # Squares of 400 and more overflow float16.
    X = (400 * rng.standard_normal((1000, 8))).astype(np.float16)
    X_hat = (X + 40 * rng.standard_normal(X.shape)).astype(np.float16)
    np.save(tmp_path / "X.npy", X)
    X_on_disk = np.load(tmp_path / "X.npy", mmap_mode="r")

    widened = []
    widen = errors._widen
    monkeypatch.setattr(errors, "_CHUNK_ELEMENTS", 800)

    def spy(rows):
        widened.append(rows.shape)
        return widen(rows)

    monkeypatch.setattr(errors, "_widen", spy)
    wide, wide_hat = X.astype(np.float64), X_hat.astype(np.float64)
    expected = np.sum((wide - wide_hat) ** 2) / np.sum((wide - wide.mean(axis=0)) ** 2)
    assert fvu(X_on_disk, X_hat) == pytest.approx(expected, rel=1e-12)
    assert max(widened) == (100, 8)


@pytest.mark.parametrize("measure", [fvu, explained_variance, nmse])
class TestRefusals:
    def test_shapes_differ(self, measure):
        with pytest.raises(ValueError, match=r"got \(4, 3\) and \(4, 2\)"):
            measure(np.ones((4, 3)), np.ones((4, 2)))

    def test_broadcastable_is_not_good_enough(self, measure):
        with pytest.raises(ValueError, match="same shape"):
            measure(np.ones((4, 3)), np.ones((1, 3)))

    def test_not_two_dimensional(self, measure):
        with pytest.raises(ValueError, match="2-D"):
            measure(np.ones(4), np.ones(4))

    def test_no_rows(self, measure):
        with pytest.raises(ValueError, match="no rows"):
            measure(np.ones((0, 3)), np.ones((0, 3)))


# --------------------------------------------------------------- rank-density curve


@given(
    exponent=st.floats(0.3, 2.0),
    offset=st.sampled_from([0.0, 0.7, 5.0, 60.0, 300.0]),
    n_ranks=st.sampled_from([1000, 4096]),
)
def test_zipf_fit_recovers_a_planted_law(exponent, offset, n_ranks):
    ranks = np.arange(1, n_ranks + 1)
    planted = 0.8 * (ranks + offset) ** -exponent
    fit = zipf_fit(planted)
    assert fit.exponent == pytest.approx(exponent, rel=1e-2)
    assert fit.offset == pytest.approx(offset, rel=1e-2, abs=1e-2)
    assert fit.r2 == pytest.approx(1.0, abs=1e-4)
    assert fit.r2_middle == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(fit.predict(ranks), planted, rtol=1e-2)


def test_zipf_fit_sees_through_sampling_noise_and_a_broken_tail():
    rng = np.random.default_rng(0)
    planted = 0.8 * (np.arange(1, 4097) + 20.0) ** -0.9
    counts = rng.poisson(100_000 * planted)
    counts[3500:] = 1
    fit = zipf_fit(counts / 100_000)
    assert fit.exponent == pytest.approx(0.9, rel=0.02)
    assert fit.offset == pytest.approx(20.0, rel=0.1)
    assert fit.r2_middle > 0.999
    assert fit.r2 < fit.r2_middle - 0.05


@given(values=densities)
def test_zipf_fit_is_finite_falling_and_positive_on_anything(values):
    fit = zipf_fit(values)
    ranks = np.arange(1, len(values) + 1)
    predicted = fit.predict(ranks)
    assert np.isfinite([fit.exponent, fit.offset, fit.scale, fit.r2]).all()
    assert fit.exponent >= 0
    assert 0 <= fit.offset <= len(values) * (1 + 1e-9)
    assert np.isfinite(predicted).all() and (predicted >= 0).all()
    assert (np.diff(predicted) <= 1e-12 * predicted[:-1]).all()
    assert max(fit.r2, fit.r2_middle) <= 1.0


@given(values=densities, order=st.randoms(use_true_random=False))
def test_zipf_fit_ignores_order_and_zeros(values, order):
    shuffled = [*values, 0.0, 0.0]
    order.shuffle(shuffled)
    assert zipf_fit(shuffled) == zipf_fit(values)


@given(scale=st.sampled_from([1e-6, 3.0, 1e5]))
def test_only_the_scale_follows_the_unit_of_density(scale):
    counts = np.random.default_rng(0).poisson(5000 / (np.arange(1, 301) + 4.0))
    fit, scaled = zipf_fit(counts), zipf_fit(scale * counts)
    assert scaled.exponent == pytest.approx(fit.exponent, rel=1e-5)
    assert scaled.offset == pytest.approx(fit.offset, rel=1e-4)
    assert scaled.scale == pytest.approx(scale * fit.scale, rel=1e-4)
    assert scaled.r2 == pytest.approx(fit.r2)


@pytest.mark.parametrize("n_equal", [1, 2, 3, 500])
def test_equal_densities_give_a_flat_and_perfect_fit(n_equal):
    fit = zipf_fit(np.full(n_equal, 0.03))
    assert (fit.exponent, fit.offset, fit.r2, fit.r2_middle) == (0.0, 0.0, 1.0, 1.0)
    np.testing.assert_allclose(fit.predict([1, 10, 1000]), 0.03)


def test_two_densities_give_a_flat_fit_between_them():
    fit = zipf_fit([0.4, 0.0, 0.1])
    assert (fit.exponent, fit.offset) == (0.0, 0.0)
    assert 0.1 < fit.scale < 0.4
    assert fit.r2 < 1.0


def test_a_middle_too_short_to_fit_falls_back_on_all_ranks():
    values = 1.0 / np.arange(1, 9)
    assert zipf_fit(values, middle=(0.4, 0.5)) == zipf_fit(values, middle=(0.0, 1.0))


def test_the_middle_is_what_is_fitted():
    planted = 0.5 / np.arange(1, 1001)
    bent = planted.copy()
    bent[:10] = 0.9
    bent[900:] /= 100
    fit = zipf_fit(bent, middle=(0.05, 0.9))
    assert fit.exponent == pytest.approx(1.0, rel=1e-3)
    assert fit.r2_middle == pytest.approx(1.0, abs=1e-6)
    assert fit.r2 < 0.95


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 0.0], "zero everywhere"),
        ([], "zero everywhere"),
        ([0.1, -0.1], "not negative"),
        ([0.1, np.nan], "finite"),
        ([0.1, np.inf], "finite"),
        ([[0.1, 0.2]], "1-D"),
    ],
)
def test_zipf_fit_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        zipf_fit(values)


@pytest.mark.parametrize("middle", [(-0.1, 0.5), (0.5, 0.5), (0.8, 0.2), (0.1, 1.1)])
def test_zipf_fit_refuses_a_middle_out_of_order(middle):
    with pytest.raises(ValueError, match="middle"):
        zipf_fit([0.3, 0.2, 0.1], middle=middle)


def test_predict_keeps_the_shape_of_ranks_and_refuses_rank_zero():
    law = ZipfFit(exponent=1.0, offset=1.0, scale=0.5, r2=1.0, r2_middle=1.0)
    assert law.predict(np.ones((2, 3), dtype=int)).shape == (2, 3)
    assert law.predict(1) == 0.25
    with pytest.raises(ValueError, match="start at 1"):
        law.predict([0, 1])


def test_a_fit_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        zipf_fit([0.3, 0.2, 0.1]).exponent = 2.0


# ------------------------------------------------------------------------- imports


def test_metrics_need_neither_torch_nor_sklearn():
    # A stand-in for the package, whose own __init__ imports the estimators.
    folder = str(Path(metrics.__file__).parents[1])
    script = (
        "import sys, types\n"
        "package = sys.modules['skchoice'] = types.ModuleType('skchoice')\n"
        f"package.__path__ = [{folder!r}]\n"
        "import skchoice.metrics\n"
        "assert not {'torch', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
