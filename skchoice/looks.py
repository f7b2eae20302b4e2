"""Looking for candidates: what reaches a threshold, and a lower one where that is few.

How :func:`skchoice.allocation.allocate` finds matches: *screen*, *certify*, *trim*.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skchoice.affinities import Tiles
from skchoice.ordering import Ranked, rank
from skchoice.rules import FALL, Rule

# A group that was short is looked at again with a threshold that its number of
# candidates tells, then with this factor on another such, and in the end without one:
# at once where a second look showed less than this share of its cap.
_RETRY_FACTOR = 0.7
_LAST_LOOK = 3
_HARDLY_ANY = 0.1
# The candidates are cut back whenever they outnumber the budget by this factor ...
_OVERFLOW = 3
# ... and are more than this many: below, cutting costs more than it saves.
_MIN_OVERFLOW = 1 << 17


class Looks:
    """What looking at the groups has shown, and the matches of those settled.

    A group is settled once it has as many candidates as its cap, or all it has.
    """

    _PER_GROUP = ("thresholds", "counts", "n_looks", "unsettled", "exhausted", "cuts")

    def __init__(self, rule: Rule, caps: Tensor, thresholds: Tensor, budget: int):
        self.rule, self.caps, self.thresholds = rule, caps, thresholds
        self._budget = budget  # no less than the sum of the caps
        self.counts = torch.zeros_like(caps)  # candidates that the first look found
        self.n_looks = torch.zeros_like(caps)
        self.unsettled = torch.ones_like(caps, dtype=torch.bool)
        self.exhausted = torch.zeros_like(self.unsettled)
        self.cuts = torch.zeros_like(thresholds)
        # In one piece from the start: what is kept of many tiles would lie scattered
        # between what each needs for a while, and memory would grow with their number.
        ids = torch.empty(budget, dtype=torch.int32, device=caps.device)
        values = torch.empty_like(ids, dtype=thresholds.dtype)
        self._room, self._n_kept = Found(ids, torch.empty_like(ids), values), 0

    def look(self, affinities: Tiles, restriction: dict[str, Tensor]) -> None:
        """Look once, and lower the thresholds of those left unsettled."""
        found, thresholds, dropped = _screen(
            affinities,
            self.rule,
            self.caps,
            self.thresholds,
            self._budget,
            restriction,
        )
        ranked = found.ranked(self.rule, affinities.shape, len(self.caps))
        here, caps = ranked.counts(), self.caps
        self.counts = torch.where(self.n_looks == 0, here + dropped, self.counts)
        done = self.unsettled & ((here >= caps) | (thresholds == 0))
        self.exhausted |= done & (here < caps)
        self._keep(found.some(ranked.largest(torch.where(done, caps, 0))))
        cut = torch.where(here >= caps, ranked.value(caps), 0.0)
        # Where candidates overflowed, the cut is no lower than what they raised.
        cut = torch.where(dropped > 0, torch.maximum(cut, thresholds), cut)
        self.cuts = torch.where(done, cut, self.cuts)
        last = (self.n_looks > 0) & (here < _HARDLY_ANY * caps)
        last |= self.n_looks >= _LAST_LOOK - 1
        factor = torch.where(last, 0.0, _RETRY_FACTOR**self.n_looks)
        wanted = self.rule.second_look * (caps + 1.0) + 1.0
        room = ((here + 0.5) / wanted).pow(1 / FALL).clamp(max=0.95)
        self.n_looks += self.unsettled
        self.unsettled &= ~done
        lower = thresholds * (room * factor).to(thresholds.dtype)
        self.thresholds = torch.where(self.unsettled, lower, torch.inf)

    def settle(self, affinities: Tiles) -> None:
        """Look until all groups are settled."""
        self.look(affinities, {})
        while len(left := self.unsettled.nonzero().view(-1)):
            self.look(affinities, self.rule.restriction(left))

    def of_features(self, features: range) -> Looks:
        """Return looks at some groups yet to come, where each is of one feature."""
        here = slice(features.start, features.stop)
        return Looks(self.rule, self.caps[here], self.thresholds[here], self._budget)

    def add(self, own: Looks, features: range) -> None:
        """Take over what is known now of some groups, and their matches."""
        for name in self._PER_GROUP:
            getattr(self, name)[features.start : features.stop] = getattr(own, name)
        kept = own.matches()
        self._keep(kept._replace(features=kept.features + features.start))

    def _keep(self, found: Found) -> None:
        stop = self._n_kept + len(found.values)
        for room, array in zip(self._room, found, strict=True):
            room[self._n_kept : stop] = array
        self._n_kept = stop

    def matches(self) -> Found:
        """Return the matches of the groups settled so far, in no order."""
        return Found(*(room[: self._n_kept] for room in self._room))


class Found(NamedTuple):
    """Candidates: pairs with their affinities."""

    tokens: Tensor  # int32, since there may be many
    features: Tensor
    values: Tensor

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        """Return the candidates of all parts."""
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def some(self, positions: Tensor) -> Found:
        """Return those at some positions."""
        return Found(*(array.index_select(0, positions) for array in self))

    def ranked(self, rule: Rule, shape: tuple[int, int], n_groups: int) -> Ranked:
        """Return their order under a rule."""
        groups = rule.groups(self.tokens, self.features)
        members = rule.members(self.tokens, self.features, shape[1])
        n_members = shape[0] * shape[1] // max(1, n_groups)
        in_order = rule.by_feature  # hits of a feature come in the order of tokens
        return rank(groups, members, self.values, n_groups, n_members, in_order)


def _screen(
    affinities: Tiles,
    rule: Rule,
    caps: Tensor,
    thresholds: Tensor,
    budget: int,
    restriction: dict[str, Tensor],
) -> tuple[Found, Tensor, Tensor]:
    """Collect the pairs that reach their group's threshold.

    Returns
    -------
    found : Found
    thresholds : Tensor of shape (n_groups,)
        As given, or raised.
    dropped : int64 Tensor of shape (n_groups,)
        Candidates that reached the given thresholds and not the raised ones.
    """
    n_features = affinities.shape[1]
    infinity = torch.full_like(thresholds, torch.inf)
    # What the affinities must reach: more than 0, and at least the thresholds.
    least = torch.nextafter(torch.zeros_like(thresholds), infinity).maximum(thresholds)
    limit = max(_OVERFLOW * budget, _MIN_OVERFLOW)
    whole = affinities.one_chunk and not restriction
    first = rule.first_look(n_features) if whole else None
    parts: list[Found] = []
    n_seen = n_seen_at_raise = 0
    dropped = torch.zeros_like(caps)
    for tile, features, tokens in affinities.tiles(**restriction, first=first):
        for block in tile.blocks():
            of_block = tokens[block]
            over = rule.over_tile(least, features, of_block)
            rows, columns, values = tile.hits(over, block)
            tokens_found = of_block.int().index_select(0, columns)
            features_found = features.int().index_select(0, rows)
            parts.append(Found(tokens_found, features_found, values))
            if sum(len(part.values) for part in parts) > limit:
                found, parts = Found.joined(parts), []
                ranked = found.ranked(rule, affinities.shape, len(caps))
                parts = [found.some(ranked.largest(caps))]
                dropped += (ranked.counts() - caps).clamp(min=0)
                # Below the cut of a full group nothing can match, and of its members
                # that are yet to come nothing at the cut either.
                cuts = ranked.value(caps)
                thresholds = thresholds.maximum(cuts)
                past = torch.nextafter(cuts, infinity) if rule.in_order else cuts
                least = least.maximum(torch.where(cuts > 0, past, 0.0))
                del found, ranked  # the next tile may need as much
        n_seen += len(features)
        raising = first is not None and n_seen < n_features
        if raising and n_seen >= 2 * n_seen_at_raise:
            n_seen_at_raise = n_seen
            found, parts = Found.joined(parts), []
            ranked = found.ranked(rule, affinities.shape, len(caps))
            thresholds = rule.raised(thresholds, ranked, n_seen / n_features)
            least = least.maximum(thresholds)
            left = found.values >= thresholds[ranked.groups]
            parts = [found.some(left.nonzero().view(-1))]
            dropped += torch.bincount(ranked.groups[~left], minlength=len(caps))
            del found, ranked
    return Found.joined(parts), thresholds, dropped
