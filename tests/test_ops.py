"""The operations that run against the obvious ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skchoice.ops import coarse, eager, reference
from skchoice.ops.coarse import CoarseInputs

quick = settings(max_examples=80, deadline=None)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


class Bags(NamedTuple):
    """Bags of rows of a table."""

    table: torch.Tensor
    index: torch.Tensor
    pointers: torch.Tensor
    weights: torch.Tensor
    upstream: torch.Tensor

    def to(self, dtype):
        return Bags(
            self.table.to(dtype),
            self.index,
            self.pointers,
            self.weights.to(dtype),
            self.upstream.to(dtype),
        )


@st.composite
def bags(draw):
    sizes = draw(st.lists(st.sampled_from([0, 0, 1, 2, 5, 17]), min_size=1, max_size=9))
    n_table, d = draw(st.integers(1, 12)), draw(st.sampled_from([1, 3, 7, 8, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    normal = torch.from_numpy(rng.standard_normal((n_table + len(sizes), d)))
    return Bags(
        table=normal[:n_table],
        index=torch.from_numpy(rng.integers(0, n_table, sum(sizes))).int(),
        pointers=torch.tensor([0, *np.cumsum(sizes)]).int(),
        weights=torch.from_numpy(rng.standard_normal(sum(sizes))),
        upstream=normal[n_table:],
    )


def assert_close(actual, expected, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@every_dtype
@quick
@given(bags=bags())
def test_bag_sum(dtype, bags):
    bags = bags.to(dtype)
    arguments = bags.table, bags.index, bags.pointers, bags.weights
    sums = eager.bag_sum(*arguments)
    assert_close(sums, reference.bag_sum(*arguments), dtype)
    by_hand = torch.zeros(len(bags.pointers) - 1, bags.table.shape[1], dtype=dtype)
    for bag in range(len(by_hand)):
        for member in range(bags.pointers[bag], bags.pointers[bag + 1]):
            by_hand[bag] += bags.weights[member] * bags.table[bags.index[member]]
    assert_close(sums, by_hand, dtype)


@every_dtype
@quick
@given(bags=bags())
def test_pair_dots(dtype, bags):
    bags = bags.to(dtype)
    of_member = torch.repeat_interleave(bags.pointers.diff()).int()
    arguments = bags.upstream, bags.table, of_member, bags.index
    dots = eager.pair_dots(*arguments)
    assert_close(dots, reference.pair_dots(*arguments), dtype)
    # It is the gradient of bag_sum with respect to the weights.
    weights = bags.weights.clone().requires_grad_()
    sums = reference.bag_sum(bags.table, bags.index, bags.pointers, weights)
    (gradient,) = torch.autograd.grad(sums, weights, bags.upstream)
    assert_close(dots, gradient, dtype)


@every_dtype
def test_bags_of_thousands_of_members(dtype):
    rng = np.random.default_rng(0)
    sizes = [0, 3000, 1, 0, 0, 700, 0]
    bags = Bags(
        torch.from_numpy(rng.standard_normal((257, 65))),
        torch.from_numpy(rng.integers(0, 257, sum(sizes))).int(),
        torch.tensor([0, *np.cumsum(sizes)]).int(),
        torch.from_numpy(rng.standard_normal(sum(sizes))),
        torch.from_numpy(rng.standard_normal((len(sizes), 65))),
    ).to(dtype)
    arguments = bags.table, bags.index, bags.pointers, bags.weights
    sums, expected = eager.bag_sum(*arguments), reference.bag_sum(*arguments)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=2e-4)
    assert (sums[[0, 3, 4, 6]] == 0).all()
    of_member = torch.repeat_interleave(bags.pointers.diff()).int()
    arguments = bags.upstream, bags.table, of_member, bags.index
    assert_close(eager.pair_dots(*arguments), reference.pair_dots(*arguments), dtype)


# --------------------------------------------------------------------------- find_hits


class Screen(NamedTuple):
    """A tile before its bias, and thresholds to screen it with."""

    tile: torch.Tensor
    bias: torch.Tensor
    threshold: torch.Tensor

    def to(self, dtype):
        return Screen(*(tensor.to(dtype, copy=True) for tensor in self))


@st.composite
def screens(draw):
    height = draw(st.integers(1, 9))
    # Columns that fill blocks are screened a block at a time.
    width = draw(st.integers(1, 9) | st.sampled_from([eager._BLOCK, 3 * eager._BLOCK]))
    of_threshold = draw(st.sampled_from([(1, 1), (height, 1), (1, width)]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    values = [-np.inf, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, np.nan]
    biases = draw(st.sampled_from([[0.0], [0.0, -0.5, 1.0], [1e6, -1e6], [1 / 3]]))
    thresholds = [0.25, 0.5, 1.0, 4 / 3, 1e6, np.inf]
    return Screen(
        torch.from_numpy(rng.choice(values, (height, width))),
        torch.from_numpy(rng.choice(biases, (height, 1))),
        torch.from_numpy(rng.choice(thresholds, of_threshold)),
    )


@every_dtype
@settings(max_examples=200, deadline=None)
@given(screen=screens())
def test_find_hits(dtype, screen):
    hits = eager.find_hits(*screen.to(dtype))
    expected = reference.find_hits(*screen.to(dtype))
    for found, reached in zip(hits, expected, strict=True):
        torch.testing.assert_close(found, reached, rtol=0, atol=0)
    tile, bias, threshold = screen.to(dtype)
    by_hand = [
        (i, j)
        for i in range(tile.shape[0])
        for j in range(tile.shape[1])
        if tile[i, j] + bias[i, 0] >= threshold.expand(tile.shape)[i, j]
    ]
    assert list(zip(hits[0].tolist(), hits[1].tolist(), strict=True)) == by_hand
    assert hits[2].dtype == dtype


@quick
@given(screen=screens(), gap=st.integers(1, 9))
def test_find_hits_where_rows_lie_apart(screen, gap):
    n_rows, width = screen.tile.shape
    # More of a row than the tile holds: there all would be hits.
    wider = torch.full((n_rows, width + (gap if width % eager._BLOCK else 0)), 2e9)
    wider = wider.to(screen.tile.dtype)
    wider[:, :width] = screen.tile
    hits = eager.find_hits(wider[:, :width], screen.bias, screen.threshold)
    expected = reference.find_hits(*screen)
    for found, reached in zip(hits, expected, strict=True):
        torch.testing.assert_close(found, reached, rtol=0, atol=0)


@every_dtype
@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("width", [50, 2 * eager._BLOCK])
def test_find_hits_where_every_rounding_counts(dtype, axis, width):
    # The thresholds are entries of the biased tile: they must be found.
    rng = np.random.default_rng(0)
    tile = torch.from_numpy(rng.standard_normal((60, width))).to(dtype)
    bias = torch.from_numpy(rng.standard_normal((60, 1)) * 10.0 ** rng.integers(-4, 5))
    bias = bias.to(dtype)
    biased = tile + bias
    threshold = biased[:1, :1] if axis is None else biased.median(axis, True).values
    screen = Screen(tile, bias, threshold)
    hits = eager.find_hits(*screen.to(dtype))
    for found, reached in zip(hits, reference.find_hits(*screen), strict=True):
        torch.testing.assert_close(found, reached, rtol=0, atol=0)


@every_dtype
def test_find_hits_tells_the_smallest_positive_from_zero(dtype):
    zero = torch.zeros((), dtype=dtype)
    smallest = torch.nextafter(zero, torch.ones((), dtype=dtype))
    tile = torch.stack([zero, smallest, -smallest, -zero]).view(2, 2)
    for shape in ((1, 1), (2, 1), (1, 2)):
        threshold = smallest.expand(shape)
        rows, columns, values = eager.find_hits(
            tile.clone(), torch.zeros(2, 1, dtype=dtype), threshold
        )
        assert (rows.tolist(), columns.tolist()) == ([0], [1])
        assert values.item() == smallest > 0


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_hits_outlive_the_tile(bias):
    tile = torch.arange(6.0).view(2, 3)
    threshold = torch.tensor([[2.0 + bias]])
    _, _, values = eager.find_hits(tile, torch.full((2, 1), bias), threshold)
    tile.fill_(-1.0)
    assert (values - bias).tolist() == [2.0, 3.0, 4.0, 5.0]


# ------------------------------------------------------------------ find_hits, coarse


def coarse_hits(weight, bias, inputs, threshold):
    inputs = CoarseInputs(inputs)
    out = torch.empty(len(weight), len(inputs.inputs), dtype=torch.bfloat16)
    bounds = coarse.upper_bounds(weight, bias, inputs, out)
    return coarse.find_hits(bounds, weight, bias, inputs.inputs, threshold)


@pytest.mark.parametrize("share", [0.5, 0.05, 0.001])
@pytest.mark.parametrize("bias_scale", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 30, 7), (300, 200, 65)])
def test_the_coarse_screen_loses_nothing(shape, bias_scale, share):
    height, width, d = shape
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal((height, d))).float()
    inputs = torch.from_numpy(rng.standard_normal((width, d))).float()
    inputs = torch.nn.functional.normalize(inputs, dim=1)
    bias = torch.from_numpy(bias_scale * rng.standard_normal((height, 1))).float()
    exact = weight @ inputs.T + bias
    for threshold in (
        exact.view(-1).quantile(1 - share).view(1, 1),
        exact.quantile(1 - share, dim=1, keepdim=True),
        exact.quantile(1 - share, dim=0, keepdim=True),
        torch.full((height, 1), torch.finfo(torch.float32).tiny),
        torch.full((1, 1), torch.inf),
    ):
        threshold = threshold.clamp(min=torch.finfo(torch.float32).tiny)
        rows, columns, values = coarse_hits(weight, bias, inputs, threshold)
        # The two float32 products may differ in their last places, and no more.
        rounding = 1e-5
        torch.testing.assert_close(
            values, exact[rows, columns], rtol=rounding, atol=rounding
        )
        found = torch.zeros(height, width, dtype=torch.bool)
        found[rows, columns] = True
        assert found[exact >= threshold + rounding].all()
        assert not found[exact < threshold - rounding].any()
        assert (values >= threshold.expand(height, width)[rows, columns]).all()
        assert len(rows) == found.sum(), "a hit was found twice"
        for row in range(height):
            assert (columns[rows == row].diff() > 0).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_rows_with_many_hits_and_with_few(share, monkeypatch):
    # They are computed in two ways, whose results are put together.
    monkeypatch.setattr(coarse, "_MANY", share)
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal((60, 9))).float()
    inputs = torch.from_numpy(rng.standard_normal((50, 9))).float()
    bias = torch.linspace(-20.0, 20.0, 60)[:, None]
    exact = weight @ inputs.T + bias
    threshold = torch.full((60, 1), 1.0)
    rows, columns, values = coarse_hits(weight, bias, inputs, threshold)
    expected = (exact >= threshold).nonzero()
    n_hits = expected[:, 0].bincount(minlength=60)
    assert (n_hits == 0).any() and (n_hits == 50).any()
    order = (rows * 50 + columns).argsort()
    found = torch.stack([rows, columns], 1)[order]
    assert torch.equal(found.long(), expected)
    torch.testing.assert_close(values[order], exact[exact >= threshold])


@pytest.mark.parametrize("d", [1, 8, 64])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_coarse_screen_loses_nothing_to_a_bias_that_nearly_cancels(scale, d):
    # Each row looks along one input, and its bias takes away almost all of the product:
    # what is left is small beside what bfloat16 rounds off the bias.
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((300, d))).float()
    inputs = torch.nn.functional.normalize(inputs, dim=1)
    noise = 0.02 * torch.from_numpy(rng.standard_normal((2000, d))).float()
    weight = scale * (inputs[torch.from_numpy(rng.integers(0, 300, 2000))] + noise)
    product = weight @ inputs.T
    share = torch.from_numpy(0.98 + 0.02 * rng.random((2000, 1))).float()
    bias = -share * product.amax(1, keepdim=True)
    exact = product + bias
    for threshold in (1e-4, 1e-2):
        rows, columns, _ = coarse_hits(
            weight, bias, inputs, torch.tensor([[threshold]])
        )
        found = torch.zeros(2000, 300, dtype=torch.bool)
        found[rows, columns] = True
        assert (exact >= threshold + 1e-5).sum() > 500
        assert found[exact >= threshold + 1e-5].all()


def test_the_coarse_screen_finds_what_rounding_hides():
    # Rounded to bfloat16 all products are 1, though one is over a threshold of 1 and
    # another is not.
    weight = torch.tensor([[1.003, 0.0], [0.999, 0.0], [1.0039, 0.0]])
    inputs = torch.tensor([[1.0, 0.0]])
    assert weight.bfloat16()[:, 0].tolist() == [1.0, 1.0, 1.0]
    for threshold, expected in ((1.0, [0, 2]), (1.0035, [2]), (0.9, [0, 1, 2])):
        rows, _, values = coarse_hits(
            weight, torch.zeros(3, 1), inputs, torch.tensor([[threshold]])
        )
        assert rows.tolist() == expected
        torch.testing.assert_close(values, weight[expected, 0], rtol=0, atol=0)


def test_the_coarse_screen_knows_the_rounding_of_a_large_bias():
    # Next to a bias of 2^19 a product of 0.04 counts as 0.0625, or as nothing.
    weight, inputs = torch.tensor([[0.04], [0.02]]), torch.ones(1, 1)
    bias = torch.full((2, 1), 2.0**19)
    exact = weight @ inputs.T + bias
    threshold = torch.tensor([[2.0**19 + 0.0625]])
    assert (exact >= threshold).view(-1).tolist() == [True, False]
    rows, _, _ = coarse_hits(weight, bias, inputs, threshold)
    assert rows.tolist() == [0]
