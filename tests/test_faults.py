"""What goes wrong around a fit leaves the estimator as it was before."""

import numpy as np
import pytest
import torch
from test_checkpoints import files

from skchoice import inputs, training
from skchoice.ops import eager

pytestmark = pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "score"])
def test_a_mapped_file_that_shrinks(
    make, X, tmp_path, monkeypatch, streamed, method, published, assert_same_fit
):
    if streamed:
        monkeypatch.setattr(inputs, "_STREAM_BYTES", 0)
    path = tmp_path / "X.npy"
    np.save(path, np.tile(X, (30, 1)))
    mapped = np.load(path, mmap_mode="r")
    sae = make(max_iter=1).fit(X)
    before = published(sae)
    original, calls = inputs.Rows.read, []

    def read(self, part):
        calls.append(part)
        if len(calls) == 2:
            with open(path, "rb+") as file:
                file.truncate(100_000)
        return original(self, part)

    monkeypatch.setattr(inputs.Rows, "read", read)
    with pytest.raises(ValueError, match=r"X\.npy.*now has 100000.*cut"):
        getattr(sae, method)(mapped)
    assert_same_fit(sae, before)


def test_a_mapped_file_that_is_removed_is_still_there(make, X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    (tmp_path / "X.npy").unlink()
    assert make(max_iter=1).fit(mapped[100:]).n_features_in_ == 12


OPERATIONS = [
    (eager, "bag_sum"),
    (eager, "pair_dots"),
    (torch, "mm"),
    (torch, "cat"),
    (training, "reconstruction_loss"),
    (np, "zeros"),
]


@pytest.mark.parametrize("module, name", OPERATIONS, ids=[n for _, n in OPERATIONS])
@pytest.mark.parametrize("at", [1, 3, 17])
def test_out_of_memory(
    make, X, tmp_path, monkeypatch, module, name, at, published, assert_same_fit
):
    """Memory runs out at some call; once there is more, the fit goes on."""
    sae = make(checkpoint_dir=tmp_path, checkpoint_interval=0)
    original, calls = getattr(module, name), []

    def allocate(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise MemoryError("Unable to allocate")
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, allocate)
        try:
            sae.fit(X)
        except MemoryError:
            assert published(sae) == {}
            assert vars(sae) == sae.get_params()
        else:
            assert len(calls) < at
    assert_same_fit(sae.fit(X), make().fit(X))
    assert files(tmp_path) == []
