"""All that a GPU does, on a device that stands in for it: as the CPU has it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from other_device import DEVICE, OtherDevice
from test_ops import bags, screens

import skchoice
from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, tiles, training
from skchoice.ops import eager, reference

ESTIMATORS = [TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE]
every_estimator = pytest.mark.parametrize("Estimator", ESTIMATORS)
FITTED = [
    "components_",
    "encoder_weights_",
    "encoder_bias_",
    "decoder_bias_",
    "thresholds_",
    "feature_density_",
]
quick = settings(max_examples=40, deadline=None)


def make(Estimator, device, **given_):
    defaults = dict(batch_size=64, max_iter=3, random_state=0)
    return Estimator(32, 3, device=device, **{**defaults, **given_})


def assert_same(one, other):
    for name in FITTED:
        found, expected = getattr(one, name), getattr(other, name)
        assert isinstance(found, np.ndarray)
        assert_allclose(found, expected, rtol=1e-3, atol=1e-4, err_msg=name)
    records = [
        [(one["fvu"], one["loss"], one["auxiliary_loss"]) for one in history]
        for history in (one.history_, other.history_)
    ]
    assert_allclose(*records, rtol=1e-3)


# ------------------------------------------------------------------ the device itself


def test_what_would_fail_on_a_gpu_fails_here():
    here = torch.arange(3.0)
    with OtherDevice():
        there = here.to(DEVICE)
        made = torch.zeros(2, device=DEVICE)
        assert there.device == (there + 1).device == made.device == DEVICE
        assert (there * 2).sum().item() == 6.0
        assert (there + torch.tensor(1.0)).cpu().tolist() == [1.0, 2.0, 3.0]
        with pytest.raises(RuntimeError, match="on two devices"):
            there + here
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
    with pytest.raises(RuntimeError, match="no device any more"):
        there + 1


def test_what_would_wait_for_a_gpu_is_counted():
    with OtherDevice() as device:
        there = torch.arange(4.0, device=DEVICE)
        doubled = there * 2
        assert device.launches.total() == 2 and not device.waits.total()
        doubled.sum().item()
        assert device.waits.total() == 1
        there[there > 1]
        assert device.waits.total() == 2
        (there > 1).nonzero()
        there.cpu()
        assert device.waits.total() == 4
        there.index_select(0, torch.ones(1, dtype=torch.int64, device=DEVICE))
        assert device.waits.total() == 4


# --------------------------------------------------------------------- the operations


@quick
@given(bags=bags())
def test_bag_sum(bags):
    expected = reference.bag_sum(bags.table, bags.index, bags.pointers, bags.weights)
    with OtherDevice():
        arrays = (x.to(DEVICE) for x in bags[:4])
        assert_allclose(eager.bag_sum(*arrays).cpu(), expected, atol=1e-12)


@quick
@given(bags=bags())
def test_pair_dots(bags):
    of_member = torch.repeat_interleave(bags.pointers.diff()).int()
    arguments = bags.upstream, bags.table, of_member, bags.index
    with OtherDevice():
        dots = eager.pair_dots(*(x.to(DEVICE) for x in arguments)).cpu()
    assert_allclose(dots, reference.pair_dots(*arguments), atol=1e-12)


@quick
@given(screen=screens())
def test_find_hits(screen):
    expected = reference.find_hits(*screen)
    with OtherDevice():
        found = eager.find_hits(*(x.to(DEVICE) for x in screen))
        found = [x.cpu() for x in found]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@quick
@given(index=st.lists(st.integers(0, 6), max_size=20), size=st.integers(7, 9))
def test_counts_and_sums(index, size):
    index = torch.tensor(index, dtype=torch.int32)
    values = 1.5 + torch.arange(float(len(index)))
    with OtherDevice() as device:
        there, values_there = index.to(DEVICE), values.to(DEVICE)
        counts = eager.counts(there, size)
        sums = eager.sums(there, values_there, size)
        assert not device.waits.total()
        counts, sums = counts.cpu(), sums.cpu()
    assert torch.equal(counts, eager.counts(index, size))
    assert counts.dtype == torch.int64 and sums.dtype == torch.float32
    assert counts.tolist() == [(index == i).sum() for i in range(size)]
    assert sums.tolist() == [values[index == i].sum() for i in range(size)]


# --------------------------------------------------------------------- the estimators


@every_estimator
@pytest.mark.parametrize("importance", ["relative", "absolute"])
def test_fit(Estimator, importance, X):
    expected = make(Estimator, "cpu", importance=importance).fit(X)
    with OtherDevice() as device:
        sae = make(Estimator, DEVICE, importance=importance).fit(X)
        assert device.launches.total() > 1000
        codes, rows = sae.transform(X), sae.inverse_transform(sae.transform(X))
        matches, score = sae.allocate(X), sae.score(X)
    assert_same(sae, expected)
    assert_allclose(codes.toarray(), expected.transform(X).toarray(), atol=2e-3)
    assert_allclose(rows, expected.inverse_transform(codes), rtol=1e-5, atol=1e-5)
    assert_allclose(matches.toarray(), expected.allocate(X).toarray(), atol=2e-3)
    assert score == pytest.approx(expected.score(X), rel=1e-3)


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.ShortWindowWarning")
@pytest.mark.parametrize("aux", ["k", "zipf"])
def test_auxiliary_losses(aux, X):
    # With a window this short, some features are dead, and more are underused.
    expected = make(TokenChoiceSAE, "cpu", aux=aux, dead_after=100).fit(X)
    with OtherDevice():
        sae = make(TokenChoiceSAE, DEVICE, aux=aux, dead_after=100).fit(X)
    assert_same(sae, expected)
    assert max(record["auxiliary_loss"] for record in sae.history_) > 0


@pytest.mark.parametrize("caps", ["zipf", "learned", "uniform"])
@pytest.mark.parametrize("min_cap", [0, 1])
def test_caps(caps, min_cap, X):
    given_ = dict(caps=caps, min_cap=min_cap, mutual_fraction=0.3)
    expected = make(FeatureChoiceSAE, "cpu", **given_).fit(X)
    with OtherDevice():
        sae = make(FeatureChoiceSAE, DEVICE, **given_).fit(X)
    assert_same(sae, expected)
    assert_allclose(sae.caps_, expected.caps_, rtol=1e-3)


@every_estimator
def test_many_tiles(Estimator, X, monkeypatch):
    expected = make(Estimator, "cpu").fit(X)
    monkeypatch.setattr(tiles, "DEVICE_TILE_BYTES", 4 * 64 * 9)
    monkeypatch.setattr(training, "DEVICE_TILE_BYTES", 4 * X.shape[1] * 7)
    with OtherDevice():
        sae = make(Estimator, DEVICE).fit(X)
        codes = sae.transform(X)
    assert_same(sae, expected)
    assert_allclose(codes.toarray(), expected.transform(X).toarray(), atol=2e-3)


@every_estimator
def test_rows_of_all_kinds(Estimator, X):
    # Rows of huge norm have no square, and the row at the centre has no direction.
    expected = make(Estimator, "cpu").fit(X)
    rows = np.concatenate([X, 1e25 * X[:3]])
    with OtherDevice():
        sae = make(Estimator, DEVICE).fit(X)
        codes, at_centre = sae.transform(rows), sae.transform(sae.decoder_bias_[None])
    assert at_centre.nnz == 0
    scale = np.where(np.arange(len(rows)) < len(X), 1.0, 1e-25)[:, None]
    expected_codes = expected.transform(rows).toarray()
    assert_allclose(scale * codes.toarray(), scale * expected_codes, atol=2e-3)


@every_estimator
def test_partial_fit_and_a_warm_start_on_another_device(Estimator, X):
    expected = make(Estimator, "cpu").partial_fit(X[:200]).partial_fit(X[200:])
    with OtherDevice():
        sae = make(Estimator, DEVICE).partial_fit(X[:200]).partial_fit(X[200:])
        assert_same(sae, expected)
        kept = pickle.dumps(sae)
    there_and_back = pickle.loads(kept)
    there_and_back.set_params(device="cpu").partial_fit(X)
    assert_same(there_and_back, expected.partial_fit(X))


@every_estimator
def test_a_tensor_of_the_device(Estimator, X):
    expected = make(Estimator, "cpu").fit(X)
    with OtherDevice() as device:
        rows = torch.tensor(X).to(DEVICE)
        sae = make(Estimator, "auto").fit(rows)
        assert device.launches.total() > 1000
        codes = sae.transform(rows)
    assert_same(sae, expected)
    assert_allclose(codes.toarray(), expected.transform(X).toarray(), atol=2e-3)


@every_estimator
def test_a_fit_goes_on_from_a_checkpoint(Estimator, X, tmp_path, killed_at_step_20):
    expected = make(Estimator, "cpu").fit(X)

    with OtherDevice():
        sae = make(Estimator, DEVICE, checkpoint_dir=tmp_path, checkpoint_interval=0)
        killed_at_step_20(sae, X)
        assert list(tmp_path.rglob("*.safetensors"))
        sae.fit(X)
    assert_same(sae, expected)


@every_estimator
def test_what_is_saved_opens_without_the_device(Estimator, X, tmp_path):
    with OtherDevice():
        sae = make(Estimator, DEVICE).fit(X)
        sae.save(tmp_path / "model.safetensors")
        codes = sae.transform(X)
        module = sae.to_torch(DEVICE)
        rows = torch.tensor(X).float().to(DEVICE)
        dense = module.encode(rows).detach().cpu()
    assert_allclose(dense, codes.toarray(), atol=2e-3)
    sae.set_params(device="cpu")
    loaded = skchoice.load(tmp_path / "model.safetensors")
    for one in (sae, loaded, pickle.loads(pickle.dumps(sae))):
        found = one.set_params(device="cpu").transform(X)
        assert_allclose(found.toarray(), codes.toarray(), atol=2e-3)


# ------------------------------------------------------------------- what is waited for


@pytest.mark.parametrize(
    ("Estimator", "at_most"),
    # A look at a batch waits for how many candidates there are, and who lacks some.
    [(TokenChoiceSAE, 20), (MutualChoiceSAE, 6), (FeatureChoiceSAE, 14)],
)
def test_a_step_waits_for_the_device_a_few_times(
    Estimator, at_most, mixture, monkeypatch
):
    waits, steps, first = 0, 0, 30
    with OtherDevice() as device:

        def counted(state, parts, *args):
            nonlocal waits, steps
            before = device.waits.total()
            run(state, parts, *args)
            if state.optimizer.step > first:
                waits += device.waits.total() - before
                steps += len(parts)

        run = training.train_steps
        monkeypatch.setattr(training, "train_steps", counted)
        make(Estimator, DEVICE, aux=None, max_iter=1).fit(mixture(3000))
    assert steps >= 10
    assert waits / steps <= at_most
