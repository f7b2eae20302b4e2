"""The order of candidates, digit by digit and by one sort of integers."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from other_device import DEVICE, OtherDevice

from skchoice import ordering
from skchoice.ordering import ascending, by_group_and_member, rank

SCALES = {"one": 1.0, "huge": 1e30, "subnormal": 2.0**-140}
# A device sorts by one key of 63 bits where few members fit into it beside a float32.
every_place = pytest.mark.parametrize("device", [torch.device("cpu"), DEVICE])
every_form = pytest.mark.parametrize(
    ("dtype", "n_members"),
    [(torch.float32, 7), (torch.float32, 2**31), (torch.float64, 7)],
)
quick = settings(max_examples=60, deadline=None)
pairs_with_values = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 6)), st.integers(1, 4), max_size=30
).flatmap(lambda found: st.permutations(list(found.items())))


def on(device):
    return OtherDevice() if device == DEVICE else nullcontext()


def tensors(found, dtype, scale):
    groups = torch.tensor([group for (group, _), _ in found], dtype=torch.int64)
    members = torch.tensor([member for (_, member), _ in found], dtype=torch.int64)
    values = torch.tensor([value for _, value in found], dtype=torch.float64) * scale
    return groups, members, values.to(dtype)


@every_place
@every_form
@quick
@given(
    found=pairs_with_values,
    scale=st.sampled_from(list(SCALES.values())),
    caps=st.lists(st.integers(0, 8), min_size=5, max_size=5),
    in_order=st.booleans(),
)
def test_the_largest_of_each_group(
    device, dtype, n_members, found, scale, caps, in_order
):
    if in_order:
        found = sorted(found, key=lambda one: one[0][1])
    groups, members, values = tensors(found, dtype, scale)
    expected = {
        group: sorted(
            (n for n in range(len(found)) if groups[n] == group),
            key=lambda n: (-values[n], members[n]),
        )
        for group in range(5)
    }
    with on(device):
        there = (array.to(device) for array in (groups, members, values))
        ranked = rank(*there, 5, n_members, in_order)
        counts = ranked.counts().cpu().tolist()
        kept = ranked.largest(torch.tensor(caps).to(device)).cpu().tolist()
        at_caps = ranked.value(torch.tensor(caps).to(device)).cpu()
    assert counts == [len(expected[group]) for group in range(5)]
    assert kept == sorted(
        n for group in range(5) for n in expected[group][: caps[group]]
    )
    assert at_caps.dtype == dtype
    for group, number in enumerate(caps):
        reached = 1 <= number <= len(expected[group])
        value = values[expected[group][number - 1]] if reached else 0.0
        assert at_caps[group] == value


@every_place
@every_form
@quick
@given(found=pairs_with_values, scale=st.sampled_from(list(SCALES.values())))
def test_by_group_and_member(device, dtype, n_members, found, scale):
    groups, members, values = tensors(found, dtype, scale)
    order = sorted(range(len(found)), key=lambda n: (groups[n], members[n]))
    with on(device):
        there = (array.to(device) for array in (groups, members, values))
        arrays = by_group_and_member(*there, 5, n_members)
        arrays = tuple(array.cpu() for array in arrays)
    for array, given_ in zip(arrays, (groups, members, values), strict=True):
        torch.testing.assert_close(array, given_[order], rtol=0, atol=0)


@pytest.mark.parametrize("n", [0, 1, 1000, ordering._MANY])
@pytest.mark.parametrize("n_bits", [0, 1, 16, 17, 31, 32, 33, 48, 63])
def test_the_stable_order_of_integers_of_any_size(n, n_bits):
    generator = torch.Generator().manual_seed(n_bits)
    limit = min(2**n_bits, 2**63 - 1)
    numbers = torch.randint(limit, (n,), generator=generator)
    few = numbers >> (n_bits - 1 if n_bits else 0)  # 0 or 1, so that many are equal
    for some in (numbers, few, few << max(0, n_bits - 1)):
        order = ascending(some, 2**n_bits)
        assert torch.equal(order, some.sort(stable=True).indices)


@pytest.mark.parametrize("n", [0, 1, 100, ordering._MANY - 1, ordering._MANY, 100_000])
def test_few_and_many_are_sorted_in_different_ways(n):
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(50, (n,), generator=generator)
    members = torch.randperm(max(1, n), generator=generator)[:n]
    values = torch.rand(n, generator=generator) + 0.5
    order = ascending(groups, 50)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert (groups[order].diff() >= 0).all()
    arrays = by_group_and_member(groups, members, values, 50, max(1, n))
    order = (groups * max(1, n) + members).argsort()
    for array, given_ in zip(arrays, (groups, members, values), strict=True):
        torch.testing.assert_close(array, given_[order], rtol=0, atol=0)
    ranked = rank(groups, members, values, 50, max(1, n))
    caps = torch.arange(50)
    expected = torch.zeros(50)
    for group in range(50):
        own = values[groups == group].sort(descending=True).values
        if 1 <= caps[group] <= len(own):
            expected[group] = own[caps[group] - 1]
    assert torch.equal(ranked.value(caps), expected)
