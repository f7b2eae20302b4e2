"""Thresholds for inference, so that no row depends on its neighbours.

They are order statistics of the affinities of a sample of ``n`` rows: gated at the
``r``-th largest of a feature's affinities, a new row fires with probability
``r / (n + 1)``. Asking for ``r = density * (n + 1)`` therefore makes the *expected
held-out* density right, and with it L0. The exact selection of training finds the order
statistics here too, in a stream.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skchoice.affinities import Affinities
from skchoice.allocation import allocate
from skchoice.caps import systematic_caps
from skchoice.codes import SparseCodes
from skchoice.ordering import rank
from skchoice.profiles import fill_to
from skchoice.rules import FeatureChoice, MutualChoice

# The gate lies this far below the order statistic, as a share of the gap to the next:
# clear of rounding, and as good as on it.
_BELOW = 2.0**-8
# Redistribution ends when less than this share of the budget is unfilled.
_NEGLIGIBLE = 1e-4
_MAX_ROUNDS = 10


class Calibration(NamedTuple):
    """Thresholds and what they give on the sample."""

    thresholds: Tensor  # (n_features,), gate: affinity > threshold
    target: NDArray  # (n_features,) expected matches per token, summing to k if filled
    density: NDArray  # (n_features,) matches per token that the thresholds give here
    unfilled: float  # share of the budget without a positive affinity

    def scaled_to(self, over: Affinities) -> Calibration:
        """Scale all thresholds alike, for the same matches per token of other rows.

        Parameters
        ----------
        over : Affinities
            Of the other rows, divided by the thresholds of their features.

        Returns
        -------
        Calibration
            With the target and the density as they were.
        """
        start = torch.ones_like(self.thresholds[:1])
        factor = calibrate_mutual(over, float(self.target.sum()), start).thresholds
        return self._replace(thresholds=self.thresholds * factor)


def calibrate_mutual(affinities: Affinities, k: float, start: Tensor) -> Calibration:
    """Find the one threshold at which ``k`` matches per token are expected.

    Parameters
    ----------
    affinities : Affinities
        Of the sample.
    k : float
    start : Tensor of shape (1,)
        Threshold at which to start looking.

    Returns
    -------
    Calibration
    """
    n_rows, n_features = affinities.shape
    wanted = min(round(k * n_rows), n_rows * n_features)
    rule = MutualChoice((wanted + 1) / n_rows)
    matches = allocate(affinities, rule, start).matches
    values = matches.values.sort(descending=True).values
    threshold = values.new_zeros(())
    if len(values) > wanted:
        threshold = (values[max(wanted - 1, 0)] + values[wanted]) / 2
    unfilled = max(0.0, 1.0 - len(values) / wanted) if wanted else 0.0
    thresholds = threshold.expand(n_features).clone()
    density = _density(matches, thresholds)
    return Calibration(thresholds, density, density, unfilled)


def calibrate_features(
    affinities: Affinities, density: NDArray, start: Tensor, order: NDArray
) -> Calibration:
    """Find each feature's threshold at which its density is expected.

    Density that a feature cannot reach, for want of positive affinities, is given to
    the others in proportion to theirs; a feature without density stays without.

    Parameters
    ----------
    affinities : Affinities
        Of the sample.
    density : array of shape (n_features,)
        Matches per token of each feature.
    start : Tensor of shape (n_features,)
        Thresholds at which to start looking.
    order : int array of shape (n_features,)
        Order in which integer counts are drawn from the densities.

    Returns
    -------
    Calibration
    """
    n_rows, _ = affinities.shape
    total = float(density.sum())
    target, supply = density, (density > 0).astype(np.float64)
    for _ in range(_MAX_ROUNDS):
        expected = target * (n_rows + 1)
        rare = expected < 1
        # The order statistics: n rows leave n + 1 gaps.
        ranks = systematic_caps(np.where(rare, 0.0, target), n_rows + 1, order=order)
        # Within one match of the target on the sample itself, too.
        ranks = np.minimum(ranks, np.floor(target * n_rows).astype(ranks.dtype) + 1)
        ranks = ranks.clip(max=n_rows)
        rule = FeatureChoice(torch.from_numpy(np.minimum(ranks + 2, n_rows)))
        seen = allocate(affinities, rule, start)
        counts = seen.matches.counts().cpu().numpy()
        supply = np.where(counts < ranks, np.minimum(supply, counts / n_rows), supply)
        supply = np.where(counts == 0, 0.0, supply)
        wanted = np.where(rare, expected, ranks)
        missing = np.maximum(wanted - counts, 0).sum() / wanted.sum()
        reachable = min(1.0, round(target.sum() / total, 9))
        unfilled = float(1.0 - (1.0 - missing) * reachable)
        if unfilled < _NEGLIGIBLE or (target >= supply).all():
            break
        target = fill_to(np.maximum(target, 1e-12), total, upper=supply)
    thresholds = _thresholds_at(seen.matches, ranks, expected)
    density = _density(seen.matches, thresholds)
    return Calibration(thresholds, target, density, unfilled)


def _density(matches: SparseCodes, thresholds: Tensor) -> NDArray:
    """Return the matches per token that pass the thresholds."""
    passed = matches.values > thresholds[matches.cols.long()]
    counts = torch.bincount(matches.cols[passed], minlength=matches.shape[1])
    return counts.cpu().numpy() / matches.shape[0]


def _thresholds_at(matches: SparseCodes, ranks: NDArray, expected: NDArray) -> Tensor:
    """Return the gates at each feature's ``rank``-th largest affinity.

    A feature expected ``r < 1`` times in the sample is gated above its largest
    affinity. If its tail is exponential, the gap ``g`` between its two largest is so
    too, and at ``2 g * (1 / r - 1)`` above the largest ``r`` matches are expected.
    """
    n_rows, n_features = matches.shape
    groups, members = matches.cols.long(), matches.rows.long()
    largest = rank(groups, members, matches.values, n_features, n_rows, in_order=True)
    device = matches.values.device
    number = torch.from_numpy(ranks).to(device)
    upper, lower = largest.value(number), largest.value(number + 1)
    # Below it even where rounding has no number between the two.
    gate = (upper - _BELOW * (upper - lower)).minimum(upper.nextafter(lower))
    first, second = (largest.value(torch.full_like(number, n)) for n in (1, 2))
    rare = torch.from_numpy(expected).to(device, gate.dtype).clamp(min=1e-6)
    beyond = first + 2.0 * (first - second) * (1.0 / rare - 1.0)
    gate = torch.where(rare < 1, beyond, gate)
    return torch.where(number > largest.counts(), 0.0, gate)
