"""Sparse codes: the matches of a batch and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.sparse as sp
import torch
from torch import Tensor

from skchoice.ops import eager
from skchoice.ordering import ascending, by_group_and_member


@dataclass(frozen=True)
class SparseCodes:
    """Matches between tokens and features, feature by feature.

    Parameters
    ----------
    rows : int32 Tensor of shape (n_matches,)
        Token of each match, ascending within a feature.
    cols : int32 Tensor of shape (n_matches,)
        Feature of each match, ascending.
    values : Tensor of shape (n_matches,)
    shape : tuple (n_tokens, n_features)
    """

    rows: Tensor
    cols: Tensor
    values: Tensor
    shape: tuple[int, int]

    def __len__(self) -> int:
        """Return the number of matches."""
        return len(self.values)

    @classmethod
    def sorted(
        cls, rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int]
    ) -> SparseCodes:
        """Build from matches in any order, with positive values."""
        n_rows, n_cols = shape
        cols, rows, values = by_group_and_member(cols, rows, values, n_cols, n_rows)
        return cls(rows.int(), cols.int(), values, shape)

    def with_values(self, values: Tensor) -> SparseCodes:
        """Return the same matches with other values."""
        return SparseCodes(self.rows, self.cols, values, self.shape)

    def of_tokens(self, start: int, stop: int) -> SparseCodes:
        """Return the matches of some tokens, which then count from 0."""
        here = ((self.rows >= start) & (self.rows < stop)).nonzero().view(-1)
        shape = (stop - start, self.shape[1])
        return SparseCodes(
            self.rows[here] - start, self.cols[here], self.values[here], shape
        )

    def counts(self) -> Tensor:
        """Matches of each feature, (n_features,) int64."""
        return eager.counts(self.cols, self.shape[1])

    def feature_pointers(self) -> Tensor:
        """Where each feature's matches begin, (n_features + 1,) int32."""
        return _pointers(self.counts())

    def token_order(self) -> tuple[Tensor, Tensor]:
        """Order that sorts the matches by token, and where each token begins.

        Returns
        -------
        order : int64 Tensor of shape (n_matches,)
            Features ascend within a token.
        pointers : int32 Tensor of shape (n_tokens + 1,)
        """
        counts = eager.counts(self.rows, self.shape[0])
        return ascending(self.rows, self.shape[0]), _pointers(counts)

    def to_scipy(self) -> sp.csr_matrix:
        """Return the codes as CSR with sorted indices."""
        return sp.csc_matrix(
            (
                self.values.cpu().numpy(),
                self.rows.cpu().numpy(),
                self.feature_pointers().cpu().numpy(),
            ),
            self.shape,
        ).tocsr()

    def to_dense(self) -> Tensor:
        """Return the codes as a Tensor of shape (n_tokens, n_features)."""
        dense = self.values.new_zeros(self.shape)
        dense[self.rows.long(), self.cols.long()] = self.values
        return dense


def _pointers(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
