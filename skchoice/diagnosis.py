"""Warnings where a user is likely to go wrong."""

from __future__ import annotations

import math
import sys
import warnings

import torch
from torch import Tensor

from skchoice.calibration import Calibration
from skchoice.exceptions import (
    ConstantRowsWarning,
    DictionaryCollapseWarning,
    DivergenceError,
    DivergenceWarning,
    FewCalibrationRowsWarning,
    FewRowsWarning,
    OutlierRowsWarning,
    ShortWindowWarning,
    UnfilledBudgetWarning,
)
from skchoice.model import all_finite
from skchoice.state import TrainingState

_UNFILLED = 0.01  # of the budget
_DIVERGED = 2.0  # error over variance; a short fit may end at 1
_HOPELESS = 1000.0
_OUTLYING = 0.25  # of the variance
_FEW_CALIBRATION_ROWS = 100
_SHORT_WINDOW = 20  # expected matches of the average feature
# Directions closer than this are the same, in spaces wide enough to tell.
_SAME_COSINE = 0.99
_SAME_SHARE = 0.1
_MIN_COLUMNS = 16
_OURS = ("skchoice", "sklearn", "torch")


def check_size(n_rows: int, n_features: int) -> None:
    """Warn where there are too few rows to train on for so many features."""
    if n_rows < n_features:
        _warn(
            f"There are {n_rows} rows to train on for n_features={n_features}: most "
            "features will not be learned. Use more rows or fewer features.",
            FewRowsWarning,
        )


def check_rows(sample: Tensor, outlying: float) -> None:
    """Warn about rows that there is little to learn from.

    Parameters
    ----------
    sample : Tensor of shape (n, d)
    outlying : float
        Share of the sample's variance in rows of huge norm.
    """
    if (sample == sample[0]).all():
        _warn(
            "All rows of X are equal: there is nothing to learn.", ConstantRowsWarning
        )
    if outlying > _OUTLYING:
        _warn(
            f"{outlying:.0%} of the variance of X lies in rows more than ten times "
            "further from the mean than the median row. They count less in training, "
            "but still cost quality and rule the explained variance: leave them out "
            "(of a store: without_outliers(), --without-outliers; in language models, "
            "the first token of a sequence) or clip their norms.",
            OutlierRowsWarning,
        )


def check_settings(
    n_calibration: int | None, dead_after: int | None, n_features: int, k: float
) -> None:
    """Warn about parameters that are allowed and seldom wise."""
    if n_calibration and n_calibration < _FEW_CALIBRATION_ROWS:
        _warn(
            f"n_calibration={n_calibration} rows are too few for thresholds at which "
            f"new rows have k={k} matches. Take {_FEW_CALIBRATION_ROWS} or more, 0 for "
            "the training rows, or None.",
            FewCalibrationRowsWarning,
        )
    if dead_after and dead_after * k < _SHORT_WINDOW * n_features:
        wanted = math.ceil(_SHORT_WINDOW * n_features / k)
        _warn(
            f"dead_after={dead_after} tokens, in which the average feature expects "
            f"{dead_after * k / n_features:.2g} matches, count features as dead that "
            "are only rare, and the auxiliary loss then keeps them from firing. Take "
            f"{wanted} or more, or None.",
            ShortWindowWarning,
        )


def check_parameters(state: TrainingState) -> None:
    """Raise where parameters are no numbers any more."""
    if not all(map(all_finite, state.parameters.arrays())):
        raise DivergenceError(
            "Training has diverged: parameters have left the range of float32. Lower "
            f"learning_rate, which has come to {state.history[-1]['learning_rate']:.3g}"
            ", or rescale X."
        )


def check_convergence(state: TrainingState) -> None:
    """Raise where training has come to nothing at all."""
    fvu, rate = (state.history[-1][name] for name in ("fvu", "learning_rate"))
    # Random directions begin by adding up to half as many times a row as there are
    # features to a column, and a short fit may end there.
    n_features, n_columns = state.parameters.encoder.shape
    if not fvu < max(_HOPELESS, (n_features / n_columns) ** 2):
        raise DivergenceError(
            f"Training has diverged: it ended with {fvu:.3g} times the variance of X "
            f"as its error. Lower learning_rate, which has come to {rate:.3g}."
        )


def check_calibration(n_rows: int, n_features: int, k: float) -> None:
    """Warn where thresholds of single features come from hardly any match."""
    expected = n_rows * k / n_features
    if expected < 1:
        _warn(
            f"Each feature's threshold was calibrated on {n_rows} rows, in which the "
            f"average feature expects {expected:.2g} matches: features may stay silent "
            "on new rows, and L0 miss k. Use more rows or fewer features, or set "
            "n_calibration: so many rows are set aside, and 0 takes those of training.",
            FewCalibrationRowsWarning,
        )


def check_fit(state: TrainingState, calibration: Calibration, k: float) -> None:
    """Warn about a fit that spent its budget badly."""
    unfilled = max(state.history[-1]["unfilled"], calibration.unfilled)
    if unfilled > _UNFILLED:
        _warn(
            f"{unfilled:.1%} of the budget of k={k} matches per row stayed unfilled: "
            "there were too few positive affinities. Lower k, raise n_features, or "
            "give more varied rows.",
            UnfilledBudgetWarning,
        )
    fvu = state.history[-1]["fvu"]
    if not fvu < _DIVERGED:
        _warn(
            f"Training ended with {fvu:.3g} times the variance of X as its error: it "
            "has diverged. Lower learning_rate.",
            DivergenceWarning,
        )
    same = _share_of_same_directions(state.parameters.decoder)
    if same > _SAME_SHARE:
        _warn(
            f"About {same:.0%} of the features have a twin with the same decoder "
            "direction: the dictionary has collapsed. Lower learning_rate or "
            "n_features, or give more varied rows.",
            DictionaryCollapseWarning,
        )


def _share_of_same_directions(decoder: Tensor) -> float:
    n_features, n_columns = decoder.shape
    if n_columns < _MIN_COLUMNS:
        return 0.0
    some = decoder[:: max(1, n_features // 256)]
    alike = torch.zeros(len(some), dtype=torch.int64, device=decoder.device)
    for tile in decoder.split(8192):
        alike += (some @ tile.T > _SAME_COSINE).sum(1)
    # Every direction is its own twin once.
    return (alike > 1).double().mean().item()


def _warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user, past this package and the wrappers around it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
