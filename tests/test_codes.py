"""SparseCodes against the dense matrix they stand for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skchoice.codes import SparseCodes

quick = settings(max_examples=60, deadline=None)

dtypes = st.sampled_from([torch.float32, torch.float64])
matrices = st.builds(
    lambda integers, dtype: torch.from_numpy(integers).to(dtype),
    hnp.arrays(
        np.int8,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0, 0, 0, 1, 2, 5]),
    ),
    dtypes,
)


def codes_of(matrix: torch.Tensor, seed: int | None = None) -> SparseCodes:
    """The nonzero entries, in the order of a seed."""
    rows, cols = matrix.nonzero(as_tuple=True)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(rows))
        rows, cols = rows[order], cols[order]
    return SparseCodes.sorted(rows, cols, matrix[rows, cols], tuple(matrix.shape))


@quick
@given(matrix=matrices, seed=st.integers(0, 99))
def test_codes_from_any_order_are_sorted_by_feature_then_token(matrix, seed):
    codes = codes_of(matrix, seed)
    cols, rows = matrix.T.nonzero(as_tuple=True)
    assert codes.rows.tolist() == rows.tolist()
    assert codes.cols.tolist() == cols.tolist()
    assert codes.values.tolist() == matrix[rows, cols].tolist()
    assert codes.rows.dtype == codes.cols.dtype == torch.int32
    assert codes.values.dtype == matrix.dtype
    assert codes.shape == tuple(matrix.shape)
    assert len(codes) == (matrix != 0).sum()


@quick
@given(matrix=matrices, seed=st.integers(0, 99))
def test_dense_and_scipy_forms_are_the_matrix(matrix, seed):
    codes = codes_of(matrix, seed)
    assert torch.equal(codes.to_dense(), matrix)
    assert codes.to_dense().dtype == matrix.dtype
    csr = codes.to_scipy()
    np.testing.assert_array_equal(csr.toarray(), matrix.numpy())
    assert isinstance(csr, sp.csr_matrix)
    assert csr.dtype == matrix.numpy().dtype
    assert csr.nnz == len(codes)
    # Looked at afresh: the flag is what scipy believes.
    csr.has_sorted_indices = csr.has_canonical_format = False
    rows = np.split(csr.indices, csr.indptr[1:-1])
    assert all((np.diff(row) > 0).all() for row in rows)


@quick
@given(matrix=matrices)
def test_counts_and_pointers(matrix):
    codes = codes_of(matrix)
    counts = (matrix != 0).sum(0)
    assert torch.equal(codes.counts(), counts)
    pointers = codes.feature_pointers()
    assert pointers.dtype == torch.int32
    assert pointers.tolist() == [0, *counts.cumsum(0).tolist()]


@quick
@given(matrix=matrices, seed=st.integers(0, 99))
def test_token_order_sorts_by_token_then_feature(matrix, seed):
    codes = codes_of(matrix, seed)
    order, pointers = codes.token_order()
    assert order.dtype == torch.int64 and pointers.dtype == torch.int32
    rows, cols = matrix.nonzero(as_tuple=True)
    assert codes.rows[order].tolist() == rows.tolist()
    assert codes.cols[order].tolist() == cols.tolist()
    assert pointers.tolist() == [0, *(matrix != 0).sum(1).cumsum(0).tolist()]


@quick
@given(matrix=matrices)
def test_with_values_keeps_the_matches(matrix):
    codes = codes_of(matrix)
    doubled = codes.with_values(2 * codes.values)
    assert torch.equal(doubled.to_dense(), 2 * matrix)
    assert torch.equal(codes.to_dense(), matrix)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 3)])
def test_codes_without_a_match(shape):
    nothing = torch.zeros(0, dtype=torch.int64)
    codes = SparseCodes.sorted(nothing, nothing, torch.zeros(0), shape)
    assert len(codes) == 0
    assert torch.equal(codes.to_dense(), torch.zeros(shape))
    assert codes.to_scipy().nnz == 0 and codes.to_scipy().shape == shape
    assert codes.counts().tolist() == [0] * shape[1]
    order, pointers = codes.token_order()
    assert order.tolist() == [] and pointers.tolist() == [0] * (shape[0] + 1)


def test_a_stored_zero_stays_a_match():
    # A code can underflow; its place among the matches must not shift the others.
    codes = SparseCodes.sorted(
        torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.0, 3.0]), (2, 2)
    )
    assert len(codes) == 2
    assert codes.counts().tolist() == [1, 1]
    order, pointers = codes.token_order()
    assert codes.values[order].tolist() == [0.0, 3.0]
    assert pointers.tolist() == [0, 1, 2]


def test_positions_past_two_to_the_31_do_not_wrap():
    rows = torch.tensor([99_999, 0, 99_999])
    cols = torch.tensor([99_999, 99_999, 30_000])
    codes = SparseCodes.sorted(rows, cols, torch.ones(3), (100_000, 100_000))
    assert codes.rows.tolist() == [99_999, 0, 99_999]
    assert codes.cols.tolist() == [30_000, 99_999, 99_999]


def test_codes_cannot_be_changed():
    codes = codes_of(torch.eye(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        codes.rows = codes.cols
