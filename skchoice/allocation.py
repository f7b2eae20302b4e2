"""Selecting the matches of a batch from affinities that arrive tile by tile.

:func:`select` is the dense definition of what a rule keeps. :func:`allocate` gives the
same matches and never holds more than a tile: *screen* what reaches a threshold,
*certify* that every group has enough, else lower its threshold and look again, then
*trim* to the caps. If at least cap entries of a group reach a threshold, the group's
largest cap entries are among them: that is why the result is exact whatever the
threshold was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skchoice.codes import SparseCodes
from skchoice.ordering import Ranked, rank
from skchoice.rules import FALL, Rule

# A group that was short is looked at again with these factors on its threshold, beside
# what its number of candidates tells, and in the end without a threshold.
_RETRY_FACTORS = (1.0, 0.7, 0.0)
# The candidates are cut back whenever they outnumber the budget by this factor ...
_OVERFLOW = 4
# ... and are more than this many: below, cutting costs more than it saves.
_MIN_OVERFLOW = 1 << 20


class Tile(Protocol):
    """Affinities of some features to some tokens."""

    def hits(self, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where affinities reach a threshold, and these affinities.

        The positions, of features and of tokens, count within the tile; the threshold
        broadcasts to (n_features_in_tile, n_tokens_in_tile).
        """

    def part(self, features: Tensor) -> Tile:
        """Return the tile of some of the features, given by their positions.

        It is a copy, which holds longer than the tile.
        """

    @classmethod
    def joined(cls, parts: Sequence[Any]) -> Tile:
        """Return one tile of the features of several, which are of the same tokens."""


class Tiles(Protocol):
    """Source of tiles that together hold every pair once."""

    shape: tuple[int, int]  # (n_tokens, n_features)
    device: torch.device
    dtype: torch.dtype
    one_chunk: bool  # whether every tile holds all tokens, if not told otherwise

    def tiles(
        self,
        features: Tensor | None = None,
        tokens: Tensor | None = None,
        first: int | None = None,
    ) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        """Yield tiles with their features and tokens, int64.

        Only those of some features or of some tokens if given; the first with at most
        ``first`` features. A tile may be used until the next is asked for.
        """


class Affinities(Tiles, Protocol):
    """Tiles of tokens whose sizes are known."""

    def token_sizes(self) -> Tensor:
        """Return the scale of each token's affinities, (n_tokens,)."""


def select(affinities: Tensor, rule: Rule) -> Tensor:
    """Return the 0/1 matches of a whole affinity matrix: the dense definition.

    Parameters
    ----------
    affinities : Tensor of shape (n_tokens, n_features)
    rule : Rule

    Returns
    -------
    bool Tensor of shape (n_tokens, n_features)

    Examples
    --------
    >>> import torch
    >>> from skchoice.allocation import select
    >>> from skchoice.rules import MutualChoice
    >>> select(torch.tensor([[3.0, 2.0], [1.0, -1.0]]), MutualChoice(k=1)).int()
    tensor([[1, 1],
            [0, 0]], dtype=torch.int32)
    """
    n_tokens, n_features = affinities.shape
    tokens = torch.arange(n_tokens).repeat_interleave(n_features)
    features = torch.arange(n_features).repeat(n_tokens)
    groups = rule.groups(tokens, features)
    left = rule.caps((n_tokens, n_features)).clone()
    values = affinities.reshape(-1)
    chosen = torch.zeros(len(values), dtype=torch.bool)
    for pair in values.argsort(descending=True, stable=True):
        if values[pair] > 0 and left[groups[pair]] > 0:
            chosen[pair] = True
            left[groups[pair]] -= 1
    return chosen.view(n_tokens, n_features)


class Allocation(NamedTuple):
    """What :func:`allocate` found."""

    matches: SparseCodes  # values are affinities
    caps: Tensor  # (n_groups,) int64
    counts: Tensor  # (n_groups,) candidates that the first look found
    retried: Tensor  # (n_groups,) bool: they were too few
    exhausted: Tensor  # (n_groups,) bool: so are the positives
    cuts: Tensor  # (n_groups,) at most the cap-th largest; 0 where there was room


def allocate(affinities: Affinities, rule: Rule, thresholds: Tensor) -> Allocation:
    """Select exactly the matches of :func:`select` from affinities in tiles.

    Parameters
    ----------
    affinities : Affinities
    rule : Rule
    thresholds : Tensor of shape (n_groups,)
        Where to start looking. Good guesses make it fast; none makes it wrong.

    Returns
    -------
    Allocation
    """
    caps = rule.caps(affinities.shape).to(affinities.device)
    finite = thresholds.nan_to_num(nan=0.0).clamp(min=0.0)
    looks = _Looks(rule, caps, torch.where(caps > 0, finite, torch.inf))
    if rule.by_feature and affinities.one_chunk:
        _look_tile_by_tile(affinities, looks)
    else:
        looks.settle(affinities)
    return looks.allocation(affinities.shape)


def _look_tile_by_tile(affinities: Affinities, looks: _Looks) -> None:
    """Look at the groups of each tile while it is at hand.

    Those that are short of candidates are kept, and looked at again together: a look
    takes as long at a few as at many.
    """
    n_features = affinities.shape[1]
    short: list[tuple[Tile, Tensor]] = []
    n_seen = n_short = 0
    for tile, features, tokens in affinities.tiles():
        own = looks.of_features(features)
        own.look(_OneTile(tile, tokens, len(features), affinities), {})
        looks.add(own, features)
        left = own.unsettled.nonzero().view(-1)
        short.append((tile.part(left), features[left]))
        n_seen, n_short = n_seen + len(features), n_short + len(left)
        if n_seen == n_features or n_short > len(features):
            parts, of_parts = zip(*short, strict=True)
            those = torch.cat(of_parts)
            own = looks.of_features(those)
            own.settle(_OneTile(tile.joined(parts), tokens, n_short, affinities))
            looks.add(own, those)
            short, n_short = [], 0


class _Looks:
    """What looking at the groups has shown, and the matches of those settled.

    A group is settled once it has as many candidates as its cap, or all it has.
    """

    _PER_GROUP = ("thresholds", "counts", "n_looks", "unsettled", "exhausted", "cuts")

    def __init__(self, rule: Rule, caps: Tensor, thresholds: Tensor):
        self.rule, self.caps, self.thresholds = rule, caps, thresholds
        self.counts = torch.zeros_like(caps)  # candidates that the first look found
        self.n_looks = torch.zeros_like(caps)
        self.unsettled = torch.ones_like(caps, dtype=torch.bool)
        self.exhausted = torch.zeros_like(self.unsettled)
        self.cuts = torch.zeros_like(thresholds)
        # In one piece from the start: what is kept of many tiles would lie scattered
        # between what each needs for a while, and memory would grow with their number.
        at_most = int(caps.sum())
        ids = torch.empty(at_most, dtype=torch.int32, device=caps.device)
        values = torch.empty_like(ids, dtype=thresholds.dtype)
        self._room, self._n_kept = _Found(ids, ids.clone(), values), 0

    def look(self, affinities: Tiles, restriction: dict[str, Tensor]) -> None:
        """Look once, and lower the thresholds of those left unsettled."""
        found, thresholds, dropped = _screen(
            affinities, self.rule, self.caps, self.thresholds, restriction
        )
        ranked = found.ranked(self.rule, affinities.shape, len(self.caps))
        here, caps = ranked.counts(), self.caps
        self.counts = torch.where(self.n_looks == 0, here + dropped, self.counts)
        done = self.unsettled & ((here >= caps) | (thresholds == 0))
        self.exhausted |= done & (here < caps)
        self._keep(found.some(ranked.largest(torch.where(done, caps, 0))))
        cut = torch.where(here > caps, ranked.value(caps), 0.0)
        # Where candidates overflowed, the cut is no lower than what they raised.
        cut = torch.where(dropped > 0, torch.maximum(cut, thresholds), cut)
        self.cuts = torch.where(done, cut, self.cuts)
        factor = thresholds.new_tensor(_RETRY_FACTORS).index_select(
            0, self.n_looks.clamp(max=len(_RETRY_FACTORS) - 1)
        )
        wanted = self.rule.second_look * (caps + 1.0) + 1.0
        room = ((here + 0.5) / wanted).pow(1 / FALL).clamp(max=0.95)
        self.n_looks += self.unsettled
        self.unsettled &= ~done
        lower = thresholds * room.to(thresholds.dtype) * factor
        self.thresholds = torch.where(self.unsettled, lower, torch.inf)

    def settle(self, affinities: Tiles) -> None:
        """Look until all groups are settled."""
        while self.unsettled.any():
            again = self.n_looks.any()
            left = self.unsettled.nonzero().view(-1)
            self.look(affinities, self.rule.restriction(left) if again else {})

    def of_features(self, features: Tensor) -> _Looks:
        """Return what is known of some groups, where each is of one feature."""
        own = _Looks(
            self.rule.of_features(features),
            self.caps[features],
            self.thresholds[features],
        )
        for name in self._PER_GROUP:
            setattr(own, name, getattr(self, name)[features])
        return own

    def add(self, own: _Looks, features: Tensor) -> None:
        """Take over what is known now of some groups, and their matches."""
        for name in self._PER_GROUP:
            getattr(self, name)[features] = getattr(own, name)
        kept = own._kept()
        self._keep(kept._replace(features=features[kept.features.long()]))

    def allocation(self, shape: tuple[int, int]) -> Allocation:
        """Return what was found, once all are settled."""
        matches = SparseCodes.sorted(*self._kept(), shape)
        retried = self.n_looks > 1
        return Allocation(
            matches, self.caps, self.counts, retried, self.exhausted, self.cuts
        )

    def _keep(self, found: _Found) -> None:
        stop = self._n_kept + len(found.values)
        for room, array in zip(self._room, found, strict=True):
            room[self._n_kept : stop] = array
        self._n_kept = stop

    def _kept(self) -> _Found:
        return _Found(*(room[: self._n_kept] for room in self._room))


class _Found(NamedTuple):
    """Candidates: pairs with their affinities."""

    tokens: Tensor
    features: Tensor
    values: Tensor

    @classmethod
    def joined(cls, parts: list[_Found]) -> _Found:
        """Return the candidates of all parts."""
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def some(self, positions: Tensor) -> _Found:
        """Return those at some positions."""
        return _Found(*(array.index_select(0, positions) for array in self))

    def ranked(self, rule: Rule, shape: tuple[int, int], n_groups: int) -> Ranked:
        """Return their order under a rule."""
        groups = rule.groups(self.tokens, self.features)
        members = rule.members(self.tokens, self.features, shape[1])
        n_members = shape[0] * shape[1] // max(1, n_groups)
        return rank(groups, members, self.values, n_groups, n_members)


def _screen(
    affinities: Tiles,
    rule: Rule,
    caps: Tensor,
    thresholds: Tensor,
    restriction: dict[str, Tensor],
) -> tuple[_Found, Tensor, Tensor]:
    """Collect the pairs that reach their group's threshold.

    Returns
    -------
    found : _Found
    thresholds : Tensor of shape (n_groups,)
        As given, or raised.
    dropped : int64 Tensor of shape (n_groups,)
        Candidates that reached the given thresholds and not the raised ones.
    """
    n_features = affinities.shape[1]
    smallest = np.nextafter(
        np.zeros((), torch.empty(0, dtype=affinities.dtype).numpy().dtype), 1
    ).item()
    limit = max(_OVERFLOW * int(caps.sum()), _MIN_OVERFLOW)
    whole = affinities.one_chunk and not restriction
    first = rule.first_look(n_features) if whole else None
    parts: list[_Found] = []
    n_seen = n_seen_at_raise = 0
    dropped = torch.zeros_like(caps)
    for tile, features, tokens in affinities.tiles(**restriction, first=first):
        over = rule.over_tile(thresholds.clamp(min=smallest), features, tokens)
        rows, columns, values = tile.hits(over)
        pairs = tokens.index_select(0, columns), features.index_select(0, rows)
        parts.append(_Found(*pairs, values))
        n_seen += len(features)
        raising = first is not None and n_seen < n_features
        if raising and n_seen >= 2 * n_seen_at_raise:
            n_seen_at_raise = n_seen
            found = _Found.joined(parts)
            ranked = found.ranked(rule, affinities.shape, len(caps))
            thresholds = rule.raised(thresholds, ranked, n_seen / n_features)
            left = found.values >= thresholds[ranked.groups]
            parts = [found.some(left.nonzero().view(-1))]
            dropped += torch.bincount(ranked.groups[~left], minlength=len(caps))
        if sum(len(part.values) for part in parts) > limit:
            found = _Found.joined(parts)
            ranked = found.ranked(rule, affinities.shape, len(caps))
            parts = [found.some(ranked.largest(caps))]
            dropped += (ranked.counts() - caps).clamp(min=0)
            # Below the cut of a full group nothing can match.
            thresholds = torch.maximum(thresholds, ranked.value(caps))
    return _Found.joined(parts), thresholds, dropped


class _OneTile:
    """The pairs of one tile as a source of their own, its features counted from 0."""

    one_chunk = False

    def __init__(self, tile: Tile, tokens: Tensor, n_features: int, of: Affinities):
        self._tile, self._tokens = tile, tokens
        self.shape = (len(tokens), n_features)
        self.device, self.dtype = of.device, of.dtype

    def tiles(
        self,
        features: Tensor | None = None,
        tokens: Tensor | None = None,
        first: int | None = None,
    ) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        if features is None or len(features) == self.shape[1]:
            everything = torch.arange(self.shape[1], device=self.device)
            yield self._tile, everything, self._tokens
        else:
            yield self._tile.part(features), features, self._tokens
