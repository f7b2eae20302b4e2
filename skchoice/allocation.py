"""Selecting the matches of a batch from affinities that arrive tile by tile.

:func:`select` is the dense definition of what a rule keeps. :func:`allocate` gives the
same matches and never holds more than a tile: *screen* what reaches a threshold,
*certify* that every group has enough, else lower its threshold and look again, then
*trim* to the caps. If at least cap entries of a group reach a threshold, the group's
largest cap entries are among them: that is why the result is exact whatever the
threshold was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

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
        """Return the tile of some of the features, given by their positions."""


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
    thresholds = torch.where(caps > 0, finite, torch.inf)
    if not (rule.by_feature and affinities.one_chunk):
        return _settle(affinities, rule, caps, thresholds)
    whole = _blank(affinities, caps)
    n_matches = 0
    for tile, features, tokens in affinities.tiles():
        # The tile holds whole groups: they are settled while it is at hand.
        alone = _OneTile(tile, tokens, len(features), affinities)
        own = rule.of_features(features)
        found = _settle(alone, own, caps[features], thresholds[features])
        for array, of_tile in zip(whole[2:], found[2:], strict=True):
            array[features] = of_tile
        here = slice(n_matches, n_matches + len(found.matches))
        whole.matches.rows[here] = found.matches.rows
        whole.matches.cols[here] = found.matches.cols + features[0].int()
        whole.matches.values[here] = found.matches.values
        n_matches = here.stop
    return whole._replace(matches=whole.matches.first(n_matches))


def _blank(affinities: Affinities, caps: Tensor) -> Allocation:
    """Return room for the whole.

    Written tile by tile: what was left of each tile until the end would lie scattered
    between what each needs for a while, and memory would grow with their number.
    """
    at_most = int(caps.sum())
    ids = torch.empty(at_most, dtype=torch.int32, device=caps.device)
    values = ids.new_empty(at_most, dtype=affinities.dtype)
    flags = torch.empty_like(caps, dtype=torch.bool)
    return Allocation(
        SparseCodes(ids, ids.clone(), values, affinities.shape),
        caps,
        torch.empty_like(caps),
        flags,
        flags.clone(),
        torch.empty_like(caps, dtype=affinities.dtype),
    )


def _settle(
    affinities: Tiles, rule: Rule, caps: Tensor, thresholds: Tensor
) -> Allocation:
    """Look until every group has as many candidates as its cap, or all it has."""
    counts = None
    cuts = torch.zeros_like(thresholds)
    retried = torch.zeros_like(caps, dtype=torch.bool)
    exhausted = torch.zeros_like(retried)
    unsettled = torch.ones_like(retried)
    kept: list[_Found] = []
    restriction: dict[str, Tensor] = {}
    factors = iter(_RETRY_FACTORS)
    while True:
        found, thresholds, dropped = _screen(
            affinities, rule, caps, thresholds, restriction
        )
        ranked = found.ranked(rule, affinities.shape, len(caps))
        here = ranked.counts()
        if counts is None:
            counts = here + dropped
        done = unsettled & ((here >= caps) | (thresholds == 0))
        exhausted |= done & (here < caps)
        kept.append(found.some(ranked.largest(torch.where(done, caps, 0))))
        cut = torch.where(here > caps, ranked.value(caps), 0.0)
        # Where candidates overflowed, the cut is no lower than what they raised.
        cut = torch.where(dropped > 0, torch.maximum(cut, thresholds), cut)
        cuts = torch.where(done, cut, cuts)
        unsettled &= ~done
        if not unsettled.any():
            break
        retried |= unsettled
        wanted = rule.second_look * (caps + 1.0) + 1.0
        room = ((here + 0.5) / wanted).pow(1 / FALL).clamp(max=0.95)
        lower = thresholds * room.to(thresholds.dtype) * next(factors)
        thresholds = torch.where(unsettled, lower, torch.inf)
        restriction = rule.restriction(unsettled.nonzero().view(-1))
    matches = SparseCodes.sorted(*_Found.joined(kept), affinities.shape)
    return Allocation(matches, caps, counts, retried, exhausted, cuts)


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
        if features is None:
            everything = torch.arange(self.shape[1], device=self.device)
            yield self._tile, everything, self._tokens
        else:
            yield self._tile.part(features), features, self._tokens
