"""A fit that was stopped ends with the same bits as one that was not."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import checkpointed_fit
import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV

from skchoice import (
    FeatureChoiceSAE,
    MutualChoiceSAE,
    batches,
    checkpoints,
    provenance,
    tensorfile,
)
from skchoice.checkpoints import Checkpoints
from skchoice.exceptions import CheckpointWarning, FileRefusedError
from skchoice.inputs import Rows
from skchoice.store import ActivationStore, StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")

CPU = torch.device("cpu")
N_STEPS = 24  # 600 rows, 4 passes, batches of 100


class StoppedError(Exception):
    pass


def files(folder):
    return sorted(path for path in Path(folder).rglob("step-*") if path.is_file())


def stopped(sae, X, step):
    original = Checkpoints.after_step

    def after_step(self, progress):
        original(self, progress)
        if progress.step >= step:  # batches that go together end together
            raise StoppedError

    Checkpoints.after_step = after_step
    try:
        with pytest.raises(StoppedError):
            sae.fit(X)
    finally:
        Checkpoints.after_step = original
    return sae


@pytest.fixture
def kept(make, tmp_path):
    """Return a maker of estimators that write a checkpoint after every step."""
    return lambda **settings: make(
        **({"checkpoint_dir": tmp_path, "checkpoint_interval": 0} | settings)
    )


# ---------------------------------------------------------------------- going on


@pytest.mark.parametrize("step", [1, 7, 12, 13, 24])
def test_a_stopped_fit_goes_on(kept, make, X, step, tmp_path, assert_same_fit):
    settings = {"dead_after": 150}
    stopped(kept(**settings), X, step)
    assert len(files(tmp_path)) == min(2, step)
    whole = make(**settings).fit(X)
    resumed = kept(**settings).fit(X)
    assert_same_fit(resumed, whole)
    assert (resumed.transform(X) != whole.transform(X)).nnz == 0
    assert files(tmp_path) == []


def test_it_does_go_on(kept, X, monkeypatch):
    stopped(kept(), X, 20)
    steps = []
    original = Checkpoints.after_step
    monkeypatch.setattr(
        Checkpoints,
        "after_step",
        lambda self, progress: (steps.append(progress.step), original(self, progress)),
    )
    kept().fit(X)
    assert steps == [21, 22, 23, 24]


@pytest.mark.parametrize("n_calibration", [0, 200])
def test_streamed_rows_go_on(
    kept, make, X, Lazy, monkeypatch, n_calibration, assert_same_fit
):
    monkeypatch.setattr(batches, "_BUFFER_ENTRIES", 200 * 12)
    settings = {"n_calibration": n_calibration, "batch_size": 70}
    whole = make(**settings).fit(Lazy(X))
    for step in (1, 9, 17):
        assert_same_fit(stopped(kept(**settings), Lazy(X), step).fit(Lazy(X)), whole)


def test_records_over_several_steps_go_on(kept, make, X, assert_same_fit):
    settings = {"batch_size": 10, "max_iter": 4}  # 240 steps, two in each record
    sae = stopped(kept(**settings, checkpoint_interval=0), X, 101).fit(X)
    assert_same_fit(sae, make(**settings).fit(X))


def test_stopped_again_and_again(kept, make, X, assert_same_fit):
    sae = kept()
    for step in (3, 4, 11, 24):
        stopped(sae, X, step)
    assert_same_fit(sae.fit(X), make().fit(X))


def test_a_warm_start_goes_on(kept, make, X, X_new, assert_same_fit, tmp_path):
    whole = make(warm_start=True).fit(X).fit(X)
    sae = kept(warm_start=True).fit(X)
    stopped(sae, X, 5)
    assert_same_fit(sae.fit(X), whole)
    # Another start is another fit.
    stopped(sae, X, 5)
    other = kept(warm_start=True).fit(X_new)
    twin = make(warm_start=True).fit(X_new)
    assert_same_fit(other.fit(X), twin.fit(X))
    assert len(files(tmp_path)) == 2


def test_without_random_state_the_seed_goes_on(kept, make, X, assert_same_fit):
    stopped(kept(random_state=None), X, 9)
    resumed = kept(random_state=None).fit(X)
    other = kept(random_state=None).fit(X)  # nothing is left to go on from
    assert not np.array_equal(resumed.components_, other.components_)
    assert len(resumed.history_) == N_STEPS


def test_a_failed_fit_leaves_the_estimator(kept, make, X, published, assert_same_fit):
    sae = stopped(kept(), X, 9)
    assert published(sae) == {}
    assert vars(sae) == sae.get_params()


def test_nan_in_the_stream(kept, make, X, Lazy, monkeypatch, assert_same_fit):
    monkeypatch.setattr(batches, "_BUFFER_ENTRIES", 200 * 12)
    good, bad = np.tile(X, (4, 1)), np.tile(X, (4, 1))
    sae = kept(n_calibration=0, max_iter=1)

    class Turning(Lazy):
        def __getitem__(self, part):
            rows = super().__getitem__(part)
            return bad[part] if len(self.reads) == 15 else rows

    bad[:] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        sae.fit(Turning(good))
    assert vars(sae) == sae.get_params()
    whole = make(n_calibration=0, max_iter=1).fit(Lazy(good))
    assert_same_fit(sae.fit(Lazy(good)), whole)


# ----------------------------------------------------------------- what is refused


def test_other_fits_have_other_folders(kept, make, X, tmp_path):
    stopped(kept(), X, 5)
    different = [
        (dict(max_iter=5), X),
        (dict(learning_rate=1e-4), X),
        (dict(random_state=1), X),
        (dict(), X[:599]),
        (dict(), X + 1e-9),
        (dict(), X.astype(np.float32)),
    ]
    for number, (settings, rows) in enumerate(different, start=2):
        stopped(kept(**settings), rows, 1)
        assert len({path.parent for path in files(tmp_path)}) == number
    same = [dict(verbose=1), dict(sparse_output=False), dict(checkpoint_interval=1e9)]
    for step, settings in enumerate(same, start=6):
        stopped(kept(**settings), X, step)
        assert len({path.parent for path in files(tmp_path)}) == number


KINDS = "array swapped tensor bfloat16 lazy store view unchecked".split()


@pytest.mark.parametrize("kind", KINDS)
def test_any_other_row_is_another_fit(
    X, tmp_path, monkeypatch, Lazy, kind, assert_same_fit
):
    """Also in data so large that the provenance looks at some blocks alone."""
    monkeypatch.setattr(provenance, "_HASHED_BYTES", 1)
    monkeypatch.setattr(provenance, "_BLOCK_ROWS", 50)

    def given(X, folder):
        if kind == "array":
            return X
        if kind == "swapped":
            np.save(tmp_path / f"{folder}.npy", X.astype(">f4"))
            return np.load(tmp_path / f"{folder}.npy", mmap_mode="r")
        if kind in ("tensor", "bfloat16"):
            tensor = torch.tensor(X[:, ::-1].copy()).flip(1)
            return tensor.bfloat16() if kind == "bfloat16" else tensor
        if kind == "lazy":
            return Lazy(X)
        StoreWriter(tmp_path / folder, 12, dtype="float32").append(X)
        store = ActivationStore(tmp_path / folder, check_shards=kind != "unchecked")
        return store[np.arange(600), ...] if kind == "view" else store

    folder = tmp_path / "checkpoints"

    def small(**settings):
        return MutualChoiceSAE(
            24, 4, batch_size=100, max_iter=1, random_state=0, **settings
        )

    def kept():
        return small(checkpoint_dir=folder, checkpoint_interval=0)

    X = X.astype(np.float32)
    other = X.copy()
    other[300, 3] += 1
    one, two = given(X, "one"), given(other, "two")
    described = [provenance.describe(Rows(each, None, CPU)) for each in (one, two)]
    assert described[0] == described[1]
    stopped(kept(), one, 5)
    stopped(kept(), two, 1)
    assert len({path.parent for path in files(folder)}) == 2
    resumed = kept().fit(given(X, "three"))
    assert_same_fit(resumed, small().fit(one))
    assert len({path.parent for path in files(folder)}) == 1
    # Put where the other's are found, they are refused.
    (name,) = {path.parent for path in files(folder)}
    stopped(kept(), one, 5)
    (right,) = {path.parent for path in files(folder)} - {name}
    shutil.rmtree(right)
    name.rename(right)
    with pytest.raises(FileRefusedError, match="rest_sha256 was"):
        kept().fit(one)


def test_the_order_of_the_rows_of_a_view_counts(tmp_path, X):
    StoreWriter(tmp_path, 12).append(X)
    store = ActivationStore(tmp_path)
    some = np.arange(600)
    views = [store, store[:, ...], store[:599, ...], store[::-1, ...]]
    views += [store[some, ...], store[some[::-1], ...], store[some, ...][::-1, ...]]
    digests = [view.content_digest() for view in views]
    assert len(set(digests)) >= 6 and None not in digests
    assert digests[0] == ActivationStore(tmp_path).content_digest()
    assert ActivationStore(tmp_path, check_shards=False).content_digest() is None


def test_array_parameters_tell_fits_apart(X, tmp_path):
    for slope in (0.1, 0.11):
        caps = np.linspace(slope, 1, 48)
        stopped(
            FeatureChoiceSAE(
                48,
                4,
                caps=caps * 4 / caps.sum(),
                checkpoint_dir=tmp_path,
                checkpoint_interval=0,
                random_state=0,
            ),
            X,
            1,
        )
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["written_by"].update(skchoice="0.0.1"), "'0.0.1'.*and this is"),
        (lambda d: d["identity"]["parameters"].update(k=7), "k was 7 and is 4"),
        (lambda d: d["identity"]["data"].update(n_rows=9), "n_rows was 9 and is 600"),
        (lambda d: d["identity"].update(seed=3), "seed was 3 and is"),
        (lambda d: d.update(format=99), "no checkpoint of this format"),
        (lambda d: d.update(kind="model"), "no checkpoint of this format"),
        (lambda d: d.pop("identity"), "does not say of which"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(kept, X, tmp_path, change, message):
    sae = stopped(kept(), X, 5)
    for path in files(tmp_path):
        arrays, document = tensorfile.read(path)
        change(document)
        tensorfile.write(path, arrays, document)
    with pytest.raises(FileRefusedError, match=f"{message}.*Remove"):
        sae.fit(X)
    assert vars(sae) == sae.get_params()


def test_a_spoilt_checkpoint_is_left_out(
    kept, make, X, tmp_path, assert_same_fit, recwarn
):
    sae = stopped(kept(), X, 9)
    newest = files(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match="left out"):
        sae.fit(X)
    whole = make().fit(X)
    assert_same_fit(sae, whole)
    sae = stopped(kept(), X, 9)
    for path in files(tmp_path):
        path.write_bytes(b"")
    with pytest.warns(CheckpointWarning, match="left out"):
        sae.fit(X)
    assert_same_fit(sae, whole)


def test_a_checkpoint_that_does_not_fit_together_is_left_out(
    kept, make, X, tmp_path, assert_same_fit
):
    sae = stopped(kept(), X, 9)
    for path in files(tmp_path):
        arrays, document = tensorfile.read(path)
        arrays["state.parameters.encoder"] = arrays["state.parameters.encoder"][:-1]
        tensorfile.write(path, arrays, document)
    with pytest.warns(CheckpointWarning, match="left out"):
        assert_same_fit(sae.fit(X), make().fit(X))


# --------------------------------------------------------------------- full disks


def test_a_full_disk_does_not_stop_training(
    kept, make, X, assert_same_fit, tmp_path, no_file_over
):
    told = pytest.warns(CheckpointWarning, match="training goes on.*too large")
    with no_file_over(10_000), told:
        sae = kept().fit(X)
    assert_same_fit(sae, make().fit(X))
    assert [path for path in tmp_path.rglob("*.tmp")] == []


def test_a_document_too_long_does_not_stop_training(
    kept, make, X, assert_same_fit, monkeypatch
):
    def refuse(*args):
        raise ValueError("no file is written that could not be read")

    with monkeypatch.context() as patched:
        patched.setattr(tensorfile, "_check_readable", refuse)
        with pytest.warns(CheckpointWarning, match="training goes on.*could not be"):
            sae = kept().fit(X)
    assert_same_fit(sae, make().fit(X))


def test_a_folder_that_cannot_be_made_is_told_before_work(kept, X, tmp_path):
    (tmp_path / "file").touch()
    sae = kept(checkpoint_dir=tmp_path / "file")
    with pytest.raises(ValueError, match="file' is a file: give a folder"):
        sae.fit(X)
    sae.set_params(checkpoint_dir=tmp_path / "file" / "folder")
    with pytest.raises(OSError):
        sae.fit(X)
    assert vars(sae) == sae.get_params()


def test_left_overs_are_cleared_and_other_files_stay(kept, X, tmp_path):
    sae = stopped(kept(), X, 3)
    folder = files(tmp_path)[0].parent
    (folder / ".step-000000000004.safetensors.00ff.tmp").write_bytes(b"cut")
    (folder / "notes.txt").write_text("mine")
    sae.fit(X)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


# ------------------------------------------------------------------------ Ctrl-C


@pytest.fixture
def ctrl_c():
    """Python's own handler: a process started in the background may ignore SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def interrupting(at, monkeypatch, twice=False):
    """Send this process SIGINT while it is within some step."""
    original = batches._regrouped

    def regrouped(pieces, size):
        for number, piece in enumerate(original(pieces, size), start=1):
            if number == at:
                for _ in range(1 + twice):
                    signal.raise_signal(signal.SIGINT)
            yield piece

    monkeypatch.setattr(batches, "_regrouped", regrouped)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_and_goes_on(
    kept, make, X, tmp_path, monkeypatch, published, assert_same_fit
):
    before = make(random_state=5).fit(X)
    sae = kept(checkpoint_interval="auto", random_state=5)
    vars(sae).update(vars(before) | sae.get_params())
    sae.set_params(random_state=0)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        interrupting(9, patched)
        with pytest.raises(KeyboardInterrupt):
            sae.fit(X)
    assert signal.getsignal(signal.SIGINT) is handler
    assert_same_fit(sae, before)
    (path,) = files(tmp_path)
    assert path.name == "step-000000000009.safetensors"
    assert_same_fit(sae.fit(X), make().fit(X))
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_does_not_wait(kept, X, tmp_path, monkeypatch):
    interrupting(9, monkeypatch, twice=True)
    with pytest.raises(KeyboardInterrupt):
        kept(checkpoint_interval="auto").fit(X)
    assert files(tmp_path) == []  # the state was within a step


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_after_training(kept, make, X, tmp_path, monkeypatch, assert_same_fit):
    sae = kept(checkpoint_interval="auto")

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(type(sae), "_calibrate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sae.fit(X)
    assert [path.stem[-2:] for path in files(tmp_path)] == ["24"]
    assert_same_fit(sae.fit(X), make().fit(X))


def test_a_handler_of_the_user_decides(kept, make, X, monkeypatch, assert_same_fit):
    seen = []
    previous = signal.signal(signal.SIGINT, lambda *args: seen.append(1))
    try:
        interrupting(9, monkeypatch)
        sae = kept(checkpoint_interval="auto").fit(X)
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, previous)
    monkeypatch.undo()
    assert_same_fit(sae, make().fit(X))


def test_in_another_thread(kept, make, X, assert_same_fit):
    sae = stopped(kept(), X, 5)
    thread = threading.Thread(target=sae.fit, args=(X,))
    thread.start()
    thread.join()
    assert_same_fit(sae, make().fit(X))


# ------------------------------------------------------------- intervals, processes


@pytest.mark.parametrize(
    "interval, cost, expected",
    [
        ("auto", 0.125, [6, 12, 18, 24]),
        ("auto", 1.0, [6, 16]),
        (100, 1.0, [10, 20]),
        (1e9, 1.0, []),
    ],
)
def test_intervals(kept, X, monkeypatch, interval, cost, expected):
    now, steps = [0.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    original, write = Checkpoints.after_step, tensorfile.write

    def after_step(self, progress):
        now[0] += 10
        original(self, progress)

    def slow_write(path, arrays, document):
        steps.append(document["step"])
        now[0] += cost
        write(path, arrays, document)

    monkeypatch.setattr(Checkpoints, "after_step", after_step)
    monkeypatch.setattr(tensorfile, "write", slow_write)
    kept(checkpoint_interval=interval).fit(X)
    assert steps == expected


def test_no_checkpoints_unless_asked_for(make, X, monkeypatch):
    def never(*args):
        raise AssertionError

    monkeypatch.setattr(Checkpoints, "save", never)
    monkeypatch.setattr(signal, "signal", never)
    make().fit(X)


def test_partial_fit_writes_none(kept, X, tmp_path):
    kept().partial_fit(X)
    assert list(tmp_path.iterdir()) == []


def test_two_fits_of_the_same_at_once(kept, make, X, tmp_path, assert_same_fit):
    """The second takes a folder of its own; both are there to go on from."""
    seen = []
    sae, other = kept(), kept()
    original = Checkpoints.after_step

    def after_step(self, progress):
        original(self, progress)
        if progress.step == 5 and not seen:
            seen.append(1)
            stopped(other, X, 9)
            raise StoppedError

    Checkpoints.after_step = after_step
    try:
        with pytest.raises(StoppedError):
            sae.fit(X)
    finally:
        Checkpoints.after_step = original
    folders = sorted({path.parent for path in files(tmp_path)})
    assert len(folders) == 2 and folders[1].name == folders[0].name + "-2"
    assert_same_fit(sae.fit(X), make().fit(X))


def test_grid_search_does_not_collide_with_itself(X, tmp_path):
    grid = {"k": [2, 3]}

    def best(**settings):
        sae = MutualChoiceSAE(
            24, batch_size=100, max_iter=1, random_state=0, **settings
        )
        return (
            GridSearchCV(sae, grid, cv=2, n_jobs=2, error_score="raise")
            .fit(X)
            .cv_results_
        )

    with joblib.parallel_config("threading"):
        with_files = best(checkpoint_dir=tmp_path, checkpoint_interval=0)
    np.testing.assert_array_equal(
        with_files["mean_test_score"], best()["mean_test_score"]
    )
    assert files(tmp_path) == []


# --------------------------------------------------------------------------- killed


def run(folder, model):
    process = subprocess.Popen(
        [sys.executable, Path(checkpointed_fit.__file__), folder, model],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    process.stdout.readline()  # the libraries are loaded, and the fit begins
    return process


def what_was_fitted(path):
    """Return what a model holds besides parameters: one of those is a path."""
    arrays, document = tensorfile.read(path)
    return {n: a.tobytes() for n, a in arrays.items()}, document["fitted"]


def kill_and_resume(n_kills, tmp_path, seed):
    """Kill fits at random instants, and resume each in a process of its own."""
    rng = np.random.default_rng(seed)
    start = time.monotonic()
    checkpointed_fit.fit_and_save(tmp_path / "unhurt", tmp_path / "whole")
    length = time.monotonic() - start
    expected = what_was_fitted(tmp_path / "whole")
    killed = 0
    while killed < n_kills:
        folder, model = tmp_path / f"fit-{killed}", tmp_path / f"model-{killed}"
        process = run(folder, model)
        time.sleep(rng.uniform(0, length))
        process.kill()
        if process.wait() != -signal.SIGKILL:
            continue  # it was faster
        killed += 1
        for path in files(folder):
            tensorfile.read(path)  # raises if it cannot be read
        assert run(folder, model).wait() == 0
        assert what_was_fitted(model) == expected
        assert files(folder) == []


def test_killed_at_a_random_instant(tmp_path):
    kill_and_resume(1, tmp_path, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_killed_two_hundred_times(tmp_path, seed):
    kill_and_resume(50, tmp_path, seed)
