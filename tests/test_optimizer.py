"""The optimizer of wide dictionaries, which remembers one number a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_device import DEVICE, OtherDevice

import skchoice
from skchoice import (
    FeatureChoiceSAE,
    MutualChoiceSAE,
    TokenChoiceSAE,
    optimizer,
)
from skchoice.optimizer import Adam, CompactAdam, new_optimizer

ESTIMATORS = [TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE]
every_estimator = pytest.mark.parametrize("Estimator", ESTIMATORS)
D = 5


@pytest.fixture
def compact(monkeypatch):
    """Have dictionaries of 48 features count as wide."""
    monkeypatch.setattr(optimizer, "COMPACT_FROM", 48)


def make(Estimator, **given):
    defaults = dict(k=4, batch_size=60, max_iter=5, random_state=0)
    return Estimator(48, **{**defaults, **given})


def arrays_of(n_features):
    generator = torch.Generator().manual_seed(0)
    shapes = (n_features, D), (n_features,), (n_features, D), (D,)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def test_the_number_of_features_decides(compact):
    assert type(new_optimizer(arrays_of(47))) is Adam
    assert type(new_optimizer(arrays_of(48))) is CompactAdam


def test_the_state_is_a_number_a_row():
    arrays = arrays_of(6)
    moments = CompactAdam(arrays).moments
    assert [[m.shape for m in each] for each in moments] == [
        [(6,)],
        [(6,), (6,)],
        [(6,)],
        [(D,), (D,)],
    ]


@pytest.mark.parametrize("unit_norm", [False, True])
def test_rows_by_number_are_those_of_a_range(unit_norm):
    ranged, numbered = CompactAdam(arrays_of(8)), CompactAdam(arrays_of(8))
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        gradient = torch.randn(3, D, generator=generator)
        gradient[step % 3] = 0.0
        for one, rows in ((ranged, slice(2, 5)), (numbered, torch.tensor([2, 3, 4]))):
            one.begin_step(0.1)
            updated = one.update(0, gradient, rows, unit_norm)
            assert torch.equal(updated, one.arrays[0][2:5])
    assert torch.equal(ranged.arrays[0], numbered.arrays[0])
    assert torch.equal(ranged.moments[0][0], numbered.moments[0][0])
    for array, before in zip(ranged.arrays, arrays_of(8), strict=True):
        assert torch.equal(array[:2], before[:2])
        assert torch.equal(array[5:], before[5:])


def test_a_row_without_a_gradient_stays_where_it_is():
    wide = CompactAdam(arrays_of(2))
    gradient = torch.ones(2, D)
    wide.begin_step(0.1)
    wide.update(0, gradient)
    before = wide.arrays[0].clone()
    gradient[0] = 0.0
    wide.begin_step(0.1)
    wide.update(0, 2.0 * gradient)
    assert torch.equal(wide.arrays[0][0], before[0])
    assert (wide.arrays[0][1] != before[1]).all()
    expected = [0.9 * 0.1, 0.9 * 0.1 + 0.1 * 4.0]
    assert wide.moments[0][0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_step_is_of_one_length_whatever_the_size_of_the_gradient(size):
    wide = CompactAdam(arrays_of(4))
    before = wide.arrays[0].clone()
    gradient = size * torch.randn(4, D, generator=torch.Generator().manual_seed(2))
    wide.begin_step(0.1)
    wide.update(0, gradient)
    moved = (wide.arrays[0] - before).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((4,), 0.1 * D**0.5), rtol=1e-3, atol=0)


@every_estimator
def test_it_learns_as_much(Estimator, X, compact, monkeypatch):
    wide = make(Estimator).fit(X)
    monkeypatch.undo()
    usual = make(Estimator).fit(X)
    assert (wide.components_ != usual.components_).any()
    assert wide.score(X) > usual.score(X) - 0.05


@every_estimator
def test_partial_fit_goes_on_from_a_file(Estimator, X, compact, tmp_path):
    sae = make(Estimator).partial_fit(X[:300])
    assert isinstance(sae._state.optimizer, CompactAdam)
    sae.save(tmp_path / "model.safetensors")
    loaded = skchoice.load(tmp_path / "model.safetensors")
    assert isinstance(loaded._state.optimizer, CompactAdam)
    for one in (sae, loaded):
        one.partial_fit(X[300:])
    np.testing.assert_array_equal(sae.components_, loaded.components_)


@every_estimator
def test_a_killed_fit_ends_with_the_same_bits(
    Estimator, X, compact, tmp_path, killed_at_step_20
):
    expected = make(Estimator).fit(X)

    sae = make(Estimator, checkpoint_dir=tmp_path, checkpoint_interval=0)
    killed_at_step_20(sae, X)
    sae.fit(X)
    np.testing.assert_array_equal(sae.components_, expected.components_)


@every_estimator
def test_on_a_device(Estimator, X, compact):
    expected = make(Estimator).fit(X)
    with OtherDevice():
        sae = make(Estimator, device=DEVICE).fit(X)
    for name in ("components_", "encoder_weights_", "thresholds_"):
        found = getattr(sae, name)
        np.testing.assert_allclose(found, getattr(expected, name), atol=1e-3)
