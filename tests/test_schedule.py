"""The learning rate over a run, and what "auto" takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, load
from skchoice.optimizer import Adam
from skchoice.schedule import (
    auto_batch_size,
    auto_learning_rate,
    endless_schedule,
    linear_schedule,
)


@given(
    n_steps=st.integers(1, 300),
    peak=st.floats(1e-6, 1.0),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
)
def test_schedule_rises_stays_and_falls(n_steps, peak, warmup, decay):
    rates = np.array(
        [linear_schedule(n_steps, peak, warmup, decay)(s) for s in range(n_steps)]
    )
    assert (rates > 0).all()
    assert (rates <= peak).all()
    top = rates.argmax()
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 1e-12).all()
    flat = n_steps - np.ceil(warmup * n_steps) - np.ceil(decay * n_steps)
    assert (rates == peak).sum() >= flat


def test_schedule_by_hand():
    schedule = linear_schedule(10, 1.0, 0.3, 0.2)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 2 / 3, 1 / 3]
    assert_allclose([schedule(step) for step in range(10)], expected)
    constant = linear_schedule(4, 0.1, 0.0, 0.0)
    assert [constant(step) for step in range(4)] == [0.1] * 4
    assert linear_schedule(1, 0.1, 0.05, 0.2)(0) > 0.01


def test_endless_schedule_by_hand():
    # After 600 rows the average of 8 features has had 300 of their 4 matches each.
    schedule = endless_schedule(2.0, 0, 100, 8, 4)
    assert_allclose([schedule(0), schedule(6), schedule(48)], [2, 2**0.5, 2 / 3])
    later = endless_schedule(2.0, 600, 50, 8, 4)
    assert_allclose([later(step) for step in (0, 2)], [schedule(6), schedule(7)])


@pytest.mark.parametrize("choice", [TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE])
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_partial_fit_counts_all_rows_seen(choice, tmp_path):
    X = np.random.default_rng(0).normal(size=(400, 16))
    sae = choice(24, 4, batch_size=40, learning_rate=0.01, random_state=0)
    sae.fit(X[:200], y=None)
    n_before = sae.history_[-1]["n_tokens"]
    for part in (X[:200], X[200:]):
        sae.save(tmp_path / "sae.safetensors")
        sae = load(tmp_path / "sae.safetensors").partial_fit(part)
    # The first call starts with a fresh count of rows, and no row counts twice.
    last = sae.history_[-1]
    assert last["n_tokens"] == 400
    schedule = endless_schedule(0.01, max(n_before, 200), 40, 24, 4)
    assert_allclose(last["learning_rate"], schedule(4))


# ----------------------------------------------------------------------------- "auto"


def test_batch_size_by_hand():
    assert auto_batch_size(90_000, 2048, 32) == 150
    assert auto_batch_size(90_000, 8192, 32) == 256  # a match for the average feature
    assert auto_batch_size(14_370, 512, 8) == 64
    assert auto_batch_size(14_370, 513, 8) == 65
    assert auto_batch_size(1, 8, 8) == 1


@given(st.integers(1, 10**10), st.integers(1, 10**7), st.floats(0.01, 1000))
def test_batches_grow_more_slowly_than_the_run(n_rows, n_features, k):
    size = auto_batch_size(n_rows, n_features, k)
    assert size * k >= n_features * (1 - 1e-12)
    assert size <= auto_batch_size(4 * n_rows, n_features, k) <= 2 * size
    assert math.isclose(
        auto_batch_size(n_rows, 1, 1e9), math.sqrt(n_rows) / 2, abs_tol=1
    )


@pytest.mark.parametrize("n_columns", [4, 64, 576])
def test_a_step_turns_a_unit_row_by_the_same_angle(n_columns):
    rng = np.random.default_rng(0)

    row = torch.nn.functional.normalize(
        torch.from_numpy(rng.normal(size=n_columns)), dim=0
    )
    before = row.clone()
    optimizer = Adam((row,))
    optimizer.begin_step(auto_learning_rate(n_columns, 0.25))
    gradient = torch.from_numpy(rng.choice([-1.0, 1.0], n_columns))
    optimizer.update(0, gradient)
    assert_allclose((row - before).norm(), 0.125, rtol=1e-6)


def test_larger_batches_have_larger_steps_up_to_a_point():
    rates = [auto_learning_rate(64, rows) for rows in (0.025, 0.1, 0.4, 1.6)]
    assert_allclose(np.divide(rates, rates[1]), [0.5, 1.0, 2.0, 2.0])


@pytest.mark.parametrize("choice", [TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE])
def test_auto_is_what_it_says(choice):
    X = np.random.default_rng(0).normal(size=(900, 16))
    given = dict(n_features=64, k=4, max_iter=4, n_calibration=0, random_state=0)
    auto = choice(**given).fit(X)
    assert auto.history_[-1]["step"] == 120  # batches of sqrt(3600) / 2 rows
    rates = [record["learning_rate"] for record in auto.history_]
    rate = 0.25 * math.sqrt(0.4) / 4  # 30 rows for 64 features are more than 0.4 each
    assert max(rates) == pytest.approx(rate)
    by_hand = choice(**given, batch_size=30, learning_rate=rate).fit(X)
    assert_allclose(auto.components_, by_hand.components_)


def test_auto_takes_no_more_than_there_is():
    X = np.random.default_rng(0).normal(size=(20, 16))
    with pytest.warns(UserWarning, match="20 rows"):
        sae = MutualChoiceSAE(n_features=256, k=2, max_iter=3, random_state=0).fit(X)
    assert sae.history_[-1]["step"] == 3


def test_partial_fit_counts_the_rows_of_the_call():
    X = np.random.default_rng(0).normal(size=(1600, 16))
    sae = MutualChoiceSAE(n_features=64, k=4, random_state=0).partial_fit(X)
    assert sae.history_[-1]["step"] == 80
    assert sae.partial_fit(X[:400]).history_[-1]["step"] == 80 + 25
