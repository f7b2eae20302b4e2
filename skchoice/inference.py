"""Encoding and decoding rows with a fitted model, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from skchoice.codes import SparseCodes
from skchoice.model import Parameters, Tokens, encoder_input
from skchoice.ops import eager
from skchoice.rules import TokenChoice
from skchoice.tiles import EncoderAffinities, encoder_tiles
from skchoice.warm import WarmAllocator

# What turns rows, (n, d), into their codes.
Encoder = Callable[[Tensor], SparseCodes]


class ThresholdEncoder:
    """Codes of rows by a threshold for each feature.

    Parameters
    ----------
    parameters : Parameters
    thresholds : Tensor of shape (n_features,), nonnegative
        A feature fires where its affinity is larger.
    """

    def __init__(self, parameters: Parameters, thresholds: Tensor):
        self.parameters = parameters
        infinity = torch.full_like(thresholds, torch.inf)
        self._at_least = torch.nextafter(thresholds, infinity)

    def __call__(self, x: Tensor) -> SparseCodes:
        """Encode rows, (n, d)."""
        tokens = encoder_input(x, self.parameters)
        parts = []
        for tile, of_tile in encoder_tiles(self.parameters, tokens):
            threshold = self._at_least[of_tile, None]
            for block in tile.blocks():
                features, rows, values = tile.hits(threshold, block)
                parts.append((rows + block.start, of_tile[features], values))
        rows, cols, values = (torch.cat(part) for part in zip(*parts, strict=True))
        shape = (len(x), self.parameters.n_features)
        return tokens.to_codes(SparseCodes.sorted(rows, cols, values, shape))


class TopKEncoder:
    """Codes of rows by Token Choice: the ``k`` largest affinities of each row."""

    def __init__(self, parameters: Parameters, k: int):
        self.parameters = parameters
        self._rule = TokenChoice(k)
        self._allocator = WarmAllocator()

    def __call__(self, x: Tensor) -> SparseCodes:
        """Encode rows, (n, d)."""
        tokens = encoder_input(x, self.parameters)
        return tokens.to_codes(self.matches(tokens))

    def matches(self, tokens: Tokens) -> SparseCodes:
        """Return the matches of a chunk, with affinities as values."""
        n_tokens = len(tokens.scaled)
        affinities = EncoderAffinities(self.parameters, tokens, n_tokens)
        return self._allocator(affinities, self._rule).matches


class CSRBuilder:
    """One CSR matrix from chunks of rows, held in memory once.

    Parameters
    ----------
    shape : tuple (n_rows, n_columns)
    dtype : numpy dtype
    """

    def __init__(self, shape: tuple[int, int], dtype: np.dtype):
        self.shape = shape
        self._indptr = np.zeros(shape[0] + 1, dtype=np.int64)
        self._indices = np.empty(0, dtype=np.int32)
        self._data = np.empty(0, dtype=dtype)
        self._n_rows = self._size = 0

    def append(self, chunk: sp.csr_matrix) -> None:
        """Add rows."""
        end = self._size + chunk.nnz
        if end > len(self._data):
            # Room for all rows at the density so far, and a little more. Growing in
            # place copies nothing, and pages never touched cost no memory.
            share = (self._n_rows + chunk.shape[0]) / self.shape[0]
            self._grow(int(end / share * 1.05) + 1)
        self._indices[self._size : end] = chunk.indices
        self._data[self._size : end] = chunk.data
        rows = slice(self._n_rows + 1, self._n_rows + chunk.shape[0] + 1)
        self._indptr[rows] = chunk.indptr[1:].astype(np.int64) + self._size
        self._n_rows += chunk.shape[0]
        self._size = end

    def finish(self) -> tuple[NDArray, NDArray, NDArray]:
        """Return (data, indices, indptr)."""
        self._grow(self._size)
        # scipy wants both index arrays of one kind, and the narrow one where it fits.
        kind = np.int32 if self._size < 2**31 else np.int64
        return self._data, self._indices, self._indptr.astype(kind, copy=False)

    def _grow(self, size: int) -> None:
        self._indices.resize(size, refcheck=False)
        self._data.resize(size, refcheck=False)


def decode_rows(codes: sp.csr_matrix, parameters: Parameters) -> Tensor:
    """Return ``codes @ D + b_dec``, (n, d), on the device of the parameters."""
    device, dtype = parameters.decoder.device, parameters.decoder.dtype
    index, pointers, values = (
        torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)
        for array in (
            codes.indices.astype(np.int32, copy=False),
            codes.indptr.astype(np.int32, copy=False),
            codes.data,
        )
    )
    total = eager.bag_sum(parameters.decoder, index, pointers, values.to(dtype))
    return total + parameters.decoder_bias


class ErrorSums:
    """Sums from which the fraction of variance unexplained follows, in one pass."""

    def __init__(self, origin: Tensor):
        self._origin = origin.double()
        self._n_rows = 0
        self._error = self._squares = 0.0
        self._sum = torch.zeros_like(self._origin)

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        """Add a chunk of rows and their reconstructions."""
        # Near the mean, so that the squares do not cancel.
        shifted = x.double() - self._origin
        self._n_rows += len(x)
        self._error += (x - x_hat).double().square().sum().item()
        self._squares += shifted.square().sum().item()
        self._sum += shifted.sum(0)

    def fvu(self) -> float:
        """Return the fraction; of constant rows 0 if exact, else 1."""
        mean = self._sum / self._n_rows
        variance = self._squares - self._n_rows * mean.square().sum().item()
        if variance <= 1e-12 * self._squares:
            return 0.0 if self._error <= 1e-12 * self._squares else 1.0
        return self._error / variance


def token_chunks(chunks: Iterable[Tensor], parameters: Parameters) -> Iterable[Tokens]:
    """Yield chunks of rows as the encoder sees them."""
    for chunk in chunks:
        yield encoder_input(chunk, parameters)
