"""Codes on disk are the codes of transform, row by row."""

import copy
import errno
import json
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError

from skchoice import MutualChoiceSAE, code_store, manifest, metrics, shards
from skchoice.code_store import CodeStore, encode_store
from skchoice.exceptions import StoreError
from skchoice.store import ActivationStore, StoreWriter


def make(**settings):
    small = dict(n_features=48, k=4, batch_size=100, max_iter=1, random_state=0)
    return MutualChoiceSAE(**(small | settings))


@pytest.fixture(scope="module")
def sae(X):
    return make(max_iter=3).fit(X.astype(np.float32))


@pytest.fixture(scope="module")
def rows(X_new):
    return X_new.astype(np.float32)


@pytest.fixture(scope="module")
def codes(sae, rows, tmp_path_factory):
    """Return codes in five shards, the last of them short."""
    return encode_store(sae, rows, tmp_path_factory.mktemp("codes"), shard_rows=20)


def assert_same_codes(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert found.has_sorted_indices
    np.testing.assert_array_equal(found.indptr, expected.indptr)
    np.testing.assert_array_equal(found.indices, expected.indices)
    # Some processors round products of few rows otherwise than those of many.
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-5, atol=1e-6)


def test_every_estimator(Estimator, X, rows, tmp_path):
    sae = Estimator(48, 4, max_iter=1).fit(X.astype(np.float32))
    assert_same_codes(encode_store(sae, rows, tmp_path)[:], sae.transform(rows))


def test_codes_on_disk_are_those_of_transform(sae, rows, codes):
    expected = sae.transform(rows)
    assert codes.shape == expected.shape and codes.nnz == expected.nnz
    assert codes.complete and len(codes) == len(rows)
    assert_same_codes(codes[:], expected)
    assert_same_codes(sp.vstack(list(codes.chunks(7)), format="csr"), expected)
    assert "nnz=" in repr(codes)
    codes.verify()


@given(part=st.slices(90).filter(lambda part: part.step in (None, 1)))
def test_any_range_of_rows(sae, rows, codes, part):
    assert_same_codes(codes[part], sae.transform(rows)[part])


def test_a_store_is_streamed(sae, X, tmp_path):
    X = X.astype(np.float16)
    writer = StoreWriter(tmp_path / "rows", X.shape[1])
    for part in np.array_split(X, 3):
        writer.append(part)
    store = ActivationStore(tmp_path / "rows")
    codes = encode_store(sae, store, tmp_path / "codes", shard_rows=250)
    assert_same_codes(codes[:], sae.transform(X))
    # Rows that were appended since are added, and the others stay as they are.
    names = sorted(path.name for path in (tmp_path / "codes").glob("*.npy"))
    before = [(tmp_path / "codes" / name).read_bytes() for name in names]
    writer.append(X[:50])
    store = ActivationStore(tmp_path / "rows")
    codes = encode_store(sae, store, tmp_path / "codes", shard_rows=250)
    assert_same_codes(codes[:], sae.transform(np.concatenate([X, X[:50]])))
    assert [(tmp_path / "codes" / name).read_bytes() for name in names] == before


def test_float64_stays(X, X_new, tmp_path):
    sae = make(max_iter=1).fit(X)
    assert encode_store(sae, X_new, tmp_path).dtype == np.float64
    assert_same_codes(CodeStore(tmp_path)[:], sae.transform(X_new))


def test_rows_without_codes(sae, rows, tmp_path):
    silent = np.tile(sae.decoder_bias_, (5, 1)).astype(np.float32)
    expected = sae.transform(silent)
    codes = encode_store(sae, silent, tmp_path, shard_rows=2)
    assert_same_codes(codes[:], expected)
    assert_same_codes(codes[4:], expected[4:])


def test_pointers_have_64_bits(codes, tmp_path, monkeypatch):
    # Three shards of 1.5 billion matches each: two rows, of 1.5 billion less 3, and 3.
    n = 3 * 2**29
    shards = copy.deepcopy(codes._manifest.shards[:3])
    for shard in shards:
        shard |= {"rows": 2, "matches": n}
        for name, size in (("data", 4 * n), ("indices", 4 * n), ("ends", 16)):
            shard["files"][name]["bytes"] = size + 128
    arrays = {
        "data": [np.broadcast_to(np.float32(i + 1), n) for i in range(3)],
        "indices": [np.broadcast_to(np.int32(i), n) for i in range(3)],
        "ends": [n * i + np.array([n - 3, n]) for i in range(3)],
    }
    huge = CodeStore(codes.folder)
    huge._manifest.shards = shards
    huge.shape = (6, codes.shape[1])
    huge._data = huge._joined("data", "matches", np.dtype(np.float32))
    huge._indices = huge._joined("indices", "matches", np.dtype(np.int32))
    huge._ends = huge._joined("ends", "rows", np.dtype(np.int64))
    for name, parts in arrays.items():
        monkeypatch.setattr(getattr(huge, f"_{name}"), "_shard", parts.__getitem__)
    assert len(huge._data) > 2**32
    last = huge[5:6]
    assert last.indices.tolist() == [2] * 3 and last.data.tolist() == [3] * 3
    assert huge[3:4].data.tolist() == [2] * 3


def test_a_broken_off_run_goes_on(sae, rows, codes, tmp_path, monkeypatch):
    calls = []

    def failing(X):
        calls.append(X.shape)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(X)

    original = sae._encode_sparse
    with monkeypatch.context() as patch:
        patch.setattr(sae, "_encode_sparse", failing)
        with pytest.raises(KeyboardInterrupt):
            encode_store(sae, rows, tmp_path, shard_rows=20)
    part = CodeStore(tmp_path)
    assert len(part) == 40 and not part.complete
    encode_store(sae, rows, tmp_path, shard_rows=20)
    for path in codes.folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    "measure",
    [metrics.l0, metrics.l0_per_token, metrics.density, metrics.dead_features],
)
def test_codes_on_disk_are_measured_as_those_in_memory(codes, measure, monkeypatch):
    expected = measure(codes[:])
    sizes = []
    pieces = CodeStore.chunks

    def small(store):
        for piece in pieces(store, 7):
            sizes.append(piece.shape[0])
            yield piece

    monkeypatch.setattr(CodeStore, "chunks", small)
    assert_array_equal(measure(codes), expected)
    assert sum(sizes) == len(codes) and max(sizes) == 7


def test_other_models_and_rows_are_told_apart(sae, X, rows, tmp_path):
    encode_store(sae, rows, tmp_path, shard_rows=20)
    other = make(max_iter=3, random_state=1).fit(X.astype(np.float32))
    with pytest.raises(StoreError, match=r"model .* there, .* now"):
        encode_store(other, rows, tmp_path)
    with pytest.raises(StoreError, match="other rows: between 0 and 20"):
        encode_store(sae, rows[::-1], tmp_path)
    with pytest.raises(StoreError, match=r"rows .*float32.* there, .*float64.* now"):
        encode_store(sae, rows.astype(float), tmp_path)
    with pytest.raises(TypeError, match=r"got a path: open ActivationStore\('rows'\)"):
        encode_store(sae, "rows", tmp_path)
    with pytest.raises(TypeError, match="sae must be a fitted autoencoder of skchoice"):
        encode_store(rows, rows, tmp_path)
    with pytest.raises(StoreError, match=r"codes of 90 rows.*only 80"):
        encode_store(sae, rows[:80], tmp_path)


def test_a_store_of_few_rows_gains_more(sae, rows, tmp_path):
    for n_rows in (3, 3, 4, 90):
        codes = encode_store(sae, rows[:n_rows], tmp_path)
        assert_same_codes(codes[:], sae.transform(rows[:n_rows]))


def test_any_other_row_is_refused(sae, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(code_store, "_HASHED_ENTRIES", 90)
    encode_store(sae, rows[:85], tmp_path, shard_rows=20)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for row, part in ((0, "0 and 20"), (79, "60 and 80"), (84, "80 and 85")):
        other = rows.copy()
        other[row, 3] = np.nextafter(other[row, 3], 9)
        with pytest.raises(StoreError, match=f"other rows: between {part}"):
            encode_store(sae, other, tmp_path, shard_rows=20)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert_same_codes(encode_store(sae, rows, tmp_path)[:], sae.transform(rows))


def test_a_full_disk_costs_the_last_shard_alone(sae, rows, tmp_path, monkeypatch):
    original = shards._write_array

    def failing(path, array):
        if path.name == "indices-00002.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write_array", failing)
        with pytest.raises(OSError, match=r"No space left.*40 rows before it are safe"):
            encode_store(sae, rows, tmp_path, shard_rows=20)
    assert_same_codes(CodeStore(tmp_path)[:], sae.transform(rows[:40]))


@pytest.mark.parametrize("wrong", [3, [1, 2], slice(0, 9, 2), slice(9, 0, -1)])
def test_other_indices_are_refused(codes, wrong):
    with pytest.raises(TypeError, match="ranges of rows"):
        codes[wrong]


@pytest.mark.parametrize("read", [list, np.asarray])
def test_codes_are_never_taken_for_an_empty_sequence(codes, read):
    with pytest.raises(TypeError, match="ranges of rows"):
        read(codes)


def test_damage_is_found(sae, rows, tmp_path):
    encode_store(sae, rows, tmp_path)
    path = tmp_path / "indices-00000.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StoreError, match=r"indices-00000\.npy.*sha256"):
        CodeStore(tmp_path)
    found = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(found | {"version": 9}))
    with pytest.raises(StoreError, match="newer skchoice"):
        CodeStore(tmp_path)
    with pytest.raises(StoreError, match="newer"):
        encode_store(sae, rows, tmp_path)


def test_dense_and_pandas_output_do_not_matter(X, rows, tmp_path):
    sae = make(max_iter=1, sparse_output=False).fit(X.astype(np.float32))
    expected = sae.transform(rows)
    codes = encode_store(sae.set_output(transform="pandas"), rows, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(codes[:].toarray(), expected)


def test_what_cannot_be_encoded_is_refused_before_anything_is_written(
    sae, rows, tmp_path
):
    folder = tmp_path / "codes"
    for wrong in (rows[:, :3], rows[0], rows[:, :3].tolist()):
        with pytest.raises(ValueError, match=r"shape \(n_rows, .*got"):
            encode_store(sae, wrong, folder)
    with pytest.raises(ValueError, match="shard_rows must be"):
        encode_store(sae, rows, folder, shard_rows=0)
    with pytest.raises(NotFittedError):
        encode_store(make(), rows, folder)
    assert not folder.exists()


def test_lists_are_encoded_too(sae, rows, tmp_path):
    found = encode_store(sae, rows[:5].tolist(), tmp_path)
    assert_same_codes(found[:], sae.transform(rows[:5].astype(np.float64)))


@pytest.mark.parametrize("n_rows", [0, -1, 1.5])
def test_wrong_pieces_are_refused(codes, n_rows):
    with pytest.raises(ValueError, match="n_rows must be"):
        list(codes.chunks(n_rows))


def test_codes_of_more_features_than_the_manifest_says_are_refused(sae, rows, tmp_path):
    encode_store(sae, rows, tmp_path)
    path = tmp_path / "manifest.json"
    found = json.loads(path.read_text())
    found["shape"][1] = 2
    path.write_bytes(manifest.sealed(found))
    with pytest.raises(StoreError, match="its 2 features"):
        CodeStore(tmp_path)[:]
    del found["shards"][0]["matches"]
    path.write_bytes(manifest.sealed(found))
    with pytest.raises(StoreError, match="not as it was written"):
        CodeStore(tmp_path)
