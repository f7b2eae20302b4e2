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
from skchoice.rules import Allocation, Rule


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
        _look_tile_by_tile(affinities, looks)
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


def _look_tile_by_tile(affinities: Affinities, looks: Looks) -> None:
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
        if n_seen == n_features or n_short > len(features) // 4:
            parts, of_parts = zip(*short, strict=True)
            those = torch.cat(of_parts)
            own = looks.of_features(those)
            own.settle(_OneTile(tile.joined(parts), tokens, n_short, affinities))
            looks.add(own, those)
            short, n_short = [], 0


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
