"""Whatever holds the rows, the same rows give the same model and the same codes."""

from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skchoice import inputs
from skchoice.inputs import Rows

CPU = torch.device("cpu")


def rows_of(X):
    return Rows(X, SimpleNamespace(), CPU)


def halves(X):
    """Values that float16 holds exactly."""
    return np.asarray(X).astype(np.float16)


def backwards(X):
    return X[::-1].copy()[::-1]


def every_other(X):
    return np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2]


def read_only(X):
    X = X.copy()
    X.setflags(write=False)
    return X


def frame(X):
    return pytest.importorskip("pandas").DataFrame(X)


def frame_by_column(X):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({f"dim {i}": X[:, i] for i in range(X.shape[1])})


class ArrayLike:
    """Has nothing but the array protocol."""

    def __init__(self, X):
        self._X = X

    def __array__(self, dtype=None, copy=None):
        return np.array(self._X, dtype=dtype)


def single(function):
    return lambda X: function(X.astype(np.float32))


def double(function):
    return lambda X: function(X.astype(np.float64))


# Of each dtype of codes, containers that are read alike; X comes as float16.
IN_MEMORY = {
    np.float32: {
        "float32": single(np.asarray),
        "float16": np.asarray,
        "float16, big-endian": lambda X: X.astype(">f2"),
        "float32, big-endian": lambda X: X.astype(">f4"),
        "Fortran order": single(np.asfortranarray),
        "negative stride": single(backwards),
        "strides": single(every_other),
        "read-only": single(read_only),
        "frame": single(frame),
        "frame by column": single(frame_by_column),
        "tensor": single(torch.tensor),
        "float16 tensor": torch.tensor,
        "tensor with gradient": single(lambda X: torch.tensor(X, requires_grad=True)),
        "transposed tensor": single(lambda X: torch.tensor(X.T.copy()).T),
    },
    np.float64: {
        "float64": double(np.asarray),
        "float64, big-endian": double(lambda X: X.astype(">f8")),
        "Fortran order": double(np.asfortranarray),
        "negative stride": double(backwards),
        "read-only": double(read_only),
        "frame": double(frame),
        "frame by column": double(frame_by_column),
        "list": double(np.ndarray.tolist),
        "list of arrays": double(list),
        "object": lambda X: X.astype(object),
        "longdouble": lambda X: X.astype(np.longdouble),
        "tensor": double(torch.tensor),
        "array protocol": double(ArrayLike),
    },
}


@pytest.mark.parametrize(
    "shape, axis", [((1, 12), 0), ((4097, 12), 0), ((9, 1), 1), ((1, 1), 0)]
)
def test_backwards_where_an_axis_or_a_chunk_of_it_has_length_one(shape, axis):
    # numpy counts these as contiguous whatever their strides, and torch does not.
    X = np.flip(np.random.default_rng(0).normal(size=shape), axis)
    assert_array_equal(torch.cat(list(rows_of(X).chunks())), X)


@pytest.mark.parametrize(
    "dtype, name", [(dtype, name) for dtype in IN_MEMORY for name in IN_MEMORY[dtype]]
)
def test_containers_in_memory(make, X, dtype, name, assert_same_fit):
    X = halves(X)
    plain, given = X.astype(dtype), IN_MEMORY[dtype][name](X)
    reference, estimator = make(max_iter=1).fit(plain), make(max_iter=1).fit(given)
    assert_same_fit(estimator, reference, ignore=["feature_names_in_"])
    expected, codes = reference.transform(plain), estimator.transform(given)
    assert type(codes) is type(expected)
    assert codes.dtype == expected.dtype == dtype
    assert_array_equal(codes.toarray(), expected.toarray())
    assert estimator.score(given) == reference.score(plain)
    back = estimator.inverse_transform(codes)
    assert type(back) is np.ndarray
    assert back.dtype == dtype


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, bool, "pandas"]
)
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_integers_are_numbers(make, dtype, assert_same_fit):
    X = np.random.default_rng(0).integers(0, 2, size=(400, 9))
    given = frame(X).astype("Int64") if dtype == "pandas" else X.astype(dtype)
    reference = make(n_features=12).fit(X.astype(np.float64))
    estimator = make(n_features=12).fit(given)
    assert_same_fit(estimator, reference)
    assert_array_equal(
        estimator.transform(given).toarray(), reference.transform(X * 1.0).toarray()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_tensors_of_other_dtypes(make, dtype, assert_same_fit):
    X = torch.tensor(np.random.default_rng(0).integers(0, 2, size=(400, 9)))
    estimator = make(n_features=12).fit(X.to(dtype))
    assert_same_fit(estimator, make(n_features=12).fit(X.float()))
    assert estimator.transform(X.to(dtype)).dtype == np.float32


def test_containers_may_change_between_fit_and_transform(make, X, X_new, Lazy):
    estimator = make().fit(frame(X))
    X_new = X_new.astype(np.float32)
    codes = estimator.transform(X_new)
    for contain in (torch.tensor, Lazy, np.asfortranarray):
        assert_array_equal(
            estimator.transform(contain(X_new)).toarray(), codes.toarray()
        )


def test_names_of_columns(make, X):
    named = frame_by_column(X)
    estimator = make().fit(named)
    assert list(estimator.feature_names_in_) == list(named.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.transform(named[named.columns[::-1]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        estimator.transform(X)
    # A stream has no names, like an array.
    assert not hasattr(make().fit(X), "feature_names_in_")


# ------------------------------------------------------------------------------ streams


def streams(X, folder, Lazy):
    """Yield (name, container) of the same rows outside the memory."""
    shape, dtype = X.shape, X.dtype
    path = folder / f"{dtype}.dat"
    X.tofile(path)
    yield "memmap", np.memmap(path, dtype=dtype, mode="r", shape=shape)
    yield "copy-on-write", np.memmap(path, dtype=dtype, mode="c", shape=shape)
    yield "writable view", np.memmap(path, dtype=dtype, mode="r+", shape=shape)[:]
    np.save(folder / f"{dtype}.npy", X)
    yield "npy", np.load(folder / f"{dtype}.npy", mmap_mode="r")
    np.save(folder / f"{dtype}F.npy", np.asfortranarray(X))
    yield "Fortran order", np.load(folder / f"{dtype}F.npy", mmap_mode="r")
    yield "lazy", Lazy(X)
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / f"{dtype}.h5", "w") as file:
        yield "h5py", file.create_dataset("X", data=X, chunks=(100, X.shape[1]))
        foreign = dtype.newbyteorder(">")
        yield "h5py, big-endian", file.create_dataset("B", data=X, dtype=foreign)


@pytest.fixture
def any_mapped_file_is_large(monkeypatch):
    monkeypatch.setattr(inputs, "_STREAM_BYTES", 0)


@pytest.mark.usefixtures("any_mapped_file_is_large")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_streams(make, mixture, dtype, tmp_path, Lazy, assert_same_fit):
    # Three blocks, the last one short.
    X = halves(mixture(1300)).astype(dtype)
    in_memory = make(max_iter=1).fit(X)
    reference = make(max_iter=1).fit(Lazy(X))
    for name, stream in streams(X, tmp_path, Lazy):
        # A stream is shuffled otherwise than an array, but every stream alike.
        assert_same_fit(make(max_iter=1).fit(stream), reference)
        # Codes and score do not depend on how the rows are read.
        codes, expected = in_memory.transform(stream), in_memory.transform(X)
        assert codes.dtype == expected.dtype, name
        assert_array_equal(codes.toarray(), expected.toarray(), err_msg=name)
        assert in_memory.score(stream) == in_memory.score(X), name
        allocated = in_memory.allocate(stream)
        assert_array_equal(
            allocated.toarray(), in_memory.allocate(X).toarray(), err_msg=name
        )
        if hasattr(stream, "flags"):
            assert_array_equal(stream, X)


def test_streams_are_learned_as_well_as_arrays(make, mixture, Lazy):
    X = mixture(1200)
    scores = [make(max_iter=10).fit(kind(X)).score(X) for kind in (np.asarray, Lazy)]
    assert scores[1] == pytest.approx(scores[0], abs=0.03)


def test_a_small_mapped_file_is_learned_as_the_array(
    make, X, tmp_path, assert_same_fit
):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_same_fit(make().fit(mapped), make().fit(X))


def test_rows_indexed_out_of_a_memmap_are_in_memory(make, X, tmp_path, assert_same_fit):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    picked = np.arange(0, 600, 2)
    assert_same_fit(make().fit(mapped[picked]), make().fit(X[picked]))


@pytest.mark.usefixtures("any_mapped_file_is_large")
@pytest.mark.parametrize("dtype", ["i1", "i2", ">f4", ">f2"])
def test_mapped_arrays_of_any_dtype_are_streamed(X, tmp_path, dtype):
    # Quantised activations, and those of other machines: never copied whole.
    np.save(tmp_path / "X.npy", (X * 10).astype(dtype))
    rows = rows_of(np.load(tmp_path / "X.npy", mmap_mode="r"))
    assert rows.streamed
    assert rows.dtype == torch.float32


def test_a_stream_is_never_read_whole(make, mixture, Lazy):
    X = mixture(9000).astype(np.float16)
    for call in ("fit", "partial_fit", "transform", "score", "allocate"):
        stream = Lazy(X)
        estimator = make(max_iter=1)
        if call not in ("fit", "partial_fit"):
            estimator.fit(X[:500])
        getattr(estimator, call)(stream)
        assert sum(stream.reads) >= len(X) * 0.9
        assert max(stream.reads) <= 4096, call


def test_a_wide_stream_is_read_in_fewer_rows(make, Lazy, monkeypatch):
    monkeypatch.setattr(inputs, "_CHUNK_ENTRIES", 50 * 100)
    X = np.random.default_rng(0).normal(size=(700, 50))
    stream = Lazy(X)
    estimator = make().fit(X)
    codes = estimator.transform(stream)
    assert max(stream.reads) == 100
    monkeypatch.undo()
    np.testing.assert_allclose(
        codes.toarray(), estimator.transform(X).toarray(), rtol=1e-6, atol=1e-12
    )


def test_each_pass_reads_each_block_once(make, mixture, Lazy):
    stream = Lazy(mixture(5120))  # ten blocks
    make(max_iter=3, n_calibration=0).fit(stream)
    # Once for the scale, three times to train, and then to calibrate.
    assert sum(stream.reads[:40]) == 4 * 5120
    assert set(stream.reads[:40]) == {512}


def test_what_fails_while_reading_is_passed_on(make, X, Lazy):
    with pytest.raises(OSError, match="the disk is gone"):
        make().fit(Lazy(X, fail_at_read=1))


@pytest.mark.parametrize("n_calibration", [1, 100, 400])
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_rows_to_calibrate_on_are_found_in_any_stream(make, X, Lazy, n_calibration):
    # All rows are in one or two blocks; that is no reason to refuse what an array may.
    for n_rows in (500, 600):
        make(n_calibration=n_calibration).fit(X[:n_rows])
        make(n_calibration=n_calibration).fit(Lazy(X[:n_rows]))


def test_rows_that_were_set_aside_are_not_trained_on(make, X, monkeypatch):
    read = []

    class Noting(Rows):
        def read(self, part):
            if isinstance(part, np.ndarray):
                read.append(part)
            return super().read(part)

    monkeypatch.setattr("skchoice.fitted.Rows", Noting)
    # Enough to tell the features apart: with fewer, rows trained on are read again.
    make(n_features=16, n_calibration=150, max_iter=3).fit(X)
    # First the sample for the scale, then the batches, then the rows set aside.
    n_steps = 14  # three passes over 450 rows
    assert_array_equal(read[0], np.arange(600))
    trained = np.concatenate(read[1 : 1 + n_steps])
    held = np.unique(np.concatenate(read[1 + n_steps :]))
    assert len(held) == 150
    assert set(trained) | set(held) == set(range(600))
    assert not set(trained) & set(held)
    counts = np.bincount(trained, minlength=600)
    assert counts[np.unique(trained)].min() >= 3


# -------------------------------------------------------------------------------- Rows


@given(
    n_rows=st.integers(1, 70),
    block=st.integers(1, 30),
    streamed=st.booleans(),
    data=st.data(),
)
def test_units_make_up_the_rows(Lazy, n_rows, block, streamed, data):
    X = np.arange(2.0 * n_rows, dtype=np.float32).reshape(n_rows, 2)
    with (
        patch.object(inputs, "_BLOCK_ROWS", block),
        patch.object(inputs, "_MIN_BLOCKS", 1),
    ):
        rows = rows_of(Lazy(X) if streamed else X)
        assert rows.shape == X.shape
        units = rows.units()
        assert_array_equal(rows.gather(units), X)
        assert rows.count(units) == n_rows
        some = np.array(
            data.draw(st.lists(st.sampled_from(list(units)), min_size=1)), dtype=int
        )
        gathered = rows.gather(some)
        assert len(gathered) == rows.count(some)
        height = block if streamed else 1
        expected = [X[unit : unit + height] for unit in some]
        assert_array_equal(gathered, np.concatenate(expected))


@given(
    n_rows=st.integers(1, 50),
    chunk_rows=st.integers(1, 60),
    chunk_entries=st.integers(1, 200),
    start=st.integers(0, 60),
)
def test_chunks_make_up_the_rows(n_rows, chunk_rows, chunk_entries, start):
    X = np.arange(3.0 * n_rows).reshape(n_rows, 3)
    with (
        patch.object(inputs, "_CHUNK_ROWS", chunk_rows),
        patch.object(inputs, "_CHUNK_ENTRIES", chunk_entries),
    ):
        chunks = list(rows_of(X).chunks(start))
        assert all(len(chunk) <= chunk_rows for chunk in chunks)
        assert all(len(chunk) <= max(1, chunk_entries // 3) for chunk in chunks)
        seen = np.concatenate([np.empty((0, 3)), *chunks])
        assert_array_equal(seen, X[start:])


def test_reading_does_not_alias_what_is_read_only():
    X = read_only(np.ones((3, 2), dtype=np.float32))
    rows_of(X).read(slice(0, 3))[:] = 7
    assert (X == 1).all()


def test_values_are_read_as_they_are():
    X = np.array([[1e-40, -0.0], [3.4e38, 3.4e38]], dtype=np.float32)
    # The sum overflows, the values do not.
    assert_array_equal(rows_of(X).read(slice(0, 2)), X)
