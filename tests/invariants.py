"""What must hold of any allocation, cap or density, said once and by name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from skchoice.codes import SparseCodes
from skchoice.rules import Rule


class MatrixTile:
    """Some features and some tokens of a matrix."""

    def __init__(self, values: torch.Tensor):
        self._values = values

    def part(self, features: torch.Tensor) -> MatrixTile:
        return MatrixTile(self._values[features])

    def blocks(self) -> list[slice]:
        n_tokens = self._values.shape[1]
        size = max(2, n_tokens // 3)
        return [slice(at, min(at + size, n_tokens)) for at in range(0, n_tokens, size)]

    def hits(
        self, threshold: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        values = self._values[:, block]
        features, tokens = (values >= threshold).nonzero(as_tuple=True)
        return features.int(), tokens.int(), values[features, tokens]


class MatrixAffinities:
    """A dense (n_tokens, n_features) matrix, served in small tiles.

    As a real source does, it writes every tile into one buffer, so that a tile that is
    looked at after the next was asked for holds no number. `seen` collects the pairs
    that were served.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        tile_features: int = 3,
        tile_tokens: int = 5,
        sizes: torch.Tensor | None = None,
    ):
        self.matrix = matrix
        self.shape = tuple(matrix.shape)
        self.device = matrix.device
        self.dtype = matrix.dtype
        self.tile_features, self.tile_tokens = tile_features, tile_tokens
        self.one_chunk = tile_tokens >= len(matrix)
        self._sizes = matrix.abs().amax(1) if sizes is None else sizes
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def tiles(
        self,
        features: torch.Tensor | range | None = None,
        tokens: torch.Tensor | None = None,
        first: int | None = None,
    ) -> Iterator[tuple[MatrixTile, torch.Tensor, torch.Tensor]]:
        n_tokens, n_features = self.shape
        features = torch.as_tensor(range(n_features) if features is None else features)
        tokens = torch.arange(n_tokens) if tokens is None else tokens
        buffer = self.matrix.new_empty(
            min(self.tile_features, n_features) * min(self.tile_tokens, n_tokens)
        )
        for of_chunk in tokens.split(self.tile_tokens):
            head = features[:first].split(self.tile_features)[0]
            rest = features[len(head) :].split(self.tile_features)
            for of_tile in (head, *(part for part in rest if len(part))):
                values = self.matrix[of_chunk][:, of_tile].T
                tile = buffer[: values.numel()].view(values.shape)
                tile.copy_(values)
                self.seen.append((of_chunk, of_tile))
                yield MatrixTile(tile), of_tile, of_chunk
                buffer.fill_(torch.nan)

    def token_sizes(self) -> torch.Tensor:
        return self._sizes

    def n_served(self) -> int:
        return sum(len(tokens) * len(features) for tokens, features in self.seen)


# ------------------------------------------------------------------------- allocations


def group_counts(mask: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Matches in each group of the rule, from a dense mask of matches."""
    tokens, features = mask.nonzero(as_tuple=True)
    n_groups = len(rule.caps(tuple(mask.shape)))
    return torch.bincount(rule.groups(tokens, features), minlength=n_groups)


def assert_budget(mask: torch.Tensor, budget: int) -> None:
    n_matches = int(mask.sum())
    assert n_matches <= budget, f"{n_matches} matches exceed the budget of {budget}"


def assert_caps(counts: torch.Tensor, caps: torch.Tensor) -> None:
    over = (counts > caps).nonzero().view(-1).tolist()
    assert not over, f"groups {over} exceed their caps: {counts[over]} > {caps[over]}"


def assert_positive(mask: torch.Tensor, affinities: torch.Tensor) -> None:
    least = affinities[mask].min() if mask.any() else None
    assert least is None or least > 0, f"an affinity of {least} was matched"


def assert_maximal(mask: torch.Tensor, affinities: torch.Tensor, rule: Rule) -> None:
    """No allowed match is left out, and none stands where a better one could.

    Each group is full or has all its positives; what was left out is smaller than what
    was kept in its group, or equal and later by flat index.
    """
    shape = tuple(affinities.shape)
    flat = torch.arange(affinities.numel())
    groups = rule.groups(flat // shape[1], flat % shape[1])
    values, kept = affinities.reshape(-1), mask.reshape(-1)
    for group, cap in enumerate(rule.caps(shape).tolist()):
        positive = flat[(groups == group) & (values > 0)]
        chosen, left_out = positive[kept[positive]], positive[~kept[positive]]
        assert len(chosen) == min(cap, len(positive)), (
            f"group {group} has {len(chosen)} of {len(positive)} positives, cap {cap}"
        )
        if len(chosen) and len(left_out):
            worst = min((values[pair].item(), -pair.item()) for pair in chosen)
            best = max((values[pair].item(), -pair.item()) for pair in left_out)
            assert worst > best, f"group {group} kept {worst} and left out {best}"


def assert_same_matches(
    matches: SparseCodes, mask: torch.Tensor, affinities: torch.Tensor
) -> None:
    """The sparse matches are those of the mask, once each, with affinities as values.

    They stand in the order that SparseCodes promises: by feature, then by token.
    """
    features, tokens = mask.T.nonzero(as_tuple=True)
    assert matches.shape == tuple(mask.shape)
    torch.testing.assert_close(matches.rows, tokens.int(), rtol=0, atol=0)
    torch.testing.assert_close(matches.cols, features.int(), rtol=0, atol=0)
    torch.testing.assert_close(
        matches.values, affinities[tokens, features], rtol=0, atol=0
    )


# ------------------------------------------------------------------ caps and densities


def assert_density(density: np.ndarray, k: float) -> None:
    """Probabilities that sum to k."""
    assert density.dtype == np.float64
    assert density.min() >= 0.0 and density.max() <= 1.0
    np.testing.assert_allclose(density.sum(), k, rtol=1e-12)


def assert_drawn_caps(caps: np.ndarray, density: np.ndarray, n_tokens: int) -> None:
    """Integer caps with the exact sum, none far from its expectation.

    The tolerance is that of expectations held in millionths of a match.
    """
    assert caps.dtype == np.int64
    assert caps.sum() == round(round(float(density.sum()), 9) * n_tokens)
    assert caps.min() >= 0 and caps.max() <= n_tokens
    distance = np.abs(caps - density * n_tokens)
    assert distance.max() < 1 + 1e-5, f"cap {distance.argmax()} is {distance.max()} off"
