"""Which features are like a feature, and which tokens its direction speaks for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skchoice.pages.spool import Spool

# Entries of one block of features by features, or features by vocabulary.
_BLOCK_ENTRIES = 1 << 24


class Ranked(NamedTuple):
    """For each feature the first few of something, the best first."""

    which: NDArray  # (n_features, n) int
    score: NDArray  # (n_features, n) float32


def nearest_by_cosine(components: NDArray, n: int) -> Ranked:
    """Return the features with the largest cosine of decoder directions.

    Parameters
    ----------
    components : float array of shape (n_features, n_columns)
        Rows of unit norm.
    n : int
        At most; a feature is not its own neighbour.
    """
    directions = torch.from_numpy(np.ascontiguousarray(components))
    n_features = len(directions)
    parts = []
    for first, stop in _blocks(n_features, n_features):
        cosines = directions[first:stop] @ directions.T
        own = torch.arange(first, stop)
        cosines[own - first, own] = -torch.inf
        parts.append(cosines.topk(min(n, n_features - 1), dim=1))
    return _ranked(parts)


def nearest_by_cofiring(spool: Spool, n: int) -> Ranked:
    """Return the features that fire on the same tokens.

    The score is the Jaccard index: tokens on which both fire over tokens on which
    either does.
    """
    n_features = spool.n_features
    counts = torch.from_numpy(spool.counts).float()
    parts = []
    for first, stop in _blocks(n_features, n_features):
        both = np.zeros((stop - first, n_features), dtype=np.float32)
        for everything, some in spool.segments(first, stop):
            everything.data.fill(1)
            some.data.fill(1)
            # Rows of the transpose are features, so the product is features by some.
            both += (everything.T @ some.tocsr()).T.toarray()
        shared = torch.from_numpy(both)
        either = counts[first:stop, None] + counts - shared
        jaccard = torch.where(shared > 0, shared / either, 0.0)
        own = torch.arange(first, stop)
        jaccard[own - first, own] = -1.0
        parts.append(jaccard.topk(min(n, n_features - 1), dim=1))
    return _ranked(parts)


def boosted_and_suppressed(
    components: NDArray, unembedding: NDArray, n: int
) -> tuple[Ranked, Ranked]:
    """Return the output tokens that a unit of each feature raises and lowers most.

    Parameters
    ----------
    components : float array of shape (n_features, n_columns)
    unembedding : float array of shape (n_columns, n_vocabulary)
        The scores are ``components @ unembedding``, changes of the logits.
    n : int
    """
    directions = torch.from_numpy(np.ascontiguousarray(components))
    matrix = torch.from_numpy(np.ascontiguousarray(unembedding)).to(directions.dtype)
    n = min(n, matrix.shape[1])
    boosted, suppressed = [], []
    for first, stop in _blocks(len(directions), matrix.shape[1]):
        logits = directions[first:stop] @ matrix
        boosted.append(logits.topk(n, dim=1))
        suppressed.append(logits.topk(n, dim=1, largest=False))
    return _ranked(boosted), _ranked(suppressed)


def _blocks(n_features: int, width: int) -> list[tuple[int, int]]:
    step = max(1, _BLOCK_ENTRIES // width)
    return [
        (first, min(first + step, n_features)) for first in range(0, n_features, step)
    ]


def _ranked(parts: list) -> Ranked:
    return Ranked(
        torch.cat([part.indices for part in parts]).numpy(),
        torch.cat([part.values for part in parts]).float().numpy(),
    )
