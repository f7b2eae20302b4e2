"""What allocation works on: affinities that arrive a tile at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class Tile(Protocol):
    """Affinities of some features to some tokens."""

    def blocks(self) -> list[slice]:
        """Return ranges that divide the tokens, ascending."""

    def hits(self, threshold: Tensor, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return where affinities of a block reach a threshold, and these affinities.

        The positions count features within the tile and tokens within the block; the
        threshold broadcasts to (n_features_in_tile, n_tokens_in_block).
        """

    def part(self, features: Tensor) -> Tile:
        """Return the tile of some of the features, given by their positions.

        It is a copy, which holds longer than the tile.
        """


class Tiles(Protocol):
    """Source of tiles that together hold every pair once."""

    shape: tuple[int, int]  # (n_tokens, n_features)
    device: torch.device
    dtype: torch.dtype
    one_chunk: bool  # whether every tile holds all tokens, if not told otherwise

    def tiles(
        self,
        features: Tensor | range | None = None,
        tokens: Tensor | None = None,
        first: int | None = None,
    ) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        """Yield tiles with their features and tokens, int64.

        Only those of some features or of some tokens if given; the first with at most
        ``first`` features. What they hold of one feature comes in the order of tokens,
        and of one token in that of features. A tile may be used until the next is
        asked for.
        """


class Affinities(Tiles, Protocol):
    """Tiles of tokens whose sizes are known."""

    def token_sizes(self) -> Tensor:
        """Return the scale of each token's affinities, (n_tokens,)."""
