"""Shuffled batches, and the uniform sample of a stream."""

from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skchoice import batches, inputs
from skchoice.batches import shuffled_batches
from skchoice.inputs import Rows
from skchoice.reservoir import Reservoir

CPU = torch.device("cpu")
seeds = st.integers(0, 2**31)


def numbered(n_rows, container=np.asarray):
    """Rows that know their number: row i is (i, i)."""
    X = np.arange(n_rows, dtype=np.float32).repeat(2).reshape(n_rows, 2)
    return Rows(container(X), SimpleNamespace(), CPU)


@contextmanager
def blocks_of(n_rows, buffer_rows):
    """Make the blocks and buffers of streams so small that few rows are many."""
    with (
        patch.object(inputs, "_BLOCK_ROWS", n_rows),
        patch.object(inputs, "_MIN_BLOCKS", 1),
        patch.object(batches, "_BUFFER_ENTRIES", 2 * buffer_rows),
    ):
        yield


def drawn(rows, units, batch_size, seed, n_batches):
    """Numbers of the rows of some batches, (n_batches, batch_size)."""
    stream = islice(shuffled_batches(rows, units, batch_size, seed), n_batches)
    found = list(stream)
    assert all(batch.shape == (batch_size, 2) for batch in found)
    return np.stack([batch[:, 0].int().numpy() for batch in found])


# ------------------------------------------------------------------- shuffled batches


@given(
    n_rows=st.integers(1, 60),
    batch_size=st.integers(1, 90),
    streamed=st.booleans(),
    block=st.integers(1, 20),
    buffer=st.integers(1, 80),
    seed=seeds,
)
def test_every_row_is_used_once_in_every_pass(
    Lazy, n_rows, batch_size, streamed, block, buffer, seed
):
    with blocks_of(block, buffer):
        rows = numbered(n_rows, Lazy if streamed else np.asarray)
        n_batches = -(-3 * n_rows // batch_size)
        numbers = drawn(rows, rows.units(), batch_size, seed, n_batches).ravel()
    for number in range(3):
        one_pass = numbers[number * n_rows : (number + 1) * n_rows]
        assert_array_equal(np.sort(one_pass), np.arange(n_rows))


@given(
    n_rows=st.integers(2, 60),
    batch_size=st.integers(1, 30),
    streamed=st.booleans(),
    block=st.integers(1, 20),
    data=st.data(),
)
def test_only_the_given_units_take_part(
    Lazy, n_rows, batch_size, streamed, block, data
):
    with blocks_of(block, 16):
        rows = numbered(n_rows, Lazy if streamed else np.asarray)
        units = data.draw(st.sets(st.sampled_from(list(rows.units())), min_size=1))
        units = np.array(sorted(units))
        height = block if streamed else 1
        expected = np.concatenate(
            [np.arange(unit, min(unit + height, n_rows)) for unit in units]
        )
        n_batches = -(-len(expected) // batch_size)
        numbers = drawn(rows, units, batch_size, 0, n_batches).ravel()
    assert_array_equal(np.sort(numbers[: len(expected)]), expected)


@given(streamed=st.booleans(), block=st.integers(1, 60), seed=seeds)
def test_one_seed_one_order(Lazy, streamed, block, seed):
    with blocks_of(block, 20):
        rows = numbered(50, Lazy if streamed else np.asarray)
        one, same, other = (
            drawn(rows, rows.units(), 10, number, 15)
            for number in (seed, seed, seed + 1)
        )
    assert_array_equal(one, same)
    assert (one != other).any()
    # Every pass has an order of its own, even if all rows are in one block.
    passes = one.reshape(3, 50)
    assert (passes[0] != passes[1]).any()
    assert (passes[1] != passes[2]).any()


def test_global_seeds_do_not_matter():
    rows = numbered(50)
    np.random.seed(0)  # noqa: NPY002
    one = drawn(rows, rows.units(), 10, 3, 5)
    np.random.seed(1)  # noqa: NPY002
    assert_array_equal(one, drawn(rows, rows.units(), 10, 3, 5))


@pytest.mark.parametrize("streamed", [True, False])
def test_rows_are_well_mixed(Lazy, streamed):
    with blocks_of(64, 1024):
        rows = numbered(4096, Lazy if streamed else np.asarray)
        numbers = drawn(rows, rows.units(), 256, 0, 16)
    # Neighbours before the shuffle seldom are neighbours after it.
    assert (np.abs(np.diff(numbers.ravel())) == 1).mean() < 0.01
    # A batch holds rows from all over, a stream's from the blocks of one buffer.
    low, high = numbers.min(axis=1), numbers.max(axis=1)
    assert (high - low > 2000).all()
    assert np.ptp(numbers.mean(axis=1)) < (2000 if streamed else 500)


@given(n_rows=st.integers(1, 200), block=st.integers(1, 16), seed=seeds)
def test_a_buffer_is_never_larger_than_it_may_be(Lazy, n_rows, block, seed):
    # The last block may be short; it may also come first.
    buffer_rows = 64
    with blocks_of(block, buffer_rows):
        rows = numbered(n_rows, Lazy)
        rng = np.random.default_rng(seed)
        order = rng.permutation(rows.units())
        sizes = [len(buffer) for buffer in batches._mixed(rows, order, rng)]
    assert sum(sizes) == n_rows
    assert max(sizes) <= buffer_rows


def test_batches_come_from_the_rows_at_any_size_of_buffer(Lazy):
    with blocks_of(64, 1):  # not even one block fits: it is read all the same
        rows = numbered(200, Lazy)
        numbers = drawn(rows, rows.units(), 50, 0, 4)
    assert_array_equal(np.sort(numbers.ravel()), np.arange(200))


def test_batches_are_read_as_they_are_asked_for(Lazy):
    X = np.zeros((5000, 2), dtype=np.float32)
    lazy = Lazy(X)
    with blocks_of(50, 500):
        stream = shuffled_batches(
            Rows(lazy, SimpleNamespace(), CPU), np.arange(0, 5000, 50), 100, 0
        )
        next(stream)
        assert sum(lazy.reads) <= 500


# -------------------------------------------------------------------------- reservoir


def sample(reservoir):
    held = reservoir.chunks(CPU)
    chunks = list(held.read())
    numbers = torch.cat(chunks)[:, 0].int().numpy()
    assert held.n_rows == len(numbers)
    return numbers


@given(
    size=st.integers(1, 40), pieces=st.lists(st.integers(1, 30), min_size=1, max_size=5)
)
def test_reservoir_holds_distinct_rows_of_all_pieces(size, pieces):
    reservoir, n_seen = Reservoir(size, seed=0), 0
    for piece in pieces:
        X = n_seen + np.arange(piece, dtype=np.float32)[:, None].repeat(2, axis=1)
        reservoir = reservoir.updated(Rows(X, SimpleNamespace(), CPU))
        n_seen += piece
        numbers = sample(reservoir)
        assert len(numbers) == min(size, n_seen)
        assert len(np.unique(numbers)) == len(numbers)
        assert numbers.max() < n_seen
    if n_seen <= size:
        assert_array_equal(numbers, np.arange(n_seen))


@pytest.mark.parametrize("chunk_rows", [7, 100])
def test_reservoir_is_uniform(chunk_rows):
    # 1000 draws of 10 of 40 rows, in two pieces: each is held in a quarter of them.
    first, second = np.split(np.arange(40, dtype=np.float32)[:, None], [13])
    counts = np.zeros(40)
    with patch.object(inputs, "_CHUNK_ROWS", chunk_rows):
        for seed in range(1000):
            reservoir = Reservoir(10, seed)
            for piece in (first, second):
                reservoir = reservoir.updated(Rows(piece, SimpleNamespace(), CPU))
            counts[sample(reservoir)] += 1
    assert counts.sum() == 10_000
    assert np.abs(counts - 250).max() < 4.5 * np.sqrt(250 * 0.75)


def test_reservoir_stays_as_it_was():
    reservoir = Reservoir(10, seed=0).updated(numbered(30))
    before = sample(reservoir).copy()
    one, same = reservoir.updated(numbered(50)), reservoir.updated(numbered(50))
    assert_array_equal(sample(reservoir), before)
    assert_array_equal(sample(one), sample(same))
    assert (sample(one) != before).any()


def test_reservoir_is_read_in_chunks():
    rows = Rows(np.zeros((9000, 1), dtype=np.float32), SimpleNamespace(), CPU)
    chunks = list(Reservoir(8500, seed=0).updated(rows).chunks(CPU).read())
    assert max(map(len, chunks)) <= 4096
    assert sum(map(len, chunks)) == 8500


@given(
    n_rows=st.integers(1, 60),
    batch_size=st.integers(1, 40),
    skip=st.integers(0, 30),
    block=st.integers(1, 7),
    lazy=st.booleans(),
)
def test_skipped_batches_are_those_that_come_first(
    Lazy, n_rows, batch_size, skip, block, lazy
):
    with blocks_of(block, 20):
        rows = numbered(n_rows, Lazy) if lazy else numbered(n_rows)

        def batches_from(skip, n):
            stream = shuffled_batches(rows, rows.units(), batch_size, 3, skip)
            return list(islice(stream, n))

        later, all_of_them = batches_from(skip, 3), batches_from(0, skip + 3)
        for one, other in zip(later, all_of_them[skip:], strict=True):
            assert torch.equal(one, other)


def test_skipped_batches_are_not_read(Lazy):
    lazy = Lazy(np.zeros((6000, 2), dtype=np.float32))
    rows = Rows(lazy, None, torch.device("cpu"))
    with blocks_of(512, 1024):
        next(shuffled_batches(rows, rows.units(), 100, 0, skip=5000))
    assert sum(lazy.reads) <= 2048  # the two buffers that the batch spans
