"""Codes of rows, one by one, against the dense definition."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skchoice import inputs, tiles
from skchoice.inference import (
    CSRBuilder,
    ErrorSums,
    ThresholdEncoder,
    TopKEncoder,
    decode_rows,
)
from skchoice.model import Parameters

seeds = st.integers(0, 2**31)


def parameters(rng, n_features, n_columns, relative, dtype=torch.float64):
    decoder = rng.normal(size=(n_features, n_columns))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    arrays = (
        rng.normal(size=(n_features, n_columns)),
        0.3 * rng.normal(size=n_features),
        decoder,
        rng.normal(size=n_columns),
    )
    return Parameters(*(torch.tensor(a, dtype=dtype) for a in arrays), relative)


def dense_affinities(x, p):
    """Affinities before the cut at zero and what codes are larger by, in numpy."""
    encoder, bias, _, decoder_bias = (array.numpy() for array in p.arrays())
    residual = x - decoder_bias
    norms = np.ones(len(x))
    if p.relative:
        norms = np.linalg.norm(residual, axis=1)
        residual = residual / np.where(norms == 0, 1, norms)[:, None]
    affinities = residual @ encoder.T + bias
    affinities[norms == 0] = 0
    return affinities, norms[:, None]


# --------------------------------------------------------------------------- encoders


@given(
    seed=seeds,
    n_rows=st.integers(1, 12),
    n_features=st.integers(1, 40),
    relative=st.booleans(),
    tile=st.sampled_from([1, 50, 1 << 21]),
)
def test_threshold_encoder(seed, n_rows, n_features, relative, tile):
    rng = np.random.default_rng(seed)
    p = parameters(rng, n_features, 5, relative)
    x = rng.normal(size=(n_rows, 5))
    if relative:
        x[0] = p.decoder_bias  # a row without direction
    thresholds = np.abs(rng.normal(size=n_features)) * rng.integers(0, 2, n_features)
    with patch.object(tiles, "_TILE_BYTES", {"cpu": 4 * tile}):
        codes = ThresholdEncoder(p, torch.tensor(thresholds))(torch.tensor(x))
    affinities, norms = dense_affinities(x, p)
    expected = np.where(affinities > thresholds, affinities * norms, 0)
    assert_allclose(codes.to_dense(), expected, rtol=1e-12, atol=1e-12)
    found = codes.to_scipy()
    assert found.has_canonical_format
    assert (found.data > 0).all()


def test_a_threshold_must_be_passed_not_reached():
    p = Parameters(
        torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2), relative=False
    )
    encode = ThresholdEncoder(p, torch.tensor([1.0, 0.0]))
    x = torch.tensor([[1.0, 0.0], [1.0000001, 1e-30], [0.5, -1.0]])
    fires = encode(x).to_dense() > 0
    assert_array_equal(fires, [[False, False], [True, True], [False, False]])


@given(
    seed=seeds,
    n_rows=st.integers(1, 12),
    n_features=st.integers(1, 40),
    relative=st.booleans(),
    data=st.data(),
)
def test_top_k_encoder(seed, n_rows, n_features, relative, data):
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, n_features))
    p = parameters(rng, n_features, 5, relative)
    encode = TopKEncoder(p, k)
    for _ in range(3):  # chunk by chunk, each screened by what came before
        x = rng.normal(size=(n_rows, 5)) * rng.lognormal(2, size=(n_rows, 1))
        affinities, norms = dense_affinities(x, p)
        order = np.argsort(-affinities, axis=1)[:, :k]
        chosen = np.zeros_like(affinities, dtype=bool)
        np.put_along_axis(chosen, order, True, axis=1)
        expected = np.where(chosen & (affinities > 0), affinities * norms, 0)
        codes = encode(torch.tensor(x))
        assert_allclose(codes.to_dense(), expected, rtol=1e-12, atol=1e-12)


def test_top_k_ties_go_to_the_first_features():
    p = Parameters(
        torch.ones(4, 1), torch.zeros(4), torch.ones(4, 1), torch.zeros(1), False
    )
    codes = TopKEncoder(p, 2)(torch.tensor([[3.0], [-1.0], [0.0]]))
    assert_array_equal(codes.to_dense(), [[3, 3, 0, 0], [0] * 4, [0] * 4])


# ------------------------------------------------------- no row depends on the others


def assert_same_codes(found, expected):
    # Products of matrices of other shapes may round otherwise, no more.
    assert_array_equal(found.indptr, expected.indptr)
    assert_array_equal(found.indices, expected.indices)
    assert_allclose(found.data, expected.data, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_alone_in_parts_and_in_any_order(fitted, X_new, dtype):
    X_new = X_new.astype(dtype)
    codes = fitted.transform(X_new)
    rng = np.random.default_rng(0)
    for chosen in (
        np.arange(10),
        rng.permutation(len(X_new)),
        rng.choice(len(X_new), 30, replace=False),
        np.zeros(5, dtype=int),
        np.array([17]),
    ):
        assert_same_codes(fitted.transform(X_new[chosen]), codes[chosen])


@pytest.mark.parametrize("chunk_rows", [1, 7, 89])
def test_borders_of_chunks_do_not_show(fitted, X_new, chunk_rows, Lazy, monkeypatch):
    codes, score = fitted.transform(X_new), fitted.score(X_new)
    allocated = fitted.allocate(X_new)
    back = fitted.inverse_transform(codes)
    monkeypatch.setattr(inputs, "_CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr("skchoice.fitted._DECODE_ROWS", chunk_rows)
    for given_rows in (X_new, Lazy(X_new)):
        assert_same_codes(fitted.transform(given_rows), codes)
        assert_same_codes(fitted.allocate(given_rows), allocated)
        assert fitted.score(given_rows) == pytest.approx(score, rel=1e-12)
    assert_allclose(fitted.inverse_transform(codes), back, rtol=1e-12)


def test_company_of_huge_rows_does_not_matter(fitted, X_new):
    codes = fitted.transform(X_new)
    for scale in (1e3, 1e6):
        mixed = np.concatenate([X_new[:40], X_new[:40] * scale, X_new[40:]])
        found = fitted.transform(mixed)
        assert_same_codes(sparse.vstack([found[:40], found[80:]]).tocsr(), codes)


# ------------------------------------------------------------------------- CSRBuilder


@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        min_size=1,
        max_size=8,
    ),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=seeds,
)
def test_csr_builder_stacks(pieces, dtype, seed):
    rng = np.random.default_rng(seed)
    chunks = [
        sparse.random(rows, 6, density, "csr", dtype=dtype, random_state=rng)
        for rows, density in pieces
    ]
    n_rows = sum(rows for rows, _ in pieces)
    if not n_rows:
        return
    builder = CSRBuilder((n_rows, 6), np.dtype(dtype))
    for chunk in chunks:
        if chunk.shape[0]:
            builder.append(chunk)
    data, indices, indptr = builder.finish()
    expected = sparse.vstack(chunks, "csr")
    assert data.dtype == dtype
    assert indices.dtype == indptr.dtype == np.int32
    assert_array_equal(data, expected.data)
    assert_array_equal(indices, expected.indices)
    assert_array_equal(indptr, expected.indptr)
    assert data.size == expected.nnz  # no room is left over


# --------------------------------------------------------------------------- decoding


@given(seed=seeds, n_rows=st.integers(1, 9), density=st.sampled_from([0.0, 0.2, 1.0]))
def test_decode_rows(seed, n_rows, density):
    rng = np.random.default_rng(seed)
    p = parameters(rng, 11, 5, relative=False)
    codes = sparse.random(n_rows, 11, density, "csr", random_state=rng)
    codes.data *= rng.choice([-1, 1], codes.nnz)
    expected = codes.toarray() @ p.decoder.numpy() + p.decoder_bias.numpy()
    assert_allclose(decode_rows(codes, p), expected, rtol=1e-12, atol=1e-12)


def as_int64(codes):
    codes = codes.copy()
    codes.indices, codes.indptr = codes.indices.astype("i8"), codes.indptr.astype("i8")
    return codes


def shuffled_indices(codes):
    codes = codes.copy()
    for start, stop in zip(codes.indptr[:-1], codes.indptr[1:], strict=True):
        for array in (codes.indices, codes.data):
            array[start:stop] = array[start:stop][::-1].copy()
    codes.has_sorted_indices = False
    return codes


def split_entries(codes):
    """Every entry as the sum of two of the same place."""
    coo = codes.tocoo()
    rows, cols = (np.tile(index, 2) for index in (coo.row, coo.col))
    values = np.concatenate([0.25 * coo.data, 0.75 * coo.data])
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(codes.shape[0] + 1))
    return sparse.csr_matrix((values[order], cols[order], indptr), shape=codes.shape)


@pytest.mark.parametrize(
    "contain",
    [
        sparse.csr_array,
        sparse.csr_matrix,
        sparse.csc_array,
        sparse.coo_array,
        lambda codes: codes.toarray(),
        lambda codes: np.asfortranarray(codes.toarray()),
        lambda codes: codes.toarray().tolist(),
        lambda codes: torch.tensor(codes.toarray()),
        as_int64,
        shuffled_indices,
        split_entries,
    ],
)
def test_inverse_transform_of_any_container(fitted, X_new, contain):
    codes = fitted.transform(X_new)
    expected = codes @ fitted.components_.astype(float) + fitted.decoder_bias_
    found = fitted.inverse_transform(contain(codes))
    assert isinstance(found, np.ndarray)
    assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_inverse_transform_leaves_codes_as_they_were(fitted, X_new):
    codes = shuffled_indices(fitted.transform(X_new))
    given = codes.indices.copy(), codes.data.copy()
    fitted.inverse_transform(codes)
    assert_array_equal(codes.indices, given[0])
    assert_array_equal(codes.data, given[1])


# ------------------------------------------------------------------------------ score

matrices = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.integers(1, 4)),
    elements=st.floats(-100, 100).map(lambda value: round(value, 3)),
)


@given(x=matrices, seed=seeds, data=st.data())
def test_error_sums(x, seed, data):
    rng = np.random.default_rng(seed)
    x_hat = x + rng.normal(size=x.shape)
    sums = ErrorSums(torch.tensor(rng.normal(size=x.shape[1])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=3)))
    for part in np.split(np.arange(len(x)), cuts):
        if len(part):
            sums.add(torch.tensor(x[part]), torch.tensor(x_hat[part]))
    variance = ((x - x.mean(axis=0)) ** 2).sum()
    if variance > 1e-6:
        expected = ((x - x_hat) ** 2).sum() / variance
        assert sums.fvu() == pytest.approx(expected, rel=1e-6)
    elif variance < 1e-20:
        assert sums.fvu() == 1.0


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_error_sums_far_from_zero(offset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    x_hat = x + 0.1 * rng.normal(size=x.shape)
    expected = ((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    sums = ErrorSums(torch.full((3,), offset))
    sums.add(torch.tensor(x + offset), torch.tensor(x_hat + offset))
    assert sums.fvu() == pytest.approx(expected, rel=1e-6)
    assert type(sums.fvu()) is float


def test_error_sums_of_constant_rows():
    x = torch.full((5, 2), 3.7)
    exact, wrong = ErrorSums(torch.zeros(2)), ErrorSums(torch.zeros(2))
    exact.add(x, x.clone())
    wrong.add(x, x + 0.5)
    assert exact.fvu() == 0.0
    assert wrong.fvu() == 1.0
