"""A saved model is the model, to the last bit, whatever happens to it next."""

import copy
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import load_file
from sklearn.exceptions import NotFittedError

import skchoice
from skchoice import FeatureChoiceSAE, MutualChoiceSAE, provenance, saving, tensorfile
from skchoice.exceptions import FileRefusedError
from skchoice.inputs import Rows
from skchoice.metrics import zipf_fit

pytestmark = pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")

DATA = Path(__file__).parent / "data"


@pytest.fixture
def through(tmp_path):
    """Return what takes an estimator through a file."""

    def saved_and_loaded(estimator, **options):
        estimator.save(tmp_path / "model.safetensors", **options)
        return skchoice.load(tmp_path / "model.safetensors")

    return saved_and_loaded


def assert_same_codes(one, other, X):
    for call in ("transform", "allocate"):
        mine, theirs = getattr(one, call)(X), getattr(other, call)(X)
        assert mine.dtype == theirs.dtype
        for part in ("data", "indices", "indptr"):
            assert_array_equal(getattr(mine, part), getattr(theirs, part))
    assert one.score(X) == other.score(X)


# ------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("importance", ["relative", "absolute"])
def test_round_trip(
    make, X, X_new, through, dtype, importance, assert_same_fit, published
):
    sae = make(importance=importance).fit(X.astype(dtype))
    again = through(sae)
    assert type(again) is type(sae)
    assert again.get_params() == sae.get_params()
    assert set(vars(again)) == set(vars(sae)) | {"_reservoir"}
    assert_same_fit(again, sae)
    for name, value in published(sae).items():
        assert type(getattr(again, name)) is type(value), name
        if isinstance(value, np.ndarray):
            assert getattr(again, name).dtype == value.dtype
            assert getattr(again, name).flags.writeable
    for mine, theirs in zip(again.history_, sae.history_, strict=True):
        assert {key: type(value) for key, value in mine.items()} == {
            key: type(value) for key, value in theirs.items()
        }
    assert_same_codes(again, sae, X_new)
    again.set_params(k=8)  # what was fitted stays, as it does without a file
    assert_same_codes(again, sae, X_new)


@pytest.mark.parametrize(
    "before, after",
    [
        ("fit", "partial_fit"),
        ("partial_fit", "partial_fit"),
        ("fit, partial_fit", "partial_fit"),
        ("warm fit", "fit"),
    ],
)
def test_going_on_from_a_file(make, X, X_new, through, before, after, assert_same_fit):
    sae = make(warm_start="warm" in before, n_calibration=100, dead_after=150)
    for call in before.removeprefix("warm ").split(", "):
        getattr(sae, call)(X)
    again = through(sae)
    for rows in (X, X_new):
        again.set_params(n_calibration=50), sae.set_params(n_calibration=50)
        getattr(sae, after)(rows)
        getattr(again, after)(rows)
        assert_same_fit(again, sae)


def test_without_training_state_going_on_is_as_after_a_plain_fit(
    make, X, through, assert_same_fit
):
    sae = make(n_calibration=100).partial_fit(X)
    small = through(sae, training_state=False)
    for name in ("_state", "_reservoir"):
        assert getattr(small, name, None) is None
        setattr(sae, name, None)
    assert_same_fit(small.partial_fit(X), sae.partial_fit(X))


def test_rows_of_the_data_are_kept_only_if_asked(make, X, tmp_path):
    X = X + 0.123456
    sae = make(n_calibration=600).partial_fit(X)
    path = tmp_path / "model.safetensors"
    sae.save(path)
    assert X[17].tobytes() in path.read_bytes()
    sae.save(path, training_state=False)
    assert X[17].tobytes() not in path.read_bytes()


def test_parameters_of_every_kind(X, through, X_new):
    caps = np.linspace(0.02, 1, 48)
    caps *= 4 / caps.sum()
    sae = FeatureChoiceSAE(
        np.int64(48),
        np.float32(4),
        caps=caps,
        max_iter=2,
        random_state=np.random.RandomState(3),
        device=torch.device("cpu"),
        sparse_output=np.True_,
    ).fit(X)
    again = through(sae)
    assert_array_equal(again.caps, caps)
    assert again.device == torch.device("cpu")
    assert (again.n_features, again.k, again.sparse_output) == (48, 4.0, True)
    assert_same_codes(again, sae, X_new)
    draws = [each.random_state.randint(2**31, size=700) for each in (again, sae)]
    assert_array_equal(*draws)


def test_names_and_output_containers(make, X, through):
    pd = pytest.importorskip("pandas")
    names = [f"ünï {i}\n\ud800" for i in range(12)]
    frame = pd.DataFrame(X, columns=names)
    sae = make(sparse_output=False).fit(frame).set_output(transform="pandas")
    again = through(sae)
    assert list(again.feature_names_in_) == names
    pd.testing.assert_frame_equal(again.transform(frame), sae.transform(frame))
    with pytest.raises(ValueError, match="feature names"):
        again.transform(frame[names[::-1]])


def test_notes_in_the_provenance_are_kept(make, X, through):
    sae = make(warm_start=True).fit(X)
    sae.provenance_["model"] = {"name": "gpt2", "layers": [8, None]}
    again = through(sae)
    assert again.provenance_ == sae.provenance_
    assert again.fit(X).provenance_["model"] == {"name": "gpt2", "layers": [8, None]}
    assert again.provenance_["n_rows"] == 1200


@pytest.mark.parametrize("value", [np.nan, -0.0, 5e-324, np.inf, 0.1 + 0.2])
def test_numbers_of_the_history_keep_their_bits(make, X, through, value):
    sae = make(max_iter=1).fit(X)
    sae.history_[0]["loss"] = value
    sae.history_[1]["rule"] = 1
    sae.history_[2]["rule"] = 1.0
    sae.history_[3]["rule"] = True
    history = through(sae).history_
    assert np.float64(history[0]["loss"]).tobytes() == np.float64(value).tobytes()
    assert [type(record["rule"]) for record in history[1:4]] == [int, float, bool]


# ---------------------------------------------------------------------- provenance


def described(rows):
    return provenance.describe(Rows(rows, None, torch.device("cpu")))


def test_provenance_tells_data_apart(X, Lazy):
    X = X.astype(np.float32)
    changed = X.copy()
    changed[17, 3] = np.nextafter(changed[17, 3], 1)
    different = (X, changed, X[::-1], X[:599], X[:, ::-1], X.astype(float))
    assert len({described(each)["sha256"] for each in different}) == 6
    for same in (Lazy(X), torch.tensor(X), np.asfortranarray(X)):
        assert described(same) == described(X)
    half = X.astype(np.float16)
    assert described(half) == described(half.astype(np.float32))


def test_provenance_of_large_data_reads_some_blocks(X, Lazy, monkeypatch):
    monkeypatch.setattr(provenance, "_HASHED_BYTES", 4 * 512 * 12 * 8)
    rows = Lazy(np.tile(X, (20, 1)))
    before = described(rows)
    assert before["n_rows"] == 12000
    assert sum(rows.reads) <= 4 * 512
    for row in (0, 11999):  # the first block and the last are among them
        rows._array[row] += 1
        after = described(rows)
        assert after["sha256"] != before["sha256"]
        before = after


# -------------------------------------------------------------------------- the file


def test_other_programs_open_the_file(fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    arrays = load_file(path)
    for name in ("components_", "encoder_weights_", "thresholds_", "decoder_bias_"):
        assert_array_equal(arrays[name], getattr(fitted, name))
    with safe_open(path, framework="np") as file:
        document = json.loads(file.metadata()["skchoice"])
    assert document["format"] == saving.FORMAT
    assert document["estimator"] == type(fitted).__name__
    assert document["parameters"]["n_features"] == 48
    assert document["written_by"]["skchoice"] == skchoice.__version__
    assert document["fitted"]["provenance_"]["dict"]["n_rows"] == 600


def test_equal_models_are_equal_files(make, X, tmp_path):
    for name in ("a", "b"):
        make().fit(X).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_has_the_usual_permissions(fitted, tmp_path):
    before = os.umask(0o027)
    try:
        fitted.save(tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


def test_saving_and_loading_leave_the_estimator_alone(
    make, X, through, assert_same_fit
):
    sae = make(warm_start=True).fit(X)
    twin = copy.deepcopy(sae)
    again = through(sae)
    again.components_[:] = 0
    again.fit(X)
    assert_same_fit(sae, twin)
    assert_same_fit(sae.fit(X), twin.fit(X))


def test_unfitted(make, tmp_path):
    with pytest.raises(NotFittedError):
        make().save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda sae: sae.set_params(max_iter=-1), ValueError, "max_iter"),
        (lambda sae: setattr(sae, "note_", object()), TypeError, "note_ is a object"),
        (lambda sae: sae.provenance_.update({1: 2}), TypeError, "provenance_ has 1"),
        (lambda sae: sae.components_.fill(np.nan), ValueError, "components_.*finite"),
        (lambda sae: sae.thresholds_.fill(-1), ValueError, "thresholds_.*negative"),
        (lambda sae: setattr(sae, "thresholds_", np.zeros(3)), ValueError, r"\(3,\)"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    make, X, tmp_path, spoil, error, message
):
    sae = make(max_iter=1).fit(X)
    spoil(sae)
    with pytest.raises(error, match=message):
        sae.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(
    make, X, tmp_path, assert_same_fit, no_file_over
):
    path = tmp_path / "model"
    sae = make().fit(X)
    sae.save(path)
    larger = make(n_features=400, max_iter=1).fit(X)
    with no_file_over(20_000), pytest.raises(OSError, match="too large"):
        larger.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert_same_fit(skchoice.load(path), sae)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_at_any_call_leaves_the_old_file(
    make, X, tmp_path, monkeypatch, failing, assert_same_fit
):
    path = tmp_path / "model"
    sae = make(max_iter=1).fit(X)
    sae.save(path)

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail) if failing == "fsync" else patched.setattr(
            tensorfile.Path, "replace", fail
        )
        with pytest.raises(OSError, match="Input/output"):
            sae.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert_same_fit(skchoice.load(path), sae)


def test_missing_and_odd_paths(tmp_path, fitted):
    with pytest.raises(FileNotFoundError):
        skchoice.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no folder .*none: make it first"):
        fitted.save(tmp_path / "none" / "model")
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        fitted.save(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"is a folder.*skchoice\.io"):
        skchoice.load(tmp_path)
    with pytest.raises(FileRefusedError, match="regular"):
        skchoice.load("/dev/null")


# ------------------------------------------------------------------- older versions


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize(
    "path", sorted(DATA.glob("model-*.safetensors")), ids=lambda path: path.stem
)
def test_files_of_every_format_load(path):
    """The codes follow from the arrays by the formula in the documentation."""
    arrays = load_file(path)
    sae = skchoice.load(path)
    assert path.name == f"model-1-{type(sae).__name__}.safetensors"
    X = np.random.default_rng(0).normal(size=(200, 6)) * 2 + arrays["decoder_bias_"]
    rest = X - arrays["decoder_bias_"]
    norms = np.linalg.norm(rest, axis=1, keepdims=True)
    relative = sae.importance == "relative"
    affinities = rest / (norms if relative else 1.0) @ arrays["encoder_weights_"].T
    affinities += arrays["encoder_bias_"]
    codes = np.where(affinities > arrays["thresholds_"], affinities, 0)
    if path.stem.endswith("TokenChoiceSAE"):
        cut = np.sort(codes, axis=1)[:, [-2]]
        codes = np.where(codes >= cut, codes, 0)
    codes *= norms if relative else 1.0
    assert codes.any()
    np.testing.assert_allclose(sae.transform(X).toarray(), codes, rtol=1e-12)
    assert sae.get_params()["batch_size"] == 50
    assert list(sae.feature_names_in_) == list("abcdef")
    assert sae.history_[-1]["n_tokens"] == 200
    assert sae.provenance_["n_rows"] == 200
    sae.partial_fit(X)


def test_there_is_a_file_of_every_format():
    formats = {int(path.name.split("-")[1]) for path in DATA.glob("model-*")}
    assert formats == set(range(1, saving.FORMAT + 1))


@pytest.mark.parametrize("version", [0, saving.FORMAT + 1, "1", True, None, 1.0])
def test_other_formats_are_refused(fitted, tmp_path, version):
    path = tmp_path / "model"
    fitted.save(path)
    arrays, document = tensorfile.read(path)
    tensorfile.write(path, arrays, document | {"format": version})
    with pytest.raises(FileRefusedError, match="format"):
        skchoice.load(path)


def test_zipf_fit_is_read_as_what_it_was(X, through):
    sae = FeatureChoiceSAE(48, 4, batch_size=100, max_iter=4, random_state=0).fit(X)
    again = through(sae)
    assert again.zipf_fit_ == sae.zipf_fit_
    assert type(again.zipf_fit_) is type(zipf_fit(np.arange(1.0, 9)))


def test_infinite_thresholds_pass(X, through):
    sae = MutualChoiceSAE(48, 4, max_iter=1, random_state=0).fit(X)
    sae.thresholds_[3] = np.inf
    assert through(sae).thresholds_[3] == np.inf


# ------------------------------------------------- notes, and what would not be read


@pytest.mark.parametrize(
    "notes",
    [
        [{}, {}],
        [{"a": 1}, {"a": 2}],
        [{name: 1.5 for name in "abcdefgh"}] * 3,
        [{name: 1.5 for name in "abcdefgh"}, {}],
        [[], [[]], ["ü\ud800"]],
    ],
)
def test_lists_of_notes_come_back(make, X, through, notes):
    sae = make(max_iter=1).fit(X)
    sae.provenance_["notes"] = notes
    assert through(sae).provenance_["notes"] == notes


def test_notes_that_could_not_be_read_are_not_written(make, X, tmp_path):
    sae = make(max_iter=1).fit(X)
    sae.provenance_["tokens"] = list(range(20_000))
    with pytest.raises(ValueError, match=r"20,.* values.*may be numpy arrays"):
        sae.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    sae.provenance_["tokens"] = np.arange(20_000)
    sae.save(tmp_path / "model")
    again = skchoice.load(tmp_path / "model")
    assert_array_equal(again.provenance_["tokens"], np.arange(20_000))
