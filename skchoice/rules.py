"""The allocation rules: how pairs are grouped, and how many matches a group may have.

Every rule divides the (token, feature) pairs into groups of equal size and keeps, in
each group, the largest affinities up to the group's cap. Only strictly positive
affinities match; ties at a cut go to the smaller flat index ``token * n_features +
feature``.

=====================  ======================  =================================
rule                   a group is              its cap
=====================  ======================  =================================
:class:`TokenChoice`   one token               ``k``
:class:`MutualChoice`  the whole batch         ``round(k * n_tokens)``
:class:`FeatureChoice` one feature             ``m_j``, given
=====================  ======================  =================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skchoice.affinities import Affinities
from skchoice.codes import SparseCodes
from skchoice.ordering import Ranked

# The number of candidates falls with about this power of the threshold.
FALL = 4
# One level for all falls and rises with the cut; of that, what counts at most.
_LOWER, _HIGHER = 0.9, 2.0
# Share of tokens that Token Choice may have to look at twice.
_SHORT = 0.01
# Candidates that Token Choice wants of the features it has seen, above what it expects
# of them, in standard deviations of their number.
_DEVIATIONS = 1.7


def wanted_candidates(caps: Tensor) -> Tensor:
    """Return how many candidates a look should find: a little over the caps.

    So many that the noise from batch to batch seldom leaves a group short.
    """
    return 1.1 * caps + 1.5 * caps.sqrt() + 1.0


class Allocation(NamedTuple):
    """The matches of a batch under a rule, and how they were found."""

    matches: SparseCodes  # values are affinities
    caps: Tensor  # (n_groups,) int64
    budget: int  # their sum
    counts: Tensor  # (n_groups,) candidates that the first look found
    retried: Tensor  # (n_groups,) bool: they were too few
    exhausted: Tensor  # (n_groups,) bool: so are the positives
    cuts: Tensor  # (n_groups,) the cap-th largest; 0 where there are fewer


class Rule(ABC):
    """How pairs are grouped, and how many matches each group may have."""

    by_feature = False  # whether each group is of one feature
    in_order = True  # whether tiles hold a group's members in ascending order
    # Candidates that a second look at a group aims at, in caps: so many of a few groups
    # cost less than a third look at all features.
    second_look = 5.0

    @abstractmethod
    def caps(self, shape: tuple[int, int]) -> Tensor:
        """Return the cap of each group, int64."""

    @abstractmethod
    def groups(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return the group of each pair."""

    @abstractmethod
    def members(self, tokens: Tensor, features: Tensor, n_features: int) -> Tensor:
        """Return each pair's number within its group, rising with its flat index."""

    @abstractmethod
    def over_tile(self, per_group: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
        """Spread a value per group over a tile, broadcastable to its shape."""

    @abstractmethod
    def restriction(self, groups: Tensor) -> dict[str, Tensor]:
        """Return which features, or which tokens, hold all of these groups."""

    def sampled(self, share: float) -> Rule:
        """Return the rule for a sample of the tokens."""
        return self

    # --------------------------------------------------------- where to start looking

    def spread(self, level: Tensor, affinities: Affinities) -> Tensor:
        """Return each group's screening threshold from what was learned."""
        return level

    def first_level(self, cuts: Tensor, affinities: Affinities) -> Tensor:
        """Return a level from the cuts of a first exact allocation."""
        return cuts

    def next_level(
        self, level: Tensor, seen: Allocation, affinities: Affinities
    ) -> Tensor:
        """Return the level for the next batch, from the allocation of this one.

        It steers the number of candidates to that of :func:`wanted_candidates`, over
        some batches: of a few matches, the cut varies from one to the next.
        """
        target = wanted_candidates(seen.caps)
        off = (seen.counts + 1.0) / (target + 1.0)
        # Half of what that asks for: the rest may be noise.
        change = off.pow(0.5 / FALL).to(level.dtype)
        # A level that was much too low says nothing; the cut then does.
        steered = torch.maximum(level * change, 0.7 * seen.cuts)
        # Who has too few positives is done in one look from a level of zero.
        steered = torch.where(seen.exhausted, 0.0, steered)
        return torch.where(seen.caps > 0, steered, level)

    def first_look(self, n_features: int) -> int | None:
        """Return how many features to see before thresholds may rise; None: all."""
        return None

    def raised(self, thresholds: Tensor, seen: Ranked, share: float) -> Tensor:
        """Return thresholds for the rest, once a share of the features was seen.

        From the candidates so far, of each group in order. No threshold falls.
        """
        return thresholds


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

    def members(self, tokens: Tensor, features: Tensor, n_features: int) -> Tensor:
        """Return the feature of each pair."""
        return features

    def over_tile(self, per_group: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
        """Spread a value per token."""
        return per_group[tokens][None, :]

    def restriction(self, groups: Tensor) -> dict[str, Tensor]:
        """Return the tokens themselves."""
        return {"tokens": groups}

    def spread(self, level: Tensor, affinities: Affinities) -> Tensor:
        """Return one threshold for all tokens, in units of their size."""
        return level * affinities.token_sizes()

    def first_level(self, cuts: Tensor, affinities: Affinities) -> Tensor:
        """Return a cut that nearly all tokens reach."""
        sizes = affinities.token_sizes()
        # Tokens with too few positives have no cut, and no level would serve them.
        there = (cuts > 0) & cuts.isfinite() & (sizes > 0)
        relative = cuts[there] / sizes[there]
        if not len(relative):
            return cuts.new_zeros(1)
        return relative.kthvalue(1 + int(_SHORT * len(relative))).values.view(1)

    def next_level(
        self, level: Tensor, seen: Allocation, affinities: Affinities
    ) -> Tensor:
        """Return a level that nearly all of the cuts of this batch reach."""
        return self.first_level(seen.cuts, affinities)

    def first_look(self, n_features: int) -> int:
        """Return so many that a token has about one match among them."""
        return -(-n_features // self.k) if self.k else n_features

    def raised(self, thresholds: Tensor, seen: Ranked, share: float) -> Tensor:
        """Return for each token a threshold of its own.

        A level for all tokens lets several times the budget through; a token's largest
        affinities to the first features tell where its cut will be.
        """
        expected = self.k * share
        number = math.ceil(expected + _DEVIATIONS * math.sqrt(expected) + 1.0)
        cuts = seen.value(torch.full_like(seen.starts[1:], number))
        return torch.maximum(thresholds, cuts)


@dataclass(frozen=True)
class MutualChoice(Rule):
    """The batch keeps its ``round(k * n_tokens)`` largest affinities."""

    k: float
    in_order = False

    def caps(self, shape: tuple[int, int]) -> Tensor:
        """Return the budget of the batch."""
        return torch.tensor([round(self.k * shape[0])])

    def groups(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return group 0 for every pair."""
        return torch.zeros_like(tokens)

    def members(self, tokens: Tensor, features: Tensor, n_features: int) -> Tensor:
        """Return the flat index of each pair."""
        return tokens.long() * n_features + features

    def over_tile(self, per_group: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
        """Spread the one value."""
        return per_group[:, None]

    def restriction(self, groups: Tensor) -> dict[str, Tensor]:
        """Return no restriction."""
        return {}

    def next_level(
        self, level: Tensor, seen: Allocation, affinities: Affinities
    ) -> Tensor:
        """Return a level a little under the cut, of so many that it varies little.

        A level that was too high falls by twice as much: early in training cuts fall
        from batch to batch. One that was too low rises by half, since a look too many
        costs far more than some candidates too many.
        """
        share = (wanted_candidates(seen.caps) / seen.caps).pow(-1 / FALL)
        under = seen.cuts * share.to(level.dtype)
        off = torch.where(level > 0, under / level, 1.0)
        down, up = off.clamp(min=_LOWER), off.clamp(max=_HIGHER).pow(-0.5)
        steered = under * torch.where(off < 1, down, up)
        return torch.where(seen.caps > 0, steered, level)


@dataclass(frozen=True)
class FeatureChoice(Rule):
    """Feature ``j`` keeps its ``feature_caps[j]`` largest affinities."""

    feature_caps: Tensor  # (n_features,) int64
    by_feature = True
    second_look = 1.3  # the tile is at hand: a third costs little

    def caps(self, shape: tuple[int, int]) -> Tensor:
        """Return the given caps."""
        return self.feature_caps

    def groups(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return the feature of each pair."""
        return features

    def members(self, tokens: Tensor, features: Tensor, n_features: int) -> Tensor:
        """Return the token of each pair."""
        return tokens

    def over_tile(self, per_group: Tensor, features: Tensor, tokens: Tensor) -> Tensor:
        """Spread a value per feature."""
        return per_group[features][:, None]

    def restriction(self, groups: Tensor) -> dict[str, Tensor]:
        """Return the features themselves."""
        return {"features": groups}

    def sampled(self, share: float) -> FeatureChoice:
        """Scale the caps; every feature keeps at least one match."""
        return FeatureChoice((self.feature_caps * share).ceil().long().clamp(min=1))
