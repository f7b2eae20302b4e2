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

import torch
from torch import Tensor

from skchoice.affinities import Affinities, Tile
from skchoice.codes import SparseCodes
from skchoice.looks import Looks
from skchoice.ops import eager
from skchoice.rules import Allocation, Rule

# Pairs that are looked at together where each group is of one feature: of a few tiles
# on the CPU, elsewhere of one.
_RUN_PAIRS = {"cpu": 1 << 24}
_DEVICE_RUN_PAIRS = 1 << 28


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
    caps = rule.caps(affinities.shape)
    budget = int(caps.sum())
    caps = caps.to(affinities.device)
    finite = thresholds.nan_to_num(nan=0.0).clamp(min=0.0)
    looks = Looks(rule, caps, torch.where(caps > 0, finite, torch.inf), budget)
    if rule.by_feature and affinities.one_chunk:
        _look_run_by_run(affinities, looks)
    else:
        looks.settle(affinities)
    return Allocation(
        SparseCodes.sorted(*looks.matches(), affinities.shape),
        caps,
        budget,
        looks.counts,
        looks.n_looks > 1,
        looks.exhausted,
        looks.cuts,
    )


def _look_run_by_run(affinities: Affinities, looks: Looks) -> None:
    """Look at the groups of a few tiles until they are settled, then at the next.

    So no more need be kept than those tiles hold, of groups that are short.
    """
    n_tokens, n_features = affinities.shape
    n_pairs = _RUN_PAIRS.get(affinities.device.type, _DEVICE_RUN_PAIRS)
    length = max(1, n_pairs // n_tokens)
    for start in range(0, n_features, length):
        features = range(start, min(start + length, n_features))
        own = looks.of_features(features)
        own.settle(_Run(affinities, features, own))
        looks.add(own, features)


class _Run:
    """The affinities of a range of features, which are counted from 0.

    Parts of the tiles with the features that are short of candidates are kept, so that
    looking at them again takes no product.
    """

    one_chunk = False

    def __init__(self, affinities: Affinities, features: range, looks: Looks):
        self._all, self._features, self._looks = affinities, features, looks
        self._parts: list[tuple[Tile, Tensor, Tensor]] = []
        self.shape = (affinities.shape[0], len(features))
        self.device, self.dtype = affinities.device, affinities.dtype

    def tiles(
        self,
        features: Tensor | range | None = None,
        tokens: Tensor | None = None,
        first: int | None = None,
    ) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        return self._whole() if features is None else self._kept(features)

    def _whole(self) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        caps, thresholds = self._looks.caps, self._looks.thresholds
        for tile, of_all, tokens in self._all.tiles(self._features):
            counted = _Counted(tile, len(of_all), self.device)
            features = of_all - self._features.start
            yield counted, features, tokens
            short = (counted.counts < caps[features]) & (thresholds[features] > 0)
            left = short.nonzero().view(-1)
            self._parts.append((tile.part(left), features[left], tokens))

    def _kept(self, features: Tensor | range) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        wanted = torch.zeros(self.shape[1], dtype=torch.bool, device=self.device)
        wanted[features] = True
        for part, of_part, tokens in self._parts:
            left = wanted[of_part].nonzero().view(-1)
            if len(left) < len(of_part):
                part, of_part = part.part(left), of_part[left]
            if len(of_part):
                yield part, of_part, tokens


class _Counted:
    """A tile that counts the hits of its features."""

    def __init__(self, tile: Tile, n_features: int, device: torch.device):
        self._tile = tile
        self.counts = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.blocks, self.part = tile.blocks, tile.part

    def hits(self, threshold: Tensor, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        found = self._tile.hits(threshold, block)
        self.counts += eager.counts(found[0], len(self.counts))
        return found
