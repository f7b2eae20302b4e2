"""Parameters of a sparse autoencoder and its dense halves, tile by tile.

In the symbols of the documentation, for a token ``x`` of shape (d,)::

    absolute importance                      relative importance
    r = x - b_dec                            r = x - b_dec
    a = W r + b_enc                          a = W (r / norm(r)) + b_enc
    code = a where matched                   code = norm(r) * a where matched
    x_hat = code @ D + b_dec                 x_hat = code @ D + b_dec

``a`` cut at zero is the affinity that the allocation rules compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from skchoice.codes import SparseCodes
from skchoice.ops import coarse, eager
from skchoice.ops.coarse import CoarseInputs

# Of encoder biases in training, for rows of norm 1. Below zero, so that a row that is
# like no feature matches none. Without a limit the biases of most features may rise
# until any row in an unusual direction matches thousands of them, and takes the matches
# of the others under Mutual Choice.
HIGHEST_BIAS = -0.02
# Of one tile of pre-activations: on the CPU near the size of the cache, elsewhere so
# that tiles are few, since each costs the device some waiting.
_TILE_BYTES = {"cpu": 1 << 24}
DEVICE_TILE_BYTES = 1 << 30
# Of the inputs of a block of tokens: near the cache of one core, which then serves
# what is computed one pair after the other. Elsewhere each block costs some waiting.
_BLOCK_BYTES = {"cpu": 5 << 19}
# Where the first tile is to be small, the others grow by this factor to the full size.
_GROWTH = 4
# Fewer tokens of a chunk than this do not repay rounding the weights to bfloat16.
_MIN_COARSE_TOKENS = 512
# Places in Parameters.arrays().
ENCODER, ENCODER_BIAS, DECODER, DECODER_BIAS = range(4)


@dataclass
class Parameters:
    """The four arrays of a sparse autoencoder.

    Parameters
    ----------
    encoder : Tensor of shape (n_features, d)
    encoder_bias : Tensor of shape (n_features,)
    decoder : Tensor of shape (n_features, d), rows of unit norm
    decoder_bias : Tensor of shape (d,)
    relative : bool
        Whether affinities are relative to the norm of the centred token.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    relative: bool

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.encoder)

    def to(self, device: torch.device, dtype: torch.dtype) -> Parameters:
        """Return the parameters on a device and in a dtype."""
        encoder, encoder_bias, decoder, decoder_bias = (
            array.to(device, dtype) for array in self.arrays()
        )
        return Parameters(encoder, encoder_bias, decoder, decoder_bias, self.relative)

    def arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return encoder, encoder bias, decoder and decoder bias."""
        return self.encoder, self.encoder_bias, self.decoder, self.decoder_bias


def random_parameters(
    n_features: int, n_columns: int, relative: bool, generator: torch.Generator
) -> Parameters:
    """Draw decoder directions uniformly; the encoder starts as their transpose.

    Encoder biases start at their limit in training, :data:`HIGHEST_BIAS`.
    """
    decoder = torch.randn(
        n_features, n_columns, generator=generator, dtype=torch.float32
    )
    torch.nn.functional.normalize(decoder, dim=1, out=decoder)
    return Parameters(
        decoder.clone(),
        torch.full((n_features,), HIGHEST_BIAS, dtype=torch.float32),
        decoder,
        torch.zeros(n_columns, dtype=torch.float32),
        relative,
    )


@dataclass
class Tokens:
    """A chunk of tokens as the encoder sees them."""

    scaled: Tensor  # the encoder's input, (n_tokens, d)
    norms: Tensor | None  # (n_tokens,), None under absolute importance
    silent: Tensor | None  # tokens without affinities, where there are any
    few: bool = False  # of a chunk: too few to repay rounding the weights to bfloat16

    @cached_property
    def coarse(self) -> CoarseInputs | None:
        """The tokens as screened in bfloat16, where that is fast."""
        usable = self.silent is None and self.scaled.dtype == torch.float32
        usable = usable and not self.few
        if usable and coarse.supported(self.scaled.device):
            return CoarseInputs(self.scaled)
        return None

    def some(self, which: Tensor) -> Tokens:
        """Return some of the tokens."""
        norms, silent = (
            None if array is None else array[which]
            for array in (self.norms, self.silent)
        )
        few = len(which) < _MIN_COARSE_TOKENS
        return Tokens(self.scaled[which], norms, silent, few)

    def rescored(self, matches: SparseCodes, parameters: Parameters) -> SparseCodes:
        """Return the matches with their affinities now, where these are positive."""
        rows, cols = matches.rows, matches.cols
        values = eager.pair_dots(parameters.encoder, self.scaled, cols, rows)
        values += parameters.encoder_bias[cols]
        if self.silent is not None:
            values[self.silent[rows]] = 0.0
        left = (values > 0).nonzero().view(-1)
        return SparseCodes(rows[left], cols[left], values[left], matches.shape)

    def to_codes(self, matches: SparseCodes) -> SparseCodes:
        """Turn affinities into codes."""
        if self.norms is None:
            return matches
        return matches.with_values(matches.values * self.norms[matches.rows])


def encoder_input(x: Tensor, parameters: Parameters) -> Tokens:
    """Centre a chunk of tokens, and divide by their norms if importance is relative.

    A token equal to the decoder bias has no direction: it gets no relative affinity.
    """
    scaled = x - parameters.decoder_bias
    if not parameters.relative:
        return Tokens(scaled, None, None)
    norms = torch.linalg.vector_norm(scaled, dim=1)
    if _ordinary(norms):
        scaled /= norms[:, None]
        return Tokens(scaled, norms, None)
    norms = row_norms(scaled)
    zero = norms == 0
    scaled /= torch.where(zero, 1.0, norms)[:, None]
    return Tokens(scaled, norms, zero if zero.any() else None)


def row_norms(rows: Tensor) -> Tensor:
    """Return the norms along the last axis, also where squares leave the type's range.

    Differentiable.
    """
    norms = torch.linalg.vector_norm(rows, dim=-1)
    if _ordinary(norms):
        return norms
    largest = rows.detach().abs().amax(dim=-1).clamp(min=torch.finfo(rows.dtype).tiny)
    return largest * torch.linalg.vector_norm(rows / largest[..., None], dim=-1)


def _ordinary(norms: Tensor) -> bool:
    """Return whether no norm is near where squares leave the type's range."""
    limit = torch.finfo(norms.dtype).max ** 0.25
    return not ((norms < 1.0 / limit) | (norms > limit)).any()


def all_finite(array: Tensor) -> bool:
    """Return whether no number of an array is NaN or infinite.

    The sum tells at a fraction of the time and memory of a look at each number.
    """
    return bool(array.sum().isfinite() or array.isfinite().all())


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
        self.one_chunk = isinstance(chunks, Tokens)
        self.chunks = (lambda: [chunks]) if isinstance(chunks, Tokens) else chunks
        self.shape = (n_tokens, parameters.n_features)
        self.device = parameters.encoder.device
        self.dtype = parameters.encoder.dtype

    def tiles(
        self,
        features: Tensor | None = None,
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

    @classmethod
    def joined(cls, parts: Sequence[EncoderTile]) -> EncoderTile:
        """Return one tile of the features of several, which are of one chunk."""
        if len(parts) == 1:
            return parts[0]
        weight, bias, products = (
            torch.cat(arrays)
            for arrays in zip(
                *((part._weight, part._bias, part._products) for part in parts),
                strict=True,
            )
        )
        return EncoderTile(weight, bias, parts[0]._chunk, products)

    def blocks(self) -> list[slice]:
        """Return ranges that divide the tokens."""
        inputs = self._chunk.scaled
        size = _BLOCK_BYTES.get(inputs.device.type, DEVICE_TILE_BYTES)
        n_blocks = min(len(inputs), -(-inputs.nbytes // size))
        edges = np.linspace(0, len(inputs), n_blocks + 1, dtype=int)
        return [slice(*block) for block in pairwise(edges.tolist())]

    def hits(self, threshold: Tensor, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, tokens and values of the affinities over a threshold.

        Features are counted within the tile and tokens within the block; the threshold
        has shape (n_features_in_tile, 1), (1, n_tokens_in_block) or (1, 1).
        """
        products = self._products[:, block]
        if self._chunk.coarse is None:
            return eager.find_hits(products, self._bias, threshold)
        inputs = self._chunk.scaled[block]
        return coarse.find_hits(products, self._weight, self._bias, inputs, threshold)


def encoder_tiles(
    parameters: Parameters,
    chunk: Tokens,
    features: Tensor | None = None,
    first: int | None = None,
) -> Iterator[tuple[EncoderTile, Tensor]]:
    """Yield tiles of all features, or of some, with their indices.

    Tiles are feature-major, because then a feature's tokens are contiguous and a tile
    of weights is read once. A tile holds until the next. The first may be asked to hold
    no more than so many features.
    """
    n_features = parameters.n_features if features is None else len(features)
    n_tokens = len(chunk.scaled)
    inputs = chunk.coarse
    dtype = chunk.scaled.dtype if inputs is None else torch.bfloat16
    size = _TILE_BYTES.get(chunk.scaled.device.type, DEVICE_TILE_BYTES)
    height = min(n_features, max(16, size // dtype.itemsize // n_tokens))
    everything = torch.arange(n_features, device=chunk.scaled.device)
    buffer = chunk.scaled.new_empty(height, n_tokens, dtype=dtype)
    edges = [0, min(first or height, height)]
    while edges[-1] < n_features:
        edges.append(min(_GROWTH * edges[-1], edges[-1] + height, n_features))
    for start, stop in pairwise(edges):
        which: slice | Tensor = slice(start, stop)
        indices = everything[which]
        if features is not None:
            which = indices = features[which]
        weight, bias = parameters.encoder[which], parameters.encoder_bias[which, None]
        products = buffer[: len(weight)]
        if inputs is not None:
            coarse.upper_bounds(weight, bias, inputs, products)
        else:
            torch.mm(weight, chunk.scaled.T, out=products)
            if chunk.silent is not None:
                products[:, chunk.silent] = -torch.inf
        yield EncoderTile(weight, bias, chunk, products), indices


def decode(codes: SparseCodes, parameters: Parameters) -> Tensor:
    """Return the reconstruction ``codes @ D + b_dec``, (n_tokens, d)."""
    order, pointers = codes.token_order()
    cols = codes.cols.index_select(0, order)
    values = codes.values.index_select(0, order)
    total = eager.bag_sum(parameters.decoder, cols, pointers, values)
    return total.add_(parameters.decoder_bias)
