"""Allocation of one batch after the other, each screened by what came before."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from skchoice.affinities import Affinities, Tile
from skchoice.allocation import allocate
from skchoice.rules import Allocation, Rule

# Tokens that a cold start looks at to learn where to screen.
_FIRST_LOOK = 256
# Pairs of a tile then: without a threshold, half of them are candidates.
_FIRST_TILE = 1 << 19


class WarmAllocator:
    """Allocates batches, and carries along where to start looking.

    The level that is carried along changes the time taken, and of the matches no more
    than the last digits: a second look may multiply matrices of another shape.
    """

    def __init__(self) -> None:
        self.level: Tensor | None = None

    def __call__(self, affinities: Affinities, rule: Rule) -> Allocation:
        """Select the matches of a batch and learn from it for the next."""
        if self.level is None:
            self.level = _first_level(affinities, rule)
        seen = allocate(affinities, rule, rule.spread(self.level, affinities))
        self.level = rule.next_level(self.level, seen, affinities)
        return seen

    def below(self, share: float) -> Tensor:
        """Return a share of the level, where to start looking at other tokens."""
        assert self.level is not None, "no batch has been allocated"
        return share * self.level


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
    cuts = torch.where(cuts.isfinite(), cuts, 0.0)
    return rule.first_level(cuts, few)


class _FirstTokens:
    """The first tokens of a source of affinities."""

    def __init__(self, affinities: Affinities, n_tokens: int):
        self._all = affinities
        self.shape = (n_tokens, affinities.shape[1])
        self.device, self.dtype = affinities.device, affinities.dtype
        self.one_chunk = affinities.one_chunk

    def tiles(
        self,
        features: Tensor | range | None = None,
        tokens: Tensor | None = None,
        first: int | None = None,
    ) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        if tokens is None:
            tokens = torch.arange(self.shape[0], device=self.device)
        if features is None:
            features = range(self.shape[1])
        length = max(1, _FIRST_TILE // self.shape[0])
        for start in range(0, len(features), length):
            some = features[start : start + length]
            yield from self._all.tiles(some, tokens)

    def token_sizes(self) -> Tensor:
        return self._all.token_sizes()[: self.shape[0]]
