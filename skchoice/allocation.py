"""The allocation rules, and the streamed selection that serves them all.

Every rule divides the (token, feature) pairs into groups and keeps, in each group, the
largest affinities up to the group's cap. Only strictly positive affinities match; ties
at a cut go to the smaller flat index ``token * n_features + feature``.

=====================  ======================  =================================
rule                   a group is              its cap
=====================  ======================  =================================
:class:`TokenChoice`   one token               ``k``
:class:`MutualChoice`  the whole batch         ``round(k * n_tokens)``
:class:`FeatureChoice` one feature             ``m_j``, given
=====================  ======================  =================================

:func:`select` is the dense definition. :func:`allocate` gives the same matches from
affinities that arrive tile by tile: *screen* what reaches a threshold, *certify* that
every group has enough, else lower its threshold and look again, then *trim*. If at
least cap entries of a group reach a threshold, the group's largest cap entries are
among them: that is why the result is exact whatever the threshold was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skchoice.codes import SparseCodes

# Share of tokens that Token Choice may have to look at twice: all are screened at one
# level, and one low enough for nearly all would let too many candidates through.
_SHORT = 0.15
# A failed certificate lowers the threshold by these factors, one after the other.
_RETRY_FACTORS = (0.65, 0.3, 0.0)
# The candidates are cut back whenever they outnumber the budget by this factor ...
_OVERFLOW = 4
# ... and are more than this many: below, cutting costs more than it saves.
_MIN_OVERFLOW = 1 << 20


class Tile(Protocol):
    """Affinities of some features to some tokens."""

    features: Tensor  # (n_features_in_tile,) int64
    tokens: Tensor  # (n_tokens_in_tile,) int64

    def hits(self, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where affinities reach a threshold, and these affinities.

        The positions, of features and of tokens, count within the tile; the threshold
        broadcasts to (n_features_in_tile, n_tokens_in_tile).
        """


class Affinities(Protocol):
    """Source of tiles that together hold every pair once."""

    shape: tuple[int, int]  # (n_tokens, n_features)
    device: torch.device
    dtype: torch.dtype

    def tiles(
        self, features: Tensor | None = None, tokens: Tensor | None = None
    ) -> Iterator[Tile]:
        """Yield the tiles, of some features or of some tokens only if given."""

    def token_sizes(self) -> Tensor:
        """Return the scale of each token's affinities, (n_tokens,)."""


class Rule(ABC):
    """How pairs are grouped, and how many matches each group may have."""

    @abstractmethod
    def caps(self, shape: tuple[int, int]) -> Tensor:
        """Return the cap of each group, int64."""

    @abstractmethod
    def groups(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return the group of each pair, int64."""

    @abstractmethod
    def over_tile(self, per_group: Tensor, tile: Tile) -> Tensor:
        """Spread a value per group over a tile, broadcastable to its shape."""

    @abstractmethod
    def members(self, groups: Tensor) -> dict[str, Tensor]:
        """Return what of :meth:`Affinities.tiles` holds all of these groups."""

    def sampled(self, share: float) -> Rule:
        """Return the rule for a sample of the tokens."""
        return self

    def spread(self, level: Tensor, affinities: Affinities) -> Tensor:
        """Return each group's screening threshold from what was learned."""
        return level

    def learn(self, level: Tensor, seen: Allocation, affinities: Affinities) -> Tensor:
        """Return the level for the next batch.

        It steers the number of candidates to a little over the cap: so many that the
        noise from batch to batch seldom leaves a group short. The number falls with
        about the fourth power of the threshold.
        """
        target = 1.1 * seen.caps + 1.5 * seen.caps.sqrt() + 1.0
        change = ((seen.counts + 1.0) / (target + 1.0)).pow(0.25).to(level.dtype)
        # A level that was much too low says nothing; the cut then does.
        steered = torch.maximum(level * change, 0.7 * seen.cuts)
        # Who has too few positives is done in one look from a level of zero.
        steered = torch.where(seen.exhausted, 0.0, steered)
        return torch.where(seen.caps > 0, steered, level)

    def first_level(self, cuts: Tensor, affinities: Affinities) -> Tensor:
        """Return a level from the cuts of a first exact allocation."""
        return cuts


@dataclass(frozen=True)
class TokenChoice(Rule):
    """Each token keeps its ``k`` largest affinities (TopK)."""

    k: int

    def caps(self, shape: tuple[int, int]) -> Tensor:
        """Return ``k`` for every token."""
        return torch.full((shape[0],), self.k)

    def groups(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return the token of each pair."""
        return tokens

    def over_tile(self, per_group: Tensor, tile: Tile) -> Tensor:
        """Spread a value per token."""
        return per_group[tile.tokens][None, :]

    def members(self, groups: Tensor) -> dict[str, Tensor]:
        """Return the tokens themselves."""
        return {"tokens": groups}

    def spread(self, level: Tensor, affinities: Affinities) -> Tensor:
        """Return one threshold for all tokens, in units of their size."""
        return level * affinities.token_sizes()

    def learn(self, level: Tensor, seen: Allocation, affinities: Affinities) -> Tensor:
        """Return a level that most of the cuts of this batch reach."""
        return self.first_level(seen.cuts, affinities)

    def first_level(self, cuts: Tensor, affinities: Affinities) -> Tensor:
        """Return a cut that most tokens reach."""
        sizes = affinities.token_sizes()
        # Tokens with too few positives have no cut, and no level would serve them.
        there = (cuts > 0) & cuts.isfinite() & (sizes > 0)
        relative = cuts[there] / sizes[there]
        if not len(relative):
            return cuts.new_zeros(1)
        return relative.kthvalue(1 + int(_SHORT * len(relative))).values.view(1)


@dataclass(frozen=True)
class MutualChoice(Rule):
    """The batch keeps its ``round(k * n_tokens)`` largest affinities."""

    k: float

    def caps(self, shape: tuple[int, int]) -> Tensor:
        """Return the budget of the batch."""
        return torch.tensor([round(self.k * shape[0])])

    def groups(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return group 0 for every pair."""
        return torch.zeros_like(tokens)

    def over_tile(self, per_group: Tensor, tile: Tile) -> Tensor:
        """Spread the one value."""
        return per_group[:, None]

    def members(self, groups: Tensor) -> dict[str, Tensor]:
        """Return no restriction."""
        return {}


@dataclass(frozen=True)
class FeatureChoice(Rule):
    """Feature ``j`` keeps its ``feature_caps[j]`` largest affinities."""

    feature_caps: Tensor  # (n_features,) int64

    def caps(self, shape: tuple[int, int]) -> Tensor:
        """Return the given caps."""
        return self.feature_caps

    def groups(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return the feature of each pair."""
        return features

    def over_tile(self, per_group: Tensor, tile: Tile) -> Tensor:
        """Spread a value per feature."""
        return per_group[tile.features][:, None]

    def members(self, groups: Tensor) -> dict[str, Tensor]:
        """Return the features themselves."""
        return {"features": groups}

    def sampled(self, share: float) -> FeatureChoice:
        """Scale the caps; every feature keeps at least one match."""
        return FeatureChoice((self.feature_caps * share).ceil().long().clamp(min=1))


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
    >>> from skchoice.allocation import MutualChoice, select
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
    counts: Tensor  # (n_groups,) candidates that reached the given thresholds
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
    found = _screen(affinities, rule, caps, thresholds)
    counts = found.counts + found.dropped
    retried = torch.zeros_like(caps, dtype=torch.bool)
    for factor in _RETRY_FACTORS:
        short = (found.counts < caps) & (found.thresholds > 0)
        groups = short.nonzero().view(-1)
        if not len(groups):
            break
        retried |= short
        lower = torch.where(short, found.thresholds * factor, torch.inf)
        again = _screen(affinities, rule, caps, lower, **rule.members(groups))
        found = _merge(found, again, short, rule)
    kept, cuts = _trim(found, rule, caps, affinities.shape[1])
    # Where candidates overflowed, the cut is no lower than the threshold they raised.
    cuts = torch.where(found.dropped > 0, torch.maximum(cuts, found.thresholds), cuts)
    matches = SparseCodes.sorted(*kept[:3], affinities.shape)
    return Allocation(matches, caps, counts, retried, found.counts < caps, cuts)


# Tokens that a cold start looks at to learn where to screen.
_FIRST_LOOK = 256


class WarmAllocator:
    """Allocation of one batch after the other, each screened by what came before.

    The level that is carried along changes the time taken, never the matches.
    """

    def __init__(self) -> None:
        self.level: Tensor | None = None

    def __call__(self, affinities: Affinities, rule: Rule) -> Allocation:
        """Select the matches of a batch and learn from it for the next."""
        if self.level is None:
            self.level = _first_level(affinities, rule)
        seen = allocate(affinities, rule, rule.spread(self.level, affinities))
        self.level = rule.learn(self.level, seen, affinities)
        return seen


def _first_level(affinities: Affinities, rule: Rule) -> Tensor:
    n_tokens = min(_FIRST_LOOK, affinities.shape[0])
    few = _FirstTokens(affinities, n_tokens)
    rule = rule.sampled(n_tokens / affinities.shape[0])
    n_groups = len(rule.caps(few.shape))
    zeros = torch.zeros(n_groups, dtype=few.dtype, device=few.device)
    seen = allocate(few, rule, zeros)
    groups = rule.groups(seen.matches.rows.long(), seen.matches.cols.long())
    cuts = torch.full_like(zeros, torch.inf)
    cuts.scatter_reduce_(0, groups, seen.matches.values, "amin")
    return rule.first_level(torch.where(cuts.isfinite(), cuts, 0.0), few)


class _FirstTokens:
    """The first tokens of a source of affinities."""

    def __init__(self, affinities: Affinities, n_tokens: int):
        self._all = affinities
        self.shape = (n_tokens, affinities.shape[1])
        self.device, self.dtype = affinities.device, affinities.dtype

    def tiles(
        self, features: Tensor | None = None, tokens: Tensor | None = None
    ) -> Iterator[Tile]:
        if tokens is None:
            tokens = torch.arange(self.shape[0], device=self.device)
        return self._all.tiles(features, tokens)

    def token_sizes(self) -> Tensor:
        return self._all.token_sizes()[: self.shape[0]]


class _Found(NamedTuple):
    tokens: Tensor
    features: Tensor
    values: Tensor
    counts: Tensor  # per group
    thresholds: Tensor  # per group, raised where the candidates overflowed
    dropped: Tensor  # per group, candidates that overflowed


def _screen(
    affinities: Affinities,
    rule: Rule,
    caps: Tensor,
    thresholds: Tensor,
    **members: Tensor,
) -> _Found:
    """Collect the pairs that reach their group's threshold."""
    smallest = np.nextafter(
        np.zeros((), torch.empty(0, dtype=affinities.dtype).numpy().dtype), 1
    ).item()
    limit = max(_OVERFLOW * int(caps.sum()), _MIN_OVERFLOW)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    size = 0
    dropped = torch.zeros_like(caps)
    for tile in affinities.tiles(**members):
        over = rule.over_tile(thresholds.clamp(min=smallest), tile)
        features, tokens, values = tile.hits(over)
        parts.append((tile.tokens[tokens], tile.features[features], values))
        size += len(values)
        if size > limit:
            found = _join(parts, rule, thresholds, dropped)
            kept, cuts = _trim(found, rule, caps, affinities.shape[1])
            dropped = dropped + found.counts - kept.counts
            # Below the cut of a full group nothing can match.
            thresholds = torch.maximum(thresholds, cuts)
            parts, size = [kept[:3]], len(kept.values)
    return _join(parts, rule, thresholds, dropped)


def _join(parts: list, rule: Rule, thresholds: Tensor, dropped: Tensor) -> _Found:
    tokens, features, values = (torch.cat(part) for part in zip(*parts, strict=True))
    counts = torch.bincount(rule.groups(tokens, features), minlength=len(thresholds))
    return _Found(tokens, features, values, counts, thresholds, dropped)


def _merge(found: _Found, again: _Found, redone: Tensor, rule: Rule) -> _Found:
    """Replace the candidates of the groups that were looked at again."""
    left = ~redone[rule.groups(found.tokens, found.features)]
    keep = left.nonzero().view(-1)
    return _Found(
        torch.cat([found.tokens[keep], again.tokens]),
        torch.cat([found.features[keep], again.features]),
        torch.cat([found.values[keep], again.values]),
        torch.where(redone, again.counts, found.counts),
        torch.where(redone, again.thresholds, found.thresholds),
        found.dropped,
    )


def _trim(
    found: _Found, rule: Rule, caps: Tensor, n_features: int
) -> tuple[_Found, Tensor]:
    """Keep the largest of each group up to its cap, ties by flat index.

    Returns what is kept, and each group's cut: its cap-th largest value where some were
    left out, else 0; infinite where the cap is 0.
    """
    over = found.counts > caps
    if not over.any():
        return found, torch.zeros_like(found.thresholds)
    trim = _largest_of_all if len(caps) == 1 else _largest_of_each
    mask, cuts = trim(found, rule, caps, n_features)
    keep = mask.nonzero().view(-1)
    kept = found._replace(
        tokens=found.tokens[keep],
        features=found.features[keep],
        values=found.values[keep],
        counts=torch.minimum(found.counts, caps),
    )
    cuts = torch.where(over, cuts, 0.0)
    return kept, torch.where(over & (caps == 0), torch.inf, cuts)


def _largest_of_all(
    found: _Found, rule: Rule, caps: Tensor, n_features: int
) -> tuple[Tensor, Tensor]:
    """Select within the one group there is."""
    n = int(caps)
    if n == 0:
        return torch.zeros_like(found.values, dtype=torch.bool), caps
    cut = found.values.topk(n, sorted=False).values.min()
    keep = found.values > cut
    tied = (found.values == cut).nonzero().view(-1)
    flat = found.tokens[tied] * n_features + found.features[tied]
    keep[tied[flat.argsort()[: n - int(keep.sum())]]] = True
    return keep, cut.view(1)


def _largest_of_each(
    found: _Found, rule: Rule, caps: Tensor, n_features: int
) -> tuple[Tensor, Tensor]:
    """Select within many groups.

    Candidates come in the order of their flat indices within a group, whatever the
    order of the groups, so a stable sort by value settles ties.
    """
    groups = rule.groups(found.tokens, found.features)
    order = descending_in_groups(groups, found.values)
    ends = found.counts.cumsum(0)
    starts = ends - found.counts
    rank = torch.arange(len(order), device=order.device) - starts[groups[order]]
    keep = torch.zeros_like(found.values, dtype=torch.bool)
    keep[order] = rank < caps[groups[order]]
    last = (starts + caps - 1).clamp(max=len(order) - 1).clamp(min=0)
    return keep, found.values[order[last]]


def descending_in_groups(groups: Tensor, values: Tensor) -> Tensor:
    """Return the order that sorts by group, then by falling value.

    Parameters
    ----------
    groups : int64 Tensor of shape (n,)
    values : Tensor of shape (n,), positive

    Returns
    -------
    int64 Tensor of shape (n,)
    """
    if values.dtype == torch.float32:
        # The bits of positive floats sort as the floats do: one key, one sort.
        key = (groups << 32) | (0x7FFFFFFF - values.view(torch.int32).long())
        return key.argsort(stable=True)
    order = values.argsort(descending=True, stable=True)
    return order[groups[order].argsort(stable=True)]
