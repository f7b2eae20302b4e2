"""What the estimators compute: the promises of their docstrings, checked on data."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import load_digits

from skchoice import (
    FeatureChoiceSAE,
    MutualChoiceSAE,
    TokenChoiceSAE,
    diagnosis,
    metrics,
)
from skchoice.exceptions import (
    ConstantRowsWarning,
    DictionaryCollapseWarning,
    DivergenceError,
    DivergenceWarning,
    FewCalibrationRowsWarning,
    FewRowsWarning,
    OutlierRowsWarning,
    SAEWarning,
    ShortWindowWarning,
    UnfilledBudgetWarning,
)
from skchoice.firing import FiringTracker
from skchoice.inputs import Rows


def affinities(sae, X):
    """Affinities by the formula in the documentation, and the norms of the codes."""
    residual = X - sae.decoder_bias_
    norms = np.ones(len(X))
    if sae.importance == "relative":
        norms = np.linalg.norm(residual, axis=1)
        residual = residual / np.where(norms == 0, 1, norms)[:, None]
    values = residual @ sae.encoder_weights_.T.astype(np.float64) + sae.encoder_bias_
    values[norms == 0] = 0
    return np.maximum(values, 0), norms[:, None]


def largest(values, n):
    """Mark the n largest entries; the first of equals."""
    chosen = np.zeros(values.size, dtype=bool)
    chosen[np.argsort(-values, axis=None, kind="stable")[:n]] = True
    return chosen.reshape(values.shape) & (values > 0)


# -------------------------------------------------------------------------- transform


def test_transform_by_the_formula(fitted, X_new):
    values, norms = affinities(fitted, X_new)
    if isinstance(fitted, TokenChoiceSAE):
        matched = np.stack([largest(row, fitted.k) for row in values])
        assert (fitted.thresholds_ == 0).all()
    else:
        matched = values > fitted.thresholds_
    expected = np.where(matched, values * norms, 0)
    assert_allclose(fitted.transform(X_new).toarray(), expected, rtol=1e-9, atol=1e-9)


def test_codes_have_the_dtype_of_the_rows(fitted, X_new):
    for dtype, expected in [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
    ]:
        codes = fitted.transform(X_new.astype(dtype))
        assert codes.dtype == expected
        assert fitted.inverse_transform(codes).dtype == expected
        assert fitted.allocate(X_new.astype(dtype)).dtype == expected
    assert fitted.components_.dtype == np.float32


def test_token_choice_has_k_matches_in_each_row(mixture):
    X = mixture(500)
    sae = TokenChoiceSAE(48, 5, batch_size=100, max_iter=10, random_state=0).fit(X)
    counts = sae.transform(X).getnnz(axis=1)
    assert counts.max() <= 5
    assert (counts == 5).mean() > 0.99
    assert_array_equal(sae.transform(X).toarray(), sae.allocate(X).toarray())


def test_fit_transform_is_fit_then_transform(make, X):
    together = make().fit_transform(X)
    assert_array_equal(together.toarray(), make().fit(X).transform(X).toarray())


# --------------------------------------------------------------------------- allocate


rows_of_X = st.lists(st.integers(0, 89), min_size=1, max_size=60)


@given(chosen=rows_of_X)
def test_allocate_keeps_budget_and_caps(fitted, X_new, chosen):
    X_new = X_new[chosen]  # with repeated rows, so that affinities tie
    values, norms = affinities(fitted, X_new)
    codes = fitted.allocate(X_new)
    found = codes.toarray()
    positive = (values > 1e-9).sum()
    budget = round(fitted.k * len(X_new))
    assert codes.nnz <= budget
    if isinstance(fitted, TokenChoiceSAE):
        assert codes.getnnz(axis=1).max() <= fitted.k
        expected = np.stack([largest(row, fitted.k) for row in values])
    elif isinstance(fitted, MutualChoiceSAE):
        assert codes.nnz == min(budget, positive)
        expected = largest(values, budget)
    else:
        # Caps are integers within 1 of these densities, and sum to the budget.
        counts = codes.getnnz(axis=0)
        assert (counts < fitted.caps_ * len(X_new) + 1).all()
        expected = np.stack(
            [largest(column, n) for column, n in zip(values.T, counts, strict=True)], 1
        )
    # The kept ones are the largest; equal rows may stand in for each other.
    kept = found / np.where(norms == 0, 1, norms)
    assert_allclose(
        np.sort(kept[kept > 0]), np.sort(values[expected]), rtol=1e-9, atol=1e-12
    )
    assert_allclose(kept[kept > 0], values[kept > 0], rtol=1e-9, atol=1e-12)


def test_allocate_on_the_training_rows_fills_the_budget(make, X):
    estimator = make(max_iter=15).fit(X)
    codes = estimator.allocate(X)
    assert codes.nnz == round(estimator.k * len(X))
    if isinstance(estimator, FeatureChoiceSAE):
        counts = codes.getnnz(axis=0)
        assert np.abs(counts - estimator.caps_ * len(X)).max() < 1


def test_allocate_shares_a_batch_as_training_did(X, make):
    # Adaptive rules give hard rows more: counts differ from row to row.
    estimator = make(max_iter=15).fit(X)
    counts = estimator.allocate(X).getnnz(axis=1)
    if isinstance(estimator, TokenChoiceSAE):
        assert counts.std() == 0
    else:
        assert counts.std() > 0.5


def test_allocate_depends_on_the_company_only_where_matches_are_shared(fitted, X):
    alone, together = fitted.allocate(X[:7]), fitted.allocate(X)[:7]
    differ = ((alone > 0) != (together > 0)).nnz > 0
    assert differ == (not isinstance(fitted, TokenChoiceSAE))


# ------------------------------------------------------------------- scale and offset


@pytest.mark.parametrize("importance", ["relative", "absolute"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_in_other_units_give_codes_in_other_units(make, X, importance, dtype):
    X = X.astype(dtype)
    one = make(importance=importance).fit(X)
    other = make(importance=importance).fit(1024 * X)
    # A power of two changes no bit of a mantissa, so nothing may differ.
    assert_array_equal(other.components_, one.components_)
    assert_array_equal(other.encoder_weights_, one.encoder_weights_)
    assert_array_equal(other.decoder_bias_, 1024 * one.decoder_bias_)
    unit = 1 if importance == "relative" else 1024
    assert_array_equal(other.encoder_bias_, unit * one.encoder_bias_)
    assert_array_equal(other.thresholds_, unit * one.thresholds_)
    codes = one.transform(X)
    assert_array_equal(other.transform(1024 * X).toarray(), 1024 * codes.toarray())
    assert_array_equal(
        other.inverse_transform(1024 * codes), 1024 * one.inverse_transform(codes)
    )
    assert other.score(1024 * X) == one.score(X)
    assert other.history_ == one.history_


def test_another_offset_changes_little(make, X):
    one, other = make().fit(X), make().fit(X + 64)
    assert_allclose(other.decoder_bias_, one.decoder_bias_ + 64, rtol=1e-4)
    assert_allclose(other.components_, one.components_, atol=1e-4)
    assert other.score(X + 64) == pytest.approx(one.score(X), abs=1e-4)


def test_an_offset_a_hundred_times_the_spread_costs_nothing(Estimator):
    X = load_digits().data
    errors = []
    for offset in (0.0, 1000.0):
        sae = Estimator(128, 8, max_iter=5, random_state=0).fit(X + offset)
        x_hat = sae.inverse_transform(sae.transform(X + offset)) - offset
        errors.append(metrics.fvu(X, x_hat))
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


@pytest.mark.parametrize("scale", [0.001, 0.5, 3.0, 1e4])
def test_relative_codes_scale_with_the_centred_rows(make, X, X_new, scale):
    sae = make(importance="relative", max_iter=10).fit(X)
    b = sae.decoder_bias_
    assert_allclose(
        sae.transform(scale * (X_new - b) + b).toarray(),
        scale * sae.transform(X_new).toarray(),
        rtol=1e-6,
        atol=1e-9 * scale,
    )


def test_a_row_at_the_decoder_bias_has_no_relative_codes(make, X):
    sae = make(importance="relative").fit(X)
    codes = sae.transform(np.stack([sae.decoder_bias_, X[0]]))
    assert codes[:1].nnz == 0
    assert codes[1:].nnz > 0


# ------------------------------------------------------------- reconstruction, score


def test_inverse_transform_of_a_tensor(fitted, X_new):
    codes = fitted.transform(X_new).toarray()
    tensor = torch.tensor(codes, requires_grad=True)
    expected = fitted.inverse_transform(codes)
    assert_array_equal(fitted.inverse_transform(tensor), expected)
    halves = tensor.bfloat16()
    expected = fitted.inverse_transform(halves.detach().float().numpy())
    assert_array_equal(fitted.inverse_transform(halves), expected)


def test_inverse_transform_is_linear(fitted):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 30, 48))
    expected = one @ fitted.components_.astype(np.float64) + fitted.decoder_bias_
    assert_allclose(fitted.inverse_transform(one), expected, rtol=1e-10, atol=1e-10)
    b = fitted.inverse_transform(np.zeros((1, 48)))
    assert_array_equal(b[0], fitted.decoder_bias_)
    assert_allclose(
        fitted.inverse_transform(2 * one - 3 * other) - b,
        2 * (fitted.inverse_transform(one) - b)
        - 3 * (fitted.inverse_transform(other) - b),
        atol=1e-10,
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_score_is_one_minus_the_unexplained_fraction(fitted, X_new, dtype):
    X_new = X_new.astype(dtype)
    x_hat = fitted.inverse_transform(fitted.transform(X_new))
    error = ((X_new - x_hat.astype(np.float64)) ** 2).sum()
    variance = ((X_new - X_new.mean(axis=0, dtype=np.float64)) ** 2).sum()
    score = fitted.score(X_new)
    assert type(score) is float
    rel = 1e-10 if dtype == np.float64 else 1e-5
    assert score == pytest.approx(1 - error / variance, rel=rel)
    assert score == pytest.approx(metrics.explained_variance(X_new, x_hat), rel=rel)
    assert fitted.score(X_new, y=np.zeros(90)) == score


def test_more_matches_explain_more(Estimator, mixture):
    X, held_out = mixture(800), mixture(500, seed=1)
    scores = [
        Estimator(48, k, batch_size=100, max_iter=25, random_state=0)
        .fit(X)
        .score(held_out)
        for k in (1, 4)
    ]
    assert scores[0] < scores[1]
    assert scores[1] > 0.55


def test_it_learns_the_directions(Estimator, mixture):
    # Of the planted directions most are found, as far as k and noise allow.
    X = mixture(2000)
    sae = Estimator(
        48, 3, batch_size=100, max_iter=20, learning_rate=0.01, random_state=0
    ).fit(X)
    planted = np.random.default_rng(7).normal(size=(24, 12))
    planted /= np.linalg.norm(planted, axis=1, keepdims=True)
    cosines = (planted @ sae.components_.T).max(axis=1)
    assert np.median(cosines) > 0.9


# ------------------------------------------------------------------ fitted attributes


def test_shapes_and_dtypes(make, X):
    sae = make().fit(X)
    assert sae.components_.shape == sae.encoder_weights_.shape == (48, 12)
    for name in ("encoder_bias_", "thresholds_", "feature_density_", "dead_features_"):
        assert getattr(sae, name).shape == (48,), name
        assert isinstance(getattr(sae, name), np.ndarray), name
    for name in ("components_", "encoder_weights_", "encoder_bias_", "thresholds_"):
        assert getattr(sae, name).dtype == np.float32, name
    assert sae.decoder_bias_.shape == (12,)
    assert sae.decoder_bias_.dtype == X.dtype
    assert sae.dead_features_.dtype == bool
    assert sae.n_features_in_ == 12
    assert list(sae.get_feature_names_out()) == [
        f"{type(sae).__name__.lower()}{i}" for i in range(48)
    ]


def test_decoder_directions_have_unit_norm(fitted):
    assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1, rtol=1e-6)


def test_feature_density_is_that_of_the_calibration_rows(make, X):
    # With nothing set aside, those are the training rows.
    for importance in ("relative", "absolute"):
        sae = make(n_calibration=0, importance=importance, max_iter=10).fit(X)
        fires = sae.transform(X).getnnz(axis=0)
        assert_allclose(sae.feature_density_ * len(X), fires)
        assert sae.feature_density_.sum() == pytest.approx(4, rel=0.03)
        if isinstance(sae, FeatureChoiceSAE):
            assert np.abs(fires - sae.caps_ * len(X)).max() < 1 + 1e-9


def test_dead_features_are_those_silent_for_a_window(make, X, monkeypatch):
    counts = []
    update = FiringTracker.update

    def noting(tracker, batch, n_tokens):
        counts.append(batch.numpy().copy())
        update(tracker, batch, n_tokens)

    monkeypatch.setattr(FiringTracker, "update", noting)
    # Three batches of 100 rows make up the window; nothing revives.
    sae = make(dead_after=250, aux=None, n_features=400, learning_rate=1e-3).fit(X)
    silent = sum(counts[-3:]) == 0
    assert 0 < silent.sum() < 400
    assert_array_equal(sae.dead_features_, silent)
    assert sae.history_[-1]["n_dead"] == silent.sum()


def test_history_holds_plain_values(make, X):
    sae = make().fit(X).partial_fit(X)
    assert json.loads(json.dumps(sae.history_)) == sae.history_
    for record in sae.history_:
        assert set(record) == set(
            "step n_tokens rule loss auxiliary_loss fvu l0 unfilled n_dead "
            "n_underused learning_rate".split()
        )
        for name in ("step", "n_tokens", "n_dead", "n_underused"):
            assert type(record[name]) is int, name
        for name in ("loss", "auxiliary_loss", "fvu", "l0", "unfilled"):
            assert type(record[name]) is float, name
        assert 0 <= record["l0"] <= 4
        assert 0 <= record["unfilled"] <= 1
        assert 0 <= record["n_dead"] <= 48


def test_history_of_a_long_fit_is_short(make, X):
    sae = make(batch_size=10, max_iter=4).fit(X)
    assert 50 <= len(sae.history_) <= 120
    assert sae.history_[-1]["step"] == 240


def test_single_rows_are_learned_from(make, X, X_new):
    sae = make(batch_size=1, max_iter=1).fit(X)
    assert sae.score(X_new) > 0.5
    assert sae.history_[-1]["fvu"] > 0


def test_training_lowers_the_loss(make, X):
    losses = [record["loss"] for record in make(max_iter=20).fit(X).history_]
    assert np.mean(losses[-6:]) < 0.5 * np.mean(losses[:6])


def test_caps(mixture):
    X = mixture(3000)  # of 1000, one seed in five leaves a feature without a match

    def fitted(**settings):
        sae = FeatureChoiceSAE(
            48, 1, batch_size=100, max_iter=10, random_state=0, **settings
        ).fit(X)
        assert sae.caps_.sum() == pytest.approx(1, rel=0.01)
        return sae

    assert_allclose(fitted(caps="uniform").caps_, 1 / 48, rtol=0.05)
    sae = fitted(caps="zipf", zipf_exponent=1.0, zipf_offset=0.0)
    ranks = np.arange(1, 49)
    expected = 1 / ranks / (1 / ranks).sum()
    assert_allclose(np.sort(sae.caps_)[::-1], expected, rtol=0.05)
    assert sae.zipf_fit_.exponent != 1.0
    sae = fitted(caps="zipf")
    law = sae.zipf_fit_.predict(ranks)
    assert_allclose(np.sort(sae.caps_)[::-1], law / law.sum(), rtol=0.05)
    learned = fitted(caps="learned").caps_
    assert learned.min() >= 0.049 / 48
    assert learned.max() > 2 / 48
    given = np.repeat([0.03, 0.02, 0.0125], 16)
    assert_allclose(fitted(caps=given).caps_, given, rtol=0.05)


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_caps_sum_to_k_under_mutual_choice_too(mixture):
    # Four rows 150 times each: a threshold has all of a kind, or none.
    X = np.repeat(mixture(4), 150, axis=0)
    settings = {"mutual_fraction": 1, "n_calibration": 0, "random_state": 0}
    tied = FeatureChoiceSAE(48, 7.6, **settings).fit(X)
    assert tied.feature_density_.sum() == pytest.approx(7.5)
    assert tied.caps_.sum() == pytest.approx(7.6)
    # Of three rows, four and a half matches are four.
    X = mixture(600)
    few = FeatureChoiceSAE(48, 1.5, n_calibration=3, random_state=0).partial_fit(X)
    assert few.feature_density_.sum() == pytest.approx(4 / 3)
    assert few.caps_.sum() == pytest.approx(1.5)


def test_caps_are_met_at_inference(mixture):
    sae = FeatureChoiceSAE(
        48, 4, batch_size=200, max_iter=20, random_state=0, n_calibration=1000
    ).fit(mixture(4000))
    density = (sae.transform(mixture(4000, seed=1)) > 0).mean(axis=0).A1
    deviation = np.sqrt(sae.caps_ / 1000 + sae.caps_ / 4000)
    assert (np.abs(density - sae.caps_) < 4.5 * deviation + 0.002).all()


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_a_feature_whose_cap_is_zero_never_fires(mixture):
    caps = np.repeat([0.1, 0.0], [40, 8])
    sae = FeatureChoiceSAE(
        48, 4, caps=caps, mutual_fraction=0, batch_size=100, max_iter=6, random_state=0
    ).fit(mixture(200))
    assert (sae.caps_[40:] == 0).all()
    # Rows of all kinds, some further out than any that was calibrated on.
    new = 3 * np.random.default_rng(1).normal(size=(5000, 12))
    assert sae.allocate(new)[:, 40:].nnz == 0
    assert sae.transform(new)[:, 40:].nnz == 0


def caps_drawn(sae, X):
    """Fit, and return the caps of each allocation under Feature Choice."""
    drawn = []
    rule = sae._rule

    def noting(*args):
        found = rule(*args)
        if type(found).__name__ == "FeatureChoice":
            drawn.append(found.feature_caps.numpy())
        return found

    sae._rule = noting
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAEWarning)
        sae.fit(X)
    return drawn


@pytest.mark.parametrize("n_rows", [150, 600])
def test_min_cap_gives_each_feature_a_match_in_each_batch(mixture, n_rows):
    sae = FeatureChoiceSAE(
        100, 4, min_cap=1, zipf_exponent=3.0, zipf_offset=0.0, max_iter=20,
        batch_size=4096, n_calibration=0, random_state=0,
    )  # fmt: skip
    drawn = caps_drawn(sae, mixture(n_rows))
    # Eight matches for the average feature take 200 rows.
    n_together = 2 if n_rows == 150 else 1
    assert len(drawn) == 10 / n_together
    assert min(caps.min() for caps in drawn) >= 1
    assert all(caps.sum() == 4 * n_rows * n_together for caps in drawn)


@pytest.mark.parametrize("n_rows", [1900, 1960])
def test_allocations_are_of_equal_shares(mixture, n_rows):
    sae = FeatureChoiceSAE(
        64, 4, min_cap=1, zipf_exponent=1.0, zipf_offset=0.0, max_iter=3,
        batch_size=16, random_state=0,
    )  # fmt: skip
    drawn = caps_drawn(sae, mixture(n_rows))
    assert min(caps.min() for caps in drawn) >= 1
    budgets = [caps.sum() for caps in drawn]
    # Of at most 128 rows, and a pass may end on a batch of fewer rows than sixteen.
    assert 4 * 80 < min(budgets) <= max(budgets) <= 4 * 128
    assert max(budgets) - min(budgets) < 4 * 32
    # What all have at least leaves the caps their profile.
    assert sae.caps_.max() > 4 * np.median(sae.caps_)


def test_min_cap_where_an_allocation_is_of_few_rows(mixture):
    # Sixteen rows have a match for each feature and no more, which is no measure.
    sae = FeatureChoiceSAE(
        64, 4, min_cap=1, zipf_exponent=1.0, zipf_offset=0.0, batch_size=16,
        random_state=0,
    )  # fmt: skip
    X = mixture(1920)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAEWarning)
        for start in range(0, len(X), 16):
            sae.partial_fit(X[start : start + 16])
    assert sae.caps_.max() > 4 * np.median(sae.caps_)


# ----------------------------------------------------------------------- held-out rows


def assert_l0_near(k, counts, n_calibration):
    """Assert that rows match k times on average, but for chance."""
    variance = counts.var() * (1 / n_calibration + 1 / len(counts))
    assert abs(counts.mean() - k) < 4 * np.sqrt(variance) + 0.005 * k


@pytest.mark.parametrize("importance", ["relative", "absolute"])
@pytest.mark.parametrize("k, n_calibration", [(3, None), (6.5, 3000)])
def test_held_out_l0_is_near_k(Estimator, mixture, importance, k, n_calibration):
    if Estimator is TokenChoiceSAE:
        k = round(k)
    # By default, of so few rows a tenth is set aside to calibrate on.
    sae = Estimator(
        64,
        k,
        batch_size=256,
        max_iter=5,
        importance=importance,
        n_calibration=n_calibration,
        random_state=0,
    ).fit(mixture(6000))
    n_calibration = n_calibration or 600
    counts = sae.transform(mixture(4000, seed=1)).getnnz(axis=1)
    assert_l0_near(k, counts, n_calibration)
    assert sae.feature_density_.sum() == pytest.approx(k, rel=0.02)
    fired = sae.feature_density_ * n_calibration
    assert_allclose(fired, fired.round(), atol=1e-6)


@pytest.mark.parametrize("importance", ["relative", "absolute"])
@pytest.mark.parametrize("n_rows, n_calibration", [(1200, None), (3000, 100)])
def test_held_out_l0_of_few_rows_is_near_k(
    Estimator, mixture, importance, n_rows, n_calibration
):
    # So few are set aside that most features have a few matches in them, or none.
    settings = {"max_iter": 20, "importance": importance, "random_state": 0}
    many = {"n_columns": 32, "n_directions": 200, "n_active": 4}
    X, X_new = mixture(n_rows, **many), mixture(4000, seed=1, **many)
    sae = Estimator(128, 3, n_calibration=n_calibration, **settings).fit(X)
    counts = sae.transform(X_new).getnnz(axis=1)
    assert_l0_near(3, counts, n_calibration or n_rows // 10)
    assert sae.feature_density_.sum() == pytest.approx(3, rel=0.02)
    if Estimator is not TokenChoiceSAE and importance == "relative":
        # Calibrated on the rows of training, features fire more often on new ones.
        trained = Estimator(128, 3, n_calibration=0, **settings).fit(X)
        assert trained.transform(X_new).getnnz() > 1.02 * counts.sum()


@pytest.mark.parametrize(
    "n_rows, n_features, k, n_held",
    [
        (255, 64, 4, 0),
        (256, 64, 4, 25),  # at most a tenth
        (4095, 64, 4, 409),
        (6000, 64, 4, 600),
        (100_000, 64, 4, 4096),
        (100_000, 1024, 4, 8192),  # 32 matches of the average feature
        (50_000, 1024, 4, 5000),
    ],
)
def test_rows_set_aside_by_default(Estimator, n_rows, n_features, k, n_held):
    sae = Estimator(n_features, k)
    rows = Rows(np.zeros((n_rows, 2), dtype=np.float32), sae, torch.device("cpu"))
    if Estimator is TokenChoiceSAE and n_rows < 4096:
        n_held = 0  # it needs no thresholds
    assert sae._n_held(rows) == n_held


def test_held_out_l0_after_partial_fit(Estimator, mixture):
    sae = Estimator(64, 4, batch_size=256, random_state=0)
    X = mixture(6000)
    for _ in range(3):
        for part in np.split(X, 6):
            sae.partial_fit(part)
    counts = sae.transform(mixture(4000, seed=1)).getnnz(axis=1)
    assert_l0_near(4, counts, 8192)


SPOILT = {
    "loud": lambda X: 1000.0 * X,
    "quiet": lambda X: 0.001 * X,
    "constant": lambda X: 0.0 * X,
    "far": lambda X: X + 50.0,
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_partial_fit_recovers_from_a_bad_first_call(make, mixture, how):
    X = mixture(6000)
    parts = np.split(X, 30)
    scores = []
    for first in (parts[0], SPOILT[how](parts[0])):
        sae = make().partial_fit(first)
        for part in parts[1:] * 2:
            sae.partial_fit(part)
        scores.append(sae.score(mixture(1000, seed=1)))
    assert scores[0] > 0.7
    assert scores[1] > scores[0] - 0.03


# --------------------------------------------------------------------------- warnings


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return {warning.category for warning in caught}


def test_healthy_data_give_no_warnings(make, X):
    assert warnings_of(lambda: make(max_iter=15).fit(X)) == set()
    assert warnings_of(lambda: make(max_iter=15).fit(X).partial_fit(X)) == set()
    assert warnings_of(lambda: make().fit(X).transform(X)) == set()


def test_few_rows_warning(make, X):
    assert FewRowsWarning in warnings_of(lambda: make().fit(X[:47]))
    assert FewRowsWarning not in warnings_of(lambda: make().fit(X[:48]))
    with pytest.warns(FewRowsWarning, match="47 rows to train on.*=48.*more rows"):
        make().fit(X[:47])
    # Rows set aside for calibration are not trained on.
    left = len(X) - 47
    with pytest.warns(FewRowsWarning, match="47 rows to train on"):
        make(n_calibration=left).fit(X)
    assert FewRowsWarning not in warnings_of(lambda: make(n_calibration=100).fit(X))


def test_warning_where_thresholds_are_of_no_match(mixture):
    # Of 100 rows with 4 matches each, 399 features expect one each, and 401 none.
    def fit(Estimator, n_features, n_rows=4200):
        sae = Estimator(n_features, 4, max_iter=1, n_calibration=100, random_state=0)
        return warnings_of(lambda: sae.fit(mixture(n_rows)))

    assert FewCalibrationRowsWarning not in fit(FeatureChoiceSAE, 399)
    assert FewCalibrationRowsWarning in fit(FeatureChoiceSAE, 401)
    assert FewCalibrationRowsWarning not in fit(MutualChoiceSAE, 401)
    # Of fewer rows, those trained on tell the features apart.
    assert FewCalibrationRowsWarning not in fit(FeatureChoiceSAE, 401, n_rows=600)


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_constant_rows_warning(make, X):
    with pytest.warns(ConstantRowsWarning, match="nothing to learn"):
        make().fit(np.ones((100, 3)))
    almost = np.ones((100, 3))
    almost[57, 1] = 1.001
    assert ConstantRowsWarning not in warnings_of(lambda: make().fit(almost))


def test_outlier_rows_warning(make, X):
    loud = X.copy()
    loud[:6] *= 100
    with pytest.warns(OutlierRowsWarning, match=r"\d+% of the variance.*clip"):
        make().fit(loud)
    varied = X * np.random.default_rng(0).lognormal(sigma=0.5, size=(600, 1))
    assert OutlierRowsWarning not in warnings_of(lambda: make().fit(varied))


def test_outliers_do_not_spoil_the_rest(make, X, X_new):
    loud = X.copy()
    loud[:6] *= 100
    clean = make(max_iter=15).fit(X).score(X_new)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAEWarning)
        assert make(max_iter=15).fit(loud).score(X_new) > clean - 0.03


def test_few_calibration_rows_warning(make, X):
    with pytest.warns(FewCalibrationRowsWarning, match="n_calibration=1 rows.*k=4"):
        make(n_calibration=1).fit(X)
    for enough in (0, 100, None):
        given = warnings_of(lambda n=enough: make(n_calibration=n).fit(X))
        assert FewCalibrationRowsWarning not in given


def test_short_window_warning(make, X):
    with pytest.warns(ShortWindowWarning, match=r"expects 20 matches.*Take 240 or"):
        make(dead_after=239).fit(X)
    assert ShortWindowWarning not in warnings_of(lambda: make(dead_after=240).fit(X))


def test_unfilled_budget_warning(make, X):
    with pytest.warns(UnfilledBudgetWarning, match=r"\d+\.\d%.*Lower k"):
        make(k=48).fit(X)
    assert UnfilledBudgetWarning not in warnings_of(lambda: make(k=2).fit(X))


@pytest.mark.parametrize("share, warns", [(0.0, False), (0.05, False), (0.5, True)])
def test_dictionary_collapse_warning(share, warns):
    decoder = np.random.default_rng(0).normal(size=(400, 20))
    n_twins = int(share * 400)
    decoder[:n_twins] = decoder[0] + 0.01 * decoder[:n_twins]
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    state = SimpleNamespace(
        parameters=SimpleNamespace(decoder=torch.tensor(decoder)),
        history=[{"unfilled": 0.0, "fvu": 0.5}],
    )
    calibration = SimpleNamespace(unfilled=0.0)
    given = warnings_of(lambda: diagnosis.check_fit(state, calibration, 4))
    assert given == ({DictionaryCollapseWarning} if warns else set())


def test_warnings_name_the_line_of_the_user(make, X):
    for call in (
        lambda: make().fit(X[:20]),
        lambda: make().partial_fit(X[:20]),
        lambda: make().fit_transform(X[:20]),
        lambda: make(k=48).fit(X),
    ):
        with pytest.warns(SAEWarning) as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}


# -------------------------------------------------------------------------- parameters


def test_auxiliary_losses(make, X):
    def fitted(**settings):
        return make(dead_after=200, n_features=300, **settings).fit(X)

    for aux in ("zipf", "k", None):
        history = fitted(aux=aux).history_
        used = any(record["auxiliary_loss"] > 0 for record in history)
        assert used == (aux is not None)
    off, none = fitted(aux="k", aux_coef=0), fitted(aux=None)
    assert_array_equal(off.components_, none.components_)


def test_auxiliary_loss_leaves_no_more_features_dead():
    X = load_digits().data

    def n_dead(aux):
        sae = MutualChoiceSAE(
            1024,
            8,
            aux=aux,
            batch_size=128,
            max_iter=10,
            random_state=0,
        ).fit(X)
        return sae.dead_features_.sum()

    without = n_dead(None)
    assert n_dead("k") <= without
    assert n_dead("zipf") <= without


def test_importance_changes_what_is_compared(mixture):
    # Loud rows take the budget under absolute importance, not under relative.
    X = mixture(1000)
    X = X - X.mean(axis=0)
    X[:500] *= 5
    shares = {}
    for importance in ("absolute", "relative"):
        sae = MutualChoiceSAE(
            48, 4, importance=importance, batch_size=100, max_iter=10, random_state=0
        ).fit(X)
        shares[importance] = sae.allocate(X)[:500].nnz / (4 * 1000)
    assert shares["absolute"] > 0.7
    assert shares["relative"] == pytest.approx(0.5, abs=0.1)


def test_batches_are_at_most_the_rows(make, X):
    sae = make(batch_size=10**6, max_iter=3).fit(X)
    assert [record["n_tokens"] for record in sae.history_] == [600, 1200, 1800]


def test_learning_rate_follows_the_schedule(make, X):
    sae = make(learning_rate=0.01, warmup_fraction=0.25, decay_fraction=0.5).fit(X)
    rates = [record["learning_rate"] for record in sae.history_]
    assert rates[0] < rates[3] < max(rates) == 0.01
    assert rates[-1] < 0.002
    endless = make(learning_rate=0.01).partial_fit(X).partial_fit(X)
    rates = [record["learning_rate"] for record in endless.history_]
    assert max(rates) == rates[0] <= 0.01 and (np.diff(rates) < 0).all()


def test_sparse_and_dense_codes_reconstruct_alike(fitted, X_new):
    codes = fitted.transform(X_new)
    assert sparse.issparse(codes)
    assert_allclose(
        fitted.inverse_transform(codes), fitted.inverse_transform(codes.toarray())
    )


@pytest.mark.parametrize("seed", range(3))
def test_divergence_is_told(mixture, seed):
    # At a rate of 1 rounding decides whether such a fit ends over the limit.
    with pytest.warns(DivergenceWarning, match="Lower learning_rate"):
        MutualChoiceSAE(48, 4, learning_rate=3.0, random_state=seed).fit(mixture(600))


@pytest.mark.parametrize(
    "fvu, warns", [(1.0, False), (1.99, False), (2.0, True), (np.nan, True)]
)
def test_divergence_is_an_error_of_twice_the_variance(fvu, warns):
    state = SimpleNamespace(
        parameters=SimpleNamespace(decoder=torch.eye(20)),
        history=[{"unfilled": 0.0, "fvu": fvu}],
    )
    calibration = SimpleNamespace(unfilled=0.0)
    given = warnings_of(lambda: diagnosis.check_fit(state, calibration, 4))
    assert given == ({DivergenceWarning} if warns else set())


@pytest.mark.parametrize("learning_rate", [1e10, 1e38])
def test_hopeless_divergence_is_an_error(
    make, X, learning_rate, published, assert_same_fit
):
    sae = make().fit(X)
    before = published(sae)
    sae.set_params(learning_rate=learning_rate)
    with pytest.raises(DivergenceError, match="Lower learning_rate"):
        sae.fit(X)
    assert_same_fit(sae, before)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_short_fit_in_one_dimension_has_not_diverged(seed):
    X = np.random.default_rng(seed).standard_normal((64, 1)) ** 3
    sae = MutualChoiceSAE(k=19, batch_size=64, max_iter=2, random_state=0)
    with pytest.warns(DivergenceWarning):
        sae.fit(X)
    assert 500 < sae.history_[-1]["fvu"] < len(sae.components_) ** 2


def test_a_feature_with_a_cap_of_zero_never_fires(mixture):
    X = mixture(2000)
    caps = np.r_[np.full(40, 0.1), np.zeros(8)]
    sae = FeatureChoiceSAE(48, 4, caps=caps, random_state=0).fit(X)
    assert (sae.caps_[40:] == 0).all()
    assert sae.transform(X)[:, 40:].nnz == 0


def test_caps_may_be_a_pandas_series(mixture):
    X, caps = mixture(500), np.full(48, 4 / 48)
    fits = [
        FeatureChoiceSAE(48, 4, caps=given_, max_iter=2, random_state=0).fit(X)
        for given_ in (caps, pd.Series(caps))
    ]
    assert_array_equal(fits[0].components_, fits[1].components_)


def test_numbers_too_small_to_square_are_refused(mixture):
    X = mixture(500).astype(np.float64)
    with pytest.raises(ValueError, match="Rescale X"):
        FeatureChoiceSAE(48, 4).fit(1e-200 * X)
