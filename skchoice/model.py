"""Parameters of a sparse autoencoder, and what they make of tokens.

In the symbols of the documentation, for a token ``x`` of shape (d,)::

    absolute importance                      relative importance
    r = x - b_dec                            r = x - b_dec
    a = W r + b_enc                          a = W (r / norm(r)) + b_enc
    code = a where matched                   code = norm(r) * a where matched
    x_hat = code @ D + b_dec                 x_hat = code @ D + b_dec

``a`` cut at zero is the affinity that the allocation rules compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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


def decode(codes: SparseCodes, parameters: Parameters) -> Tensor:
    """Return the reconstruction ``codes @ D + b_dec``, (n_tokens, d)."""
    order, pointers = codes.token_order()
    cols = codes.cols.index_select(0, order)
    values = codes.values.index_select(0, order)
    total = eager.bag_sum(parameters.decoder, cols, pointers, values)
    return total.add_(parameters.decoder_bias)
