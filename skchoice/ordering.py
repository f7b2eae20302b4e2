"""Sorting candidates: by group, then by falling value, then by member.

A group is what a cap holds for and a member is a pair's number within its group, so no
two candidates are alike and there is one right order. The CPU sorts digit by digit: by
member, then by value, then by group. Elsewhere, where group, value and member fit into
63 bits together, that integer is the key of one sort.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skchoice.ops import eager

_VALUE_BITS = 31  # of a positive float32
_LARGEST = 2**_VALUE_BITS - 1
_DIGIT_BITS = 16  # of such integers numpy's stable sort counts digits too
# So many integers of more digits torch sorts faster, which compares fewer.
_MANY = 1 << 15


class Ranked(NamedTuple):
    """Candidates with a key each, by which they are in order."""

    groups: Tensor  # (n,)
    keys: Tensor  # (n,) int64, of each candidate as it came
    at: Callable[[Tensor], Tensor]  # the keys at some places of their order
    starts: Tensor  # (n_groups + 1,) int64, where each group begins in it
    values: Callable[[Tensor], Tensor]  # of some keys

    def counts(self) -> Tensor:
        """Return the number of candidates of each group."""
        return self.starts.diff()

    def largest(self, caps: Tensor) -> Tensor:
        """Return the positions of each group's largest, up to its cap, ascending."""
        last = self._at(torch.minimum(caps, self.counts()))
        # Positions, not a mask: a mask is searched anew by each array it selects from.
        return (self.keys <= last.index_select(0, self.groups)).nonzero().view(-1)

    def value(self, number: Tensor) -> Tensor:
        """Return each group's ``number``-th largest value, from 1; else 0."""
        keys = self._at(number)
        return torch.where(keys >= 0, self.values(keys.clamp(min=0)), 0.0)

    def _at(self, number: Tensor) -> Tensor:
        """Return each group's ``number``-th key, from 1; else -1."""
        if not len(self.keys):
            return torch.full_like(number, -1)
        there = (number >= 1) & (number <= self.counts())
        place = torch.where(there, self.starts[:-1] + number - 1, 0)
        return torch.where(there, self.at(place), -1)


def rank(
    groups: Tensor,
    members: Tensor,
    values: Tensor,
    n_groups: int,
    n_members: int,
    in_order: bool = False,
) -> Ranked:
    """Find the order of candidates.

    Parameters
    ----------
    groups : integer Tensor of shape (n,), in ``range(n_groups)``
    members : integer Tensor of shape (n,), in ``range(n_members)``
        Distinct within a group.
    values : Tensor of shape (n,), positive
    n_groups, n_members : int
    in_order : bool, default=False
        Whether within each group the members ascend as they come.

    Returns
    -------
    Ranked

    Examples
    --------
    >>> import torch
    >>> from skchoice.ordering import rank
    >>> groups, members = torch.tensor([1, 0, 1]), torch.tensor([0, 2, 1])
    >>> ranked = rank(groups, members, torch.tensor([5.0, 1.0, 7.0]), 2, 3)
    >>> ranked.largest(torch.tensor([1, 1]))
    tensor([1, 2])
    """
    member_bits = (n_members - 1).bit_length()
    shift = _VALUE_BITS + member_bits
    on_cpu = groups.device.type == "cpu"
    fits = values.dtype == torch.float32 and n_groups.bit_length() + shift <= 63
    if fits:
        # The bits of positive floats sort as the floats do.
        keys = groups.to(torch.int64, copy=True)
        keys <<= _VALUE_BITS
        keys |= _LARGEST - values.view(torch.int32)
        keys <<= member_bits
        keys |= members
        numbers = torch.arange(n_groups + 1, device=groups.device)
        if on_cpu and n_groups == 1:
            at, starts = _selection(keys), numbers * len(keys)
        else:
            ordered = _sorted(keys)
            at = ordered.__getitem__
            starts = torch.searchsorted(ordered, numbers << shift)

        def value(some: Tensor) -> Tensor:
            falling = (some >> member_bits) & _LARGEST
            return (_LARGEST - falling).int().view(torch.float32)

        return Ranked(groups, keys, at, starts, value)
    if in_order:
        order = _falling(values)
    else:
        order = ascending(members, n_members)
        order = order.index_select(0, _falling(values.index_select(0, order)))
    order = order.index_select(0, ascending(groups.index_select(0, order), n_groups))
    places = torch.arange(len(order), device=groups.device)
    keys = torch.empty_like(places).scatter_(0, order, places)
    starts = torch.nn.functional.pad(eager.counts(groups, n_groups).cumsum(0), (1, 0))
    largest_first = values.index_select(0, order) if len(order) else values.new_zeros(1)
    return Ranked(groups, keys, places.__getitem__, starts, largest_first.__getitem__)


def _sorted(keys: Tensor) -> Tensor:
    if keys.device.type == "cpu":
        return torch.from_numpy(np.sort(keys.numpy()))
    return keys.sort().values


def _selection(keys: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the keys at some places of their order without sorting them all.

    That takes a fraction of the time where the places are few.
    """

    def at(places: Tensor) -> Tensor:
        which = places.numpy()
        return torch.from_numpy(np.partition(keys.numpy(), which)[which])

    return at


def by_group_and_member(
    groups: Tensor, members: Tensor, values: Tensor, n_groups: int, n_members: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return pairs in the order of their groups, within a group of their members.

    Parameters
    ----------
    groups, members : integer Tensors of shape (n,)
    values : Tensor of shape (n,), positive
    n_groups, n_members : int

    Returns
    -------
    groups, members, values : Tensors of shape (n,)
    """
    member_bits = (n_members - 1).bit_length()
    keys = (groups.long() << member_bits) | members
    # To ask a device for that would take as long as to sort.
    if keys.device.type == "cpu" and (keys[1:] > keys[:-1]).all():
        return groups, members, values
    fits = n_groups.bit_length() + member_bits + _VALUE_BITS <= 63
    if fits and values.dtype == torch.float32:
        keys = _sorted((keys << _VALUE_BITS) | values.view(torch.int32))
        values = (keys & _LARGEST).int().view(torch.float32)
        keys >>= _VALUE_BITS
        return keys >> member_bits, keys & ((1 << member_bits) - 1), values
    order = ascending(members, n_members)
    order = order.index_select(0, ascending(groups.index_select(0, order), n_groups))
    return (
        groups.index_select(0, order),
        members.index_select(0, order),
        values.index_select(0, order),
    )


def ascending(numbers: Tensor, limit: int) -> Tensor:
    """Return the stable order that sorts integers in ``range(limit)``, int64."""
    n_bits = max(1, (limit - 1).bit_length())
    many = len(numbers) >= _MANY and n_bits > _DIGIT_BITS
    if many or numbers.device.type != "cpu":
        small = numbers.int() if n_bits < 32 else numbers
        return small.sort(stable=True).indices
    digits = numbers.numpy()
    order = np.argsort(digits.astype(np.uint16), kind="stable")
    for shift in range(_DIGIT_BITS, n_bits, _DIGIT_BITS):
        digit = (digits >> shift).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return torch.from_numpy(order)


def _falling(values: Tensor) -> Tensor:
    """Return the stable order of positive values, the largest first."""
    if values.dtype == torch.float32:
        return ascending(_LARGEST - values.view(torch.int32), 1 << _VALUE_BITS)
    return values.argsort(descending=True, stable=True)
