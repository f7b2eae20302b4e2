"""Affinities of all tokens to all features, a tile at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from skchoice.model import Parameters, Tokens
from skchoice.ops import coarse, eager

# Of one tile of pre-activations: on the CPU near the size of the cache, elsewhere so
# that tiles are few, since each costs the device some waiting.
_TILE_BYTES = {"cpu": 1 << 24}
DEVICE_TILE_BYTES = 1 << 30
# Of the inputs of a block of tokens: near the cache of one core, which then serves
# what is computed one pair after the other.
_BLOCK_BYTES = 5 << 19
# Rows of a tile start at multiples of so many entries: elsewhere than at whole vectors
# the product takes a quarter longer.
_ALIGNMENT = 16
# Where the first tile is to be small, the others grow by this factor to the full size.
_GROWTH = 4
_NEXT_TO_NOTHING = 2.0**-20  # of the smallest threshold over 0


class EncoderAffinities:
    """Affinities of tokens to features, computed a tile at a time.

    Parameters
    ----------
    parameters : Parameters
    chunks : Tokens or callable
        All tokens at once, or a function that returns an iterable over chunks of
        them, called once for each pass.
    n_tokens : int
        Tokens in all chunks together.
    """

    def __init__(
        self,
        parameters: Parameters,
        chunks: Tokens | Callable[[], Iterable[Tokens]],
        n_tokens: int,
    ):
        self.parameters = parameters
        self._given = chunks
        self.one_chunk = isinstance(chunks, Tokens)
        self.chunks = (lambda: [chunks]) if isinstance(chunks, Tokens) else chunks
        self.shape = (n_tokens, parameters.n_features)
        self.device = parameters.encoder.device
        self.dtype = parameters.encoder.dtype

    def over(self, thresholds: Tensor) -> EncoderAffinities:
        """Return the affinities divided by the thresholds of their features.

        One of 0 counts as next to nothing, so that whatever is positive is far over it.
        """
        positive = thresholds > 0
        smallest = torch.where(positive, thresholds, torch.inf).min().clamp(max=1.0)
        units = torch.where(positive, thresholds, _NEXT_TO_NOTHING * smallest)
        scaled = replace(
            self.parameters,
            encoder=self.parameters.encoder / units[:, None],
            encoder_bias=self.parameters.encoder_bias / units,
        )
        return EncoderAffinities(scaled, self._given, self.shape[0])

    def tiles(
        self,
        features: Tensor | range | None = None,
        tokens: Tensor | None = None,
        first: int | None = None,
    ) -> Iterator[tuple[EncoderTile, Tensor, Tensor]]:
        """Yield tiles with their features and tokens; a tile holds until the next."""
        start = 0
        for chunk in self.chunks():
            n_tokens = len(chunk.scaled)
            of_chunk = torch.arange(start, start + n_tokens, device=self.device)
            if tokens is not None:
                inside = tokens[(tokens >= start) & (tokens < start + n_tokens)] - start
                of_chunk, chunk = of_chunk[inside], chunk.some(inside)
            start += n_tokens
            if len(of_chunk):
                tiles = encoder_tiles(self.parameters, chunk, features, first)
                for tile, of_tile in tiles:
                    yield tile, of_tile, of_chunk

    def token_sizes(self) -> Tensor:
        """Return the norm of each token as the encoder sees it, (n_tokens,)."""
        return torch.cat(
            [torch.linalg.vector_norm(chunk.scaled, dim=1) for chunk in self.chunks()]
        )


class EncoderTile:
    """Affinities of some features to the tokens of a chunk.

    Parameters
    ----------
    weight, bias : Tensors of shape (n_features_in_tile, d) and (n_features_in_tile, 1)
    chunk : Tokens
    products : Tensor of shape (n_features_in_tile, n_tokens)
        Pre-activations without the bias, or in bfloat16 their upper bounds.
    """

    def __init__(self, weight: Tensor, bias: Tensor, chunk: Tokens, products: Tensor):
        self._weight, self._bias = weight, bias
        self._chunk, self._products = chunk, products

    def part(self, features: Tensor) -> EncoderTile:
        """Return the tile of some of the features, given by their positions."""
        return EncoderTile(
            self._weight[features],
            self._bias[features],
            self._chunk,
            self._products[features],
        )

    def blocks(self) -> list[slice]:
        """Return ranges that divide the tokens."""
        inputs, n_blocks = self._chunk.scaled, 1
        if self._chunk.coarse is not None:
            n_blocks = min(len(inputs), -(-inputs.nbytes // _BLOCK_BYTES))
        edges = np.linspace(0, len(inputs), n_blocks + 1, dtype=int)
        return [slice(*block) for block in pairwise(edges.tolist())]

    def hits(self, threshold: Tensor, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, tokens and values of the affinities over a threshold.

        Features are counted within the tile and tokens within the block; the threshold
        has shape (n_features_in_tile, 1), (1, n_tokens_in_block) or (1, 1). With one
        for each token a block may be asked for once, since it changes.
        """
        products = self._products[:, block]
        if self._chunk.coarse is None:
            return eager.find_hits(products, self._bias, threshold)
        inputs = self._chunk.scaled[block]
        return coarse.find_hits(products, self._weight, self._bias, inputs, threshold)


def encoder_tiles(
    parameters: Parameters,
    chunk: Tokens,
    features: Tensor | range | None = None,
    first: int | None = None,
) -> Iterator[tuple[EncoderTile, Tensor]]:
    """Yield tiles of all features, or of some, with their indices.

    Tiles are feature-major, because then a feature's tokens are contiguous and a tile
    of weights is read once. A tile holds until the next. The first may be asked to hold
    no more than so many features.
    """
    if features is None:
        features = range(parameters.n_features)
    n_features = len(features)
    n_tokens = len(chunk.scaled)
    inputs = chunk.coarse
    dtype = chunk.scaled.dtype if inputs is None else torch.bfloat16
    size = _TILE_BYTES.get(chunk.scaled.device.type, DEVICE_TILE_BYTES)
    height = min(n_features, max(16, size // dtype.itemsize // n_tokens))
    stride = -(-n_tokens // _ALIGNMENT) * _ALIGNMENT
    buffer = chunk.scaled.new_empty(height, stride, dtype=dtype)[:, :n_tokens]
    edges = [0, min(first or height, height)]
    while edges[-1] < n_features:
        edges.append(min(_GROWTH * edges[-1], edges[-1] + height, n_features))
    for start, stop in pairwise(edges):
        some = features[start:stop]
        which: slice | Tensor
        if isinstance(some, range):  # a view of the weights, not a copy
            which = slice(some.start, some.stop)
            indices = torch.arange(some.start, some.stop, device=buffer.device)
        else:
            which = indices = some
        weight, bias = parameters.encoder[which], parameters.encoder_bias[which, None]
        products = buffer[: len(weight)]
        if inputs is not None:
            coarse.upper_bounds(weight, bias, inputs, products)
        else:
            torch.mm(weight, chunk.scaled.T, out=products)
            if chunk.silent is not None:
                products[:, chunk.silent] = -torch.inf
        yield EncoderTile(weight, bias, chunk, products), indices
