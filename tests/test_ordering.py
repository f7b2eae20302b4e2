"""The order of candidates, by one sort of integers and by three stable sorts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skchoice import ordering
from skchoice.ordering import ascending, by_group_and_member, rank

SCALES = {"one": 1.0, "huge": 1e30, "subnormal": 2.0**-140}
# Few members fit into a key of 63 bits beside a float32, many do not.
every_form = pytest.mark.parametrize(
    ("dtype", "n_members"),
    [(torch.float32, 7), (torch.float32, 2**31), (torch.float64, 7)],
)
quick = settings(max_examples=60, deadline=None)
pairs_with_values = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 6)), st.integers(1, 4), max_size=30
).flatmap(lambda found: st.permutations(list(found.items())))


def tensors(found, dtype, scale):
    groups = torch.tensor([group for (group, _), _ in found], dtype=torch.int64)
    members = torch.tensor([member for (_, member), _ in found], dtype=torch.int64)
    values = torch.tensor([value for _, value in found], dtype=torch.float64) * scale
    return groups, members, values.to(dtype)


@every_form
@quick
@given(
    found=pairs_with_values,
    scale=st.sampled_from(list(SCALES.values())),
    caps=st.lists(st.integers(0, 8), min_size=5, max_size=5),
)
def test_the_largest_of_each_group(dtype, n_members, found, scale, caps):
    groups, members, values = tensors(found, dtype, scale)
    ranked = rank(groups, members, values, 5, n_members)
    in_order = {
        group: sorted(
            (n for n in range(len(found)) if groups[n] == group),
            key=lambda n: (-values[n], members[n]),
        )
        for group in range(5)
    }
    assert ranked.counts().tolist() == [len(in_order[group]) for group in range(5)]
    kept = ranked.largest(torch.tensor(caps))
    assert kept.tolist() == sorted(
        n for group in range(5) for n in in_order[group][: caps[group]]
    )
    for group, number in enumerate(caps):
        there = 1 <= number <= len(in_order[group])
        expected = values[in_order[group][number - 1]] if there else 0.0
        assert ranked.value(torch.tensor(caps))[group] == expected
    assert ranked.value(torch.tensor(caps)).dtype == dtype


@every_form
@quick
@given(found=pairs_with_values, scale=st.sampled_from(list(SCALES.values())))
def test_by_group_and_member(dtype, n_members, found, scale):
    groups, members, values = tensors(found, dtype, scale)
    order = sorted(range(len(found)), key=lambda n: (groups[n], members[n]))
    arrays = by_group_and_member(groups, members, values, 5, n_members)
    for array, given_ in zip(arrays, (groups, members, values), strict=True):
        torch.testing.assert_close(array, given_[order], rtol=0, atol=0)


@pytest.mark.parametrize("n", [0, 1, 100, ordering._MANY - 1, ordering._MANY, 100_000])
def test_few_and_many_are_sorted_in_different_ways(n):
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(50, (n,), generator=generator)
    members = torch.randperm(max(1, n), generator=generator)[:n]
    values = torch.rand(n, generator=generator) + 0.5
    order = ascending(groups)
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
