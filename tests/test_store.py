"""A store is one array on disk, whole after a crash at any instant."""

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV, ShuffleSplit, cross_val_score

from skchoice import CodeStore, MutualChoiceSAE, files, manifest
from skchoice.exceptions import StoreError
from skchoice.lazy import LazyArray, RowView
from skchoice.store import TOKEN, ActivationStore, StoreWriter

LENGTHS = (5, 1, 9, 4, 11)
N_ROWS, N_COLUMNS = sum(LENGTHS), 3
VALUES = np.arange(N_ROWS * N_COLUMNS, dtype=np.float16).reshape(N_ROWS, N_COLUMNS)


def made_up_tokens(n_rows):
    tokens = np.zeros(n_rows, TOKEN)
    tokens["token_id"] = np.arange(n_rows) * 7
    tokens["document"] = np.arange(n_rows) // 4
    tokens["position"] = np.arange(n_rows) % 4
    return tokens


def write(folder, values, lengths, **settings):
    """Write a store whose shards have these lengths."""
    writer = StoreWriter(folder, values.shape[1], dtype=str(values.dtype), **settings)
    tokens = made_up_tokens(len(values))
    stops = np.cumsum(lengths)
    for start, stop in zip(stops - lengths, stops, strict=True):
        writer.append(values[start:stop], tokens[start:stop], {"n": int(stop)})
    return writer


def in_shards(folder, X, n_shards=5):
    """Return X as a store."""
    lengths = [len(part) for part in np.array_split(X, n_shards)]
    write(folder, X, lengths)
    return ActivationStore(folder)


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write(folder, VALUES, LENGTHS)
    return ActivationStore(folder)


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a store that a test may damage."""
    write(tmp_path / "store", VALUES, LENGTHS)
    return tmp_path / "store"


# ---------------------------------------------------------------------------- indexing


def row_indices(n_rows=N_ROWS):
    places = st.integers(-n_rows, n_rows - 1)
    shapes = hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=8)
    return st.one_of(
        places,
        st.slices(n_rows),
        st.lists(places, max_size=12),
        hnp.arrays(np.int64, shapes, elements=places),
        hnp.arrays(np.uint8, 4, elements=st.integers(0, n_rows - 1)),
        hnp.arrays(bool, n_rows),
    )


def pairs():
    """Indices of rows and columns together."""
    columns = st.integers(-N_COLUMNS, N_COLUMNS - 1)
    free = st.tuples(
        st.one_of(st.integers(-N_ROWS, N_ROWS - 1), st.slices(N_ROWS)),
        st.one_of(columns, st.slices(N_COLUMNS), st.lists(columns, max_size=4)),
    )
    rows_alone = st.tuples(row_indices(), st.one_of(columns, st.slices(N_COLUMNS)))
    together = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2).flatmap(
        lambda shapes: st.tuples(
            hnp.arrays(
                np.int64,
                shapes.input_shapes[0],
                elements=st.integers(-N_ROWS, N_ROWS - 1),
            ),
            hnp.arrays(np.int64, shapes.input_shapes[1], elements=columns),
        )
    )
    return st.one_of(free, rows_alone, together)


def keys():
    return st.one_of(
        row_indices(),
        pairs(),
        hnp.arrays(bool, (N_ROWS, N_COLUMNS)),
        st.tuples(row_indices()),
        st.tuples(st.just(...), st.integers(0, N_COLUMNS - 1)),
        st.just(()),
    )


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert_array_equal(np.asarray(found), expected)


@given(key=keys())
def test_a_store_of_five_shards_is_indexed_as_one_array(store, key):
    found = store[key]
    assert isinstance(found, (np.ndarray, np.generic))
    assert_same(found, VALUES[key])


@given(key=row_indices())
def test_tokens_are_indexed_alike(store, key):
    assert_same(store.tokens[key], made_up_tokens(N_ROWS)[key])


def one_axis(n_rows):
    """Indices that leave a lazy array lazy."""
    free = [st.slices(n_rows), hnp.arrays(bool, n_rows)]
    if n_rows:
        free.append(st.lists(st.integers(-n_rows, n_rows - 1), max_size=20))
    return st.one_of(free)


@given(data=st.data())
def test_views_of_views_are_lazy_and_indexed_as_arrays(store, data):
    lazy, expected = store, VALUES
    for _ in range(data.draw(st.integers(1, 4))):
        key = data.draw(one_axis(len(expected)))
        lazy, expected = lazy[key, ...], expected[key]
        assert isinstance(lazy, RowView)
        assert lazy.shape == expected.shape
    assert_same(lazy, expected)
    if len(expected):
        key = data.draw(row_indices(len(expected)))
        assert_same(lazy[key], expected[key])


@given(key=st.one_of(st.integers(N_ROWS), st.integers(max_value=-N_ROWS - 1)))
def test_rows_outside_are_refused(store, key):
    key = max(min(key, 2**62), -(2**62))
    for wrong in (key, [0, key], (key, ...), ([key], ...), ([0, key], 1)):
        with pytest.raises(IndexError, match="out of bounds"):
            store[wrong]


@pytest.mark.parametrize(
    "wrong",
    [
        1.5,
        [0.5],
        None,
        (0, 0, 0),
        (..., 0, ...),
        (slice(None), 3),
        (0, [5]),
        np.ones(3, bool),
        np.ones((3, 3), bool),
        ([[0, 1]], ...),
    ],
    ids=str,
)
def test_indices_that_numpy_refuses_are_refused(store, wrong):
    with pytest.raises((IndexError, TypeError)):
        store[wrong]


def test_what_an_array_has(store):
    assert store.shape == (N_ROWS, N_COLUMNS) and store.ndim == 2
    assert len(store) == N_ROWS and store.size == VALUES.size
    assert store.nbytes == VALUES.nbytes
    assert_array_equal(np.asarray(store), VALUES)
    assert np.asarray(store, dtype=np.float64).dtype == np.float64
    assert_array_equal(list(store), VALUES)
    assert_array_equal(list(store[::-1, ...]), VALUES[::-1])
    assert_array_equal(store.tokens["document"], np.arange(N_ROWS) // 4)
    assert "shape=(30, 3)" in repr(store) and "shape=(2, 3)" in repr(store[:2, ...])
    with pytest.raises(ValueError, match="copy"):
        np.asarray(store, copy=False)


def test_a_slice_inside_a_shard_is_a_view_of_the_map(store):
    part = store[6:9]
    assert np.shares_memory(part, store[7:8]) and not part.flags.writeable
    assert not np.shares_memory(store[4:7], part)  # from two shards


def test_stores_and_views_can_be_pickled(store):
    for lazy in (store, store[[3, 1], ...], store.tokens):
        again = pickle.loads(pickle.dumps(lazy))
        assert_same(again, np.asarray(lazy))


def test_more_shards_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("skchoice.sharded._OPEN_SHARDS", 2)
    store = in_shards(tmp_path, VALUES, n_shards=N_ROWS)
    assert_array_equal(np.asarray(store), VALUES)
    assert store._map.cache_info().currsize == 2


def test_a_store_without_tokens_and_one_without_rows(tmp_path):
    writer = StoreWriter(tmp_path / "plain", 3)
    writer.append(VALUES)
    assert ActivationStore(tmp_path / "plain").tokens is None
    with pytest.raises(ValueError, match="all shards of a store or none"):
        writer.append(VALUES, made_up_tokens(N_ROWS))

    StoreWriter(tmp_path / "empty", 3)
    empty = ActivationStore(tmp_path / "empty")
    assert_same(empty, VALUES[:0])
    assert_same(empty[:], VALUES[:0])
    assert not empty.complete


@pytest.mark.parametrize("n_rows", [30, 9000])
def test_outliers_are_left_out(tmp_path, n_rows):
    rows = np.full((n_rows, 3), 3e4, np.float16)  # float16 cannot hold their squares
    rows[3], rows[-2] = 1e3, 6e4
    store = in_shards(tmp_path, rows)
    kept = np.arange(n_rows) != n_rows - 2
    assert_same(store.without_outliers(ratio=1.5), rows[kept])
    assert len(store.without_outliers()) == n_rows


def test_views_know_the_tokens_of_their_rows(store, tmp_path):
    tokens, rows = store.tokens[:], np.array([9, 2, 2, 28])
    assert_array_equal(store[rows, ...].tokens[:], tokens[rows])
    assert_array_equal(store[20:3:-2, ...].tokens[1:5], tokens[20:3:-2][1:5])
    assert_array_equal(store[rows, ...][[3, 0], ...].tokens[:], tokens[rows][[3, 0]])
    StoreWriter(tmp_path, N_COLUMNS).append(VALUES)
    assert ActivationStore(tmp_path)[rows, ...].tokens is None


def test_rows_without_outliers_keep_their_tokens(tmp_path):
    values = VALUES.copy()
    values[4] = 6e4
    write(tmp_path, values, LENGTHS)
    store = ActivationStore(tmp_path)
    kept = store.without_outliers()
    assert_array_equal(kept.tokens[:], np.delete(store.tokens[:], 4))


@pytest.mark.parametrize("ratio", [0.5, -1, np.nan, "x", None, True])
def test_a_wrong_ratio_is_refused(store, ratio):
    with pytest.raises(ValueError, match="ratio must be a number of at least 1"):
        store.without_outliers(ratio)


# -------------------------------------------------------------------- in scikit-learn


class Refusing(LazyArray):
    """Rows that may not be read all at once."""

    def __init__(self, store):
        self._store, self.shape, self.dtype = store, store.shape, store.dtype

    def _read(self, places):
        assert len(places) <= 512, "read in larger pieces than blocks"
        return self._store._read(places)


def test_every_estimator_takes_a_store(make, X, X_new, tmp_path):
    X, X_new = X.astype(np.float32), X_new.astype(np.float32)
    store, new = in_shards(tmp_path / "old", X), in_shards(tmp_path / "new", X_new)
    sae = make().fit(store)
    assert sae.n_features_in_ == X.shape[1]
    assert_array_equal(sae.transform(new).toarray(), sae.transform(X_new).toarray())
    assert sae.score(new[::-1, ...]) == pytest.approx(sae.score(X_new))
    rows = np.random.default_rng(0).permutation(len(X_new))[:40]
    assert_array_equal(
        sae.transform(new[rows, ...]).toarray(), sae.transform(X_new[rows]).toarray()
    )
    sae.partial_fit(new).allocate(new[rows, ...])


def test_a_store_is_streamed_and_never_read_whole(make, mixture, tmp_path):
    X = mixture(5000).astype(np.float16)
    store = in_shards(tmp_path, X)
    rows = np.random.default_rng(0).permutation(5000)
    for lazy in (store, store[rows, ...], store[::2, ...]):
        sae = make(max_iter=1).fit(Refusing(lazy))
        assert sae.components_.shape == (48, X.shape[1])


def test_cross_validation_and_grid_search_on_a_store(X, tmp_path):
    def make(**settings):
        small = {"batch_size": 100, "max_iter": 4, "random_state": 0}
        return MutualChoiceSAE(48, 4, **(small | settings))

    X = X.astype(np.float32)
    store = in_shards(tmp_path, X)
    splits = ShuffleSplit(2, test_size=0.25, random_state=0)  # unsorted indices
    scores = cross_val_score(make(), store, cv=splits)
    # In memory rows are shuffled one by one, so the models differ a little.
    assert scores == pytest.approx(cross_val_score(make(), X, cv=splits), abs=0.1)
    grids = [GridSearchCV(make(), {"k": [1, 4]}, cv=2).fit(rows) for rows in (store, X)]
    found, expected = (grid.cv_results_["mean_test_score"] for grid in grids)
    assert found == pytest.approx(expected, abs=0.1)
    sae = make(max_iter=2)
    parallel = cross_val_score(sae, store, cv=splits, n_jobs=2)
    assert_array_equal(parallel, cross_val_score(sae, store, cv=splits))


# ------------------------------------------------------------------------------ writing


def test_float16_never_holds_an_infinity(tmp_path):
    rows = np.zeros((3, 2))
    rows[1] = 65519.0  # rounds to 65504
    writer = StoreWriter(tmp_path / "half", 2)
    writer.append(rows)
    rows[2, 1] = -65520.0
    with pytest.raises(ValueError, match=r'row 5 holds 6.55.*dtype="float32"'):
        writer.append(rows)
    store = ActivationStore(tmp_path / "half")
    assert store.shape == (3, 2) and np.isfinite(np.asarray(store)).all()
    wide = StoreWriter(tmp_path / "single", 2, dtype="float32")
    wide.append(rows)
    assert_array_equal(ActivationStore(tmp_path / "single"), rows.astype(np.float32))
    for wrong in (np.nan, np.inf):
        rows[0, 0] = wrong
        with pytest.raises(ValueError, match=r"row 3 holds .* not finite"):
            wide.append(rows)


def test_tensors_of_any_kind_are_appended(tmp_path):
    writer = StoreWriter(tmp_path, 2, dtype="float32")
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        writer.append(torch.full((1, 2), 1.5, dtype=kind, requires_grad=True))
    assert_array_equal(ActivationStore(tmp_path), np.full((3, 2), 1.5))
    with pytest.raises(TypeError, match="rows must be an array, got a path"):
        writer.append("rows.npy")


@pytest.mark.parametrize(
    ("rows", "tokens", "message"),
    [
        (np.zeros((2, 4)), None, "must be of shape"),
        (np.zeros(3), None, "must be of shape"),
        (np.zeros((0, 3)), None, "at least one row"),
        (np.zeros((2, 3)), made_up_tokens(3), "tokens must be of shape"),
        (np.zeros((2, 3)), np.zeros(2), "dtype TOKEN"),
    ],
)
def test_wrong_rows_are_refused(tmp_path, rows, tokens, message):
    writer = StoreWriter(tmp_path, 3)
    with pytest.raises(ValueError, match=message):
        writer.append(rows, tokens)
    assert writer.n_rows == 0
    with pytest.raises(ValueError, match="dtype must be one of"):
        StoreWriter(tmp_path / "other", 3, dtype="int8")


def test_the_manifest_says_what_the_store_holds(tmp_path):
    writer = write(tmp_path, VALUES, LENGTHS, configuration={"layer": 8, "b": (1, 2)})
    writer.finish({"dropped": {"first": 3}})
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["shape"] == [N_ROWS, N_COLUMNS]
    assert found["dtype"] == "float16"
    assert found["configuration"] == {"layer": 8, "b": [1, 2]}
    assert len(found["configuration_sha256"]) == 64
    assert found["progress"] == {"dropped": {"first": 3}} and found["complete"]
    assert [shard["rows"] for shard in found["shards"]] == list(LENGTHS)
    for shard in found["shards"]:
        for record in shard["files"].values():
            path = tmp_path / record["name"]
            assert sha256_of(path) == record["sha256"]
            assert path.stat().st_size == record["bytes"]
            np.load(path)
    store = ActivationStore(tmp_path)
    assert store.complete and store.progress == {"dropped": {"first": 3}}
    assert store.configuration == found["configuration"]
    store.verify()


def test_a_writer_goes_on_where_another_stopped(tmp_path):
    settings = {"configuration": {"layer": 8}}
    write(tmp_path / "one", VALUES, LENGTHS, **settings)
    write(tmp_path / "two", VALUES[:15], LENGTHS[:3], **settings)
    writer = StoreWriter(tmp_path / "two", 3, **settings)
    assert (writer.n_rows, writer.n_shards) == (15, 3) and writer.progress == {"n": 15}
    for start, stop in ((15, 19), (19, 30)):
        tokens = made_up_tokens(N_ROWS)[start:stop]
        writer.append(VALUES[start:stop], tokens, {"n": stop})
    assert_same_folder(tmp_path / "one", tmp_path / "two")
    writer.keep(3)
    assert writer.progress == {"n": 15}
    assert_same(ActivationStore(tmp_path / "two"), VALUES[:15])


def assert_same_folder(one, other):
    names = sorted(os.listdir(one))
    assert names == sorted(os.listdir(other))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


# ------------------------------------------------------------------- crashes and damage


def steps_until_done(monkeypatch, run):
    """Run again and again, broken off after one, two ... steps on the disk."""
    after = 0
    while True:
        left = after

        def step(original):
            def counted(*args, **kwargs):
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                return original(*args, **kwargs)

            return counted

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", step(os.replace))
            patch.setattr(files.os, "fsync", step(os.fsync))
            try:
                run(after)
                return after
            except KeyboardInterrupt:
                after += 1


def test_broken_off_at_any_step_the_store_is_valid_and_shorter(tmp_path, monkeypatch):
    lengths = []

    def run(after):
        folder = tmp_path / str(after)
        if after:  # what the run before it left
            before = tmp_path / str(after - 1)
            if (before / "manifest.json").exists():
                store = ActivationStore(before)
                store.verify()
                assert_array_equal(np.asarray(store), VALUES[: len(store)])
                lengths.append(len(store))
        write(folder, VALUES[:15], LENGTHS[:3])

    n_steps = steps_until_done(monkeypatch, run)
    assert n_steps > 3 * 6
    # Three shards, and each of the lengths between them was seen.
    assert set(lengths) == {0, 5, 6, 15}
    assert lengths == sorted(lengths)


WRITE_FOR_EVER = """
import sys
import numpy as np
from skchoice.store import StoreWriter
writer = StoreWriter(sys.argv[1], 4)
print("begun", flush=True)
while True:
    n = writer.n_rows
    writer.append(np.full((64, 4), n % 1000), progress={"n": n + 64})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_kill_9_leaves_a_valid_store(tmp_path):
    rng = np.random.default_rng(0)
    n_rows = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, tmp_path],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.01, 0.1))
        process.kill()
        process.wait()
        store = ActivationStore(tmp_path)
        store.verify()
        assert len(store) >= n_rows and len(store) == store.progress.get("n", 0)
        n_rows = len(store)
        firsts = np.asarray(store)[::64, 0]
        assert_array_equal(firsts, np.arange(0, n_rows, 64) % 1000)
    assert n_rows > 0


def test_a_full_disk_costs_the_last_append_alone(tmp_path, monkeypatch):
    writer = write(tmp_path, VALUES[:15], LENGTHS[:3])

    class FullDisk:
        def __init__(self, file):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_HashedFile", FullDisk)
        with pytest.raises(OSError, match=r"No space left.*15 rows before.*safe"):
            writer.append(VALUES[15:], made_up_tokens(15))
    assert not list(tmp_path.glob("*.part"))
    assert_same(ActivationStore(tmp_path), VALUES[:15])
    writer.append(VALUES[15:], made_up_tokens(15))
    assert_same(ActivationStore(tmp_path), VALUES)


def truncate(path):
    os.truncate(path, path.stat().st_size - 3)


def exchange(path):
    other = path.with_name(path.name.replace("1", "0"))
    content = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, exchange, Path.unlink])
@pytest.mark.parametrize("name", ["activations", "tokens"])
def test_a_damaged_shard_is_named_with_its_checksum(tmp_path, damage, name):
    write(tmp_path, VALUES, [15, 15])
    writer_settings = {"n_columns": 3}
    path = tmp_path / f"{name}-00001.npy"
    expected = sha256_of(path)
    damage(path)
    for open_again in (
        ActivationStore,
        lambda folder: StoreWriter(folder, **writer_settings),
    ):
        with pytest.raises(StoreError) as caught:
            open_again(tmp_path)
        assert "sha256" in str(caught.value)
        assert f"{name}-0000" in str(caught.value)
        if damage is not exchange:  # then the other file is found first
            assert expected in str(caught.value)
        elif path.exists():
            assert expected in str(caught.value)  # as what was found


def test_a_flipped_bit_is_found_by_verify(tmp_path):
    rows = np.random.default_rng(0).normal(size=(4000, 4))
    StoreWriter(tmp_path, 4).append(rows)
    path = tmp_path / "activations-00000.npy"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store = ActivationStore(tmp_path)
    with pytest.raises(StoreError, match=r"activations-00000.*sha256"):
        store.verify()


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_bytes(manifest.sealed(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "version 3.*up to 2.*newer skchoice"),
        ({"format": "other"}, "not the manifest of a store"),
        ({"kind": "codes"}, "a store of codes, not of activations"),
    ],
)
def test_a_foreign_manifest_is_refused(folder, changes, message):
    edit(folder, **changes)
    for open_again in (ActivationStore, lambda folder: StoreWriter(folder, 3)):
        with pytest.raises(StoreError, match=message):
            open_again(folder)


def test_no_store_and_no_json(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        ActivationStore(tmp_path)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="not as it was written"):
        ActivationStore(folder)


def test_another_configuration_is_told_and_harms_nothing(tmp_path):
    write(tmp_path, VALUES, LENGTHS, configuration={"layer": 8, "model": "gpt2"})
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match="layer 8 there, 9 now"):
        StoreWriter(tmp_path, 3, configuration={"layer": 9, "model": "gpt2"})
    with pytest.raises(StoreError, match="n_columns 3 there, 4 now"):
        StoreWriter(tmp_path, 4, configuration={"layer": 8, "model": "gpt2"})
    with pytest.raises(StoreError, match="dtype 'float16' there, 'float32' now"):
        StoreWriter(tmp_path, 3, dtype="float32")
    assert (tmp_path / "manifest.json").read_bytes() == before
    StoreWriter(tmp_path, 3, configuration={"model": "gpt2", "layer": 8})


def test_complex_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="real numbers, got dtype complex128"):
        StoreWriter(tmp_path, 3).append(np.ones((2, 3), complex))


def test_two_writers_do_not_mix(folder):
    one, other = StoreWriter(folder, 3), StoreWriter(folder, 3)
    tokens = made_up_tokens(N_ROWS)
    one.append(VALUES, tokens)
    with pytest.raises(StoreError, match="another process"):
        other.append(VALUES[:4], tokens[:4])
    store = ActivationStore(folder)
    store.verify()
    assert_same(store, np.concatenate([VALUES, VALUES]))


def write_again_and_again(folder, n_shards, told):
    rows = np.full((500, 16), 7)
    while True:
        try:
            writer = StoreWriter(folder, 16)
            while writer.n_shards < n_shards:
                writer.append(rows)
            return
        except StoreError as error:
            told.put(str(error))


@pytest.mark.skipif(files.fcntl is None, reason="no locks here")
def test_two_processes_at_once_damage_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    writers = [
        context.Process(target=write_again_and_again, args=(tmp_path, 60, told))
        for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)
    assert [writer.exitcode for writer in writers] == [0, 0]
    while not told.empty():
        assert "another process" in told.get()
    store = ActivationStore(tmp_path)
    store.verify()
    assert store.shape == (60 * 500, 16) and (np.asarray(store) == 7).all()
    assert not list(tmp_path.glob("*.part"))


def test_configurations_hash_alike_in_any_order():
    one = manifest.configuration_hash({"a": 1, "b": [2]})
    assert one == manifest.configuration_hash({"b": [2], "a": 1})
    assert one != manifest.configuration_hash({"a": 1, "b": [3]})


def drop(*path):
    def change(found):
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return change


def put(value, *path):
    def change(found):
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


NAMES = "version shape dtype configuration configuration_sha256 progress complete"


@pytest.mark.parametrize(
    "change",
    [
        *map(drop, [*NAMES.split(), "shards"]),
        *(put(None, name) for name in [*NAMES.split(), "shards"]),
        drop("shards", 1),  # then the rows do not add up
        drop("shards", 1, "rows"),
        drop("shards", 1, "files", "activations"),
        drop("shards", 1, "files", "tokens", "sha256"),
        put([3, 3], "shape"),
        put([], "shape"),
        put("1", "version"),
        put("nonsense", "dtype"),
        put("object", "dtype"),
        put({}, "shards"),
        put(5, "shards", 0),
        put(-3, "shards", 0, "rows"),
        put("x", "shards", 0, "rows"),
        put({}, "shards", 0, "files"),
        put("../elsewhere.npy", "shards", 0, "files", "tokens", "name"),
        put(3, "configuration", "layer"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(tmp_path, change):
    write(tmp_path, VALUES, LENGTHS, configuration={"layer": 8})
    path = tmp_path / "manifest.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_bytes(manifest.sealed(found))
    with pytest.raises(StoreError, match=r"manifest\.json is not as it was written"):
        ActivationStore(tmp_path)
    with pytest.raises(StoreError, match="not as it was written"):
        StoreWriter(tmp_path, 3, configuration={"layer": 8})


@pytest.mark.parametrize(("name", "value"), [("dtype", "float32"), ("columns", 2)])
def test_shards_that_are_not_as_the_manifest_says_are_refused(tmp_path, name, value):
    write(tmp_path, VALUES, LENGTHS)
    if name == "columns":
        edit(tmp_path, shape=[N_ROWS, value])
    else:
        edit(tmp_path, dtype=value)
    with pytest.raises(StoreError, match=r"activations-00000\.npy .* holds .* says"):
        np.asarray(ActivationStore(tmp_path))


@pytest.mark.parametrize("n_columns", [0, -1, 2.5, "x", None])
def test_a_wrong_width_is_refused_before_there_is_a_store(tmp_path, n_columns):
    with pytest.raises(ValueError, match="n_columns must be an integer at least 1"):
        StoreWriter(tmp_path / "new", n_columns)
    assert not (tmp_path / "new").exists()


def test_progress_that_cannot_be_written_costs_nothing(tmp_path):
    writer = write(tmp_path, VALUES, LENGTHS)
    with pytest.raises(TypeError):
        writer.append(VALUES, made_up_tokens(N_ROWS), {"n": object()})
    assert writer.n_rows == N_ROWS and writer.progress == {"n": N_ROWS}
    writer.append(VALUES, made_up_tokens(N_ROWS), {"n": 2 * N_ROWS})
    assert_same(ActivationStore(tmp_path), np.concatenate([VALUES, VALUES]))


def test_notes_come_back_as_they_are_noted(tmp_path):
    layer, dropped = np.int64(8), {"first": np.int32(3), "share": np.float32(0.5)}
    writer = StoreWriter(tmp_path, 2, configuration={"layer": layer, "of": (1, 2)})
    writer.append(np.ones((3, 2)), progress={"dropped": dropped})
    store = ActivationStore(tmp_path)
    assert store.configuration == {"layer": 8, "of": [1, 2]}
    assert store.progress == {"dropped": {"first": 3, "share": 0.5}} == writer.progress
    assert StoreWriter(tmp_path, 2, configuration=store.configuration).n_rows == 3


@pytest.mark.parametrize(
    "wrong", [float("nan"), float("inf"), {1, 2}, np.float32("nan")]
)
def test_notes_that_json_cannot_hold_are_named(tmp_path, wrong):
    with pytest.raises(
        (TypeError, ValueError), match="configuration cannot be written"
    ):
        StoreWriter(tmp_path / "new", 2, configuration={"scale": wrong})
    assert not (tmp_path / "new").exists()
    with pytest.raises((TypeError, ValueError), match="progress cannot be written"):
        StoreWriter(tmp_path, 2).append(np.ones((3, 2)), progress={"scale": wrong})
    assert len(ActivationStore(tmp_path)) == 0


def test_only_shards_that_are_there_are_kept(tmp_path):
    writer = write(tmp_path, VALUES, LENGTHS)
    for wrong in (-1, 6, "x"):
        with pytest.raises(ValueError, match="n_shards must be an integer from 0 to 5"):
            writer.keep(wrong)
    assert writer.n_rows == N_ROWS


def test_a_store_without_rows_is_begun_anew(tmp_path):
    StoreWriter(tmp_path, 3, configuration={"layer": 8})
    StoreWriter(tmp_path, 4, configuration={"layer": 9}).append(np.ones((2, 4)))
    store = ActivationStore(tmp_path)
    assert store.shape == (2, 4) and store.configuration == {"layer": 9}


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "X"):
        with pytest.raises(OSError, match=r"no store can be begun in .*Give a folder"):
            StoreWriter(folder, 3)
    assert (tmp_path / "file").read_text() == "x"


# ------------------------------------------------------------------- older versions

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("folder", sorted(DATA.glob("store-*")), ids=lambda f: f.name)
def test_stores_of_every_version_load(folder):
    store, codes = ActivationStore(folder / "activations"), CodeStore(folder / "codes")
    for each in (store, codes):
        each.verify()
        assert each.complete
    parts = [np.load(folder / f"activations/activations-0000{i}.npy") for i in (0, 1)]
    assert_same(store, np.concatenate(parts))
    assert_array_equal(store.tokens["token_id"], np.arange(60))
    assert store.configuration == {"layer": 8} and store.progress == {"n": 60}
    data, indices = (
        np.concatenate([np.load(folder / f"codes/{name}-0000{i}.npy") for i in (0, 1)])
        for name in ("data", "indices")
    )
    assert codes.shape == (60, 6)
    assert_array_equal(codes[:].data, data)
    assert_array_equal(codes[:].indices, indices)


def test_there_is_a_store_of_every_version():
    found = {folder.name for folder in DATA.glob("store-*")}
    assert found == {f"store-{n}" for n in range(1, manifest.VERSION + 1)}


def test_a_store_of_an_older_version_goes_on_in_the_newest(tmp_path):
    shutil.copytree(DATA / "store-1" / "activations", tmp_path, dirs_exist_ok=True)
    writer = StoreWriter(tmp_path, 4, configuration={"layer": 8})
    writer.append(np.ones((2, 4)), made_up_tokens(2))
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert found["version"] == manifest.VERSION
    assert len(ActivationStore(tmp_path)[:]) == 62
