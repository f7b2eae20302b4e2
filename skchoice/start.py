"""Where training starts: at random parameters, or at what the last fit left."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch

from skchoice import diagnosis
from skchoice.firing import FiringTracker
from skchoice.fitted import FittedSAE
from skchoice.inputs import Rows
from skchoice.model import random_parameters
from skchoice.optimizer import new_optimizer
from skchoice.standardisation import standardise
from skchoice.state import TrainingState
from skchoice.warm import WarmAllocator

# Rows, and numbers, looked at to find the centre and scale of X.
_STANDARDISATION_ROWS = 8192
_STANDARDISATION_ENTRIES = 1 << 21


def new_state(estimator: FittedSAE, rows: Rows, seed: int) -> TrainingState:
    """Return a state with random parameters, for the centre and scale of the rows."""
    rng = np.random.default_rng([seed, 0])
    units = rows.units()
    n_units = max(1, sample_size(rows.shape[1]) // rows.unit_rows)
    if n_units < len(units):
        units = np.sort(rng.choice(units, n_units, replace=False))
    sample = rows.gather(units)
    standardisation, outlying = standardise(sample)
    n_features = estimator._n_features(rows.shape[1])
    diagnosis.check_rows(sample, outlying)
    diagnosis.check_settings(
        estimator.n_calibration, estimator.dead_after, n_features, estimator.k
    )
    parameters = random_parameters(
        n_features,
        rows.shape[1],
        estimator.importance == "relative",
        torch.Generator().manual_seed(seed),
    ).to(rows.device, torch.float32)
    # The average feature fires a hundred times in a window.
    window = estimator.dead_after or math.ceil(100 * n_features / estimator.k)
    return TrainingState(
        parameters=parameters,
        optimizer=new_optimizer(parameters.arrays()),
        tracker=FiringTracker(n_features, estimator.k, window, rows.device),
        standardisation=standardisation,
        rng=rng,
    )


def state_to_go_on_from(estimator: FittedSAE, rows: Rows, seed: int) -> TrainingState:
    """Return a copy of what the last fit left."""
    shape = (estimator._n_features(rows.shape[1]), rows.shape[1])
    if estimator.components_.shape != shape:
        raise ValueError(
            "warm_start=True and partial_fit go on from parameters of shape "
            f"{estimator.components_.shape}, but n_features and X ask for {shape}. "
            "Keep them as they were, or fit anew with warm_start=False."
        )
    if estimator._importance != estimator.importance:
        raise ValueError(
            "warm_start=True and partial_fit go on with importance="
            f"{estimator._importance!r}, not {estimator.importance!r}. Keep it as it "
            "was, or fit anew with warm_start=False."
        )
    state = getattr(estimator, "_state", None)
    if state is None:
        state = _restored_state(estimator, rows, seed)
    state = copy.deepcopy(state).to(rows.device)
    if state.tracker.k != estimator.k:
        state.tracker.k = estimator.k
        state.caps, state.demand = None, None
        state.allocator = WarmAllocator()
    return state


def _restored_state(estimator: FittedSAE, rows: Rows, seed: int) -> TrainingState:
    """Return a state with the published parameters and a fresh optimizer."""
    state = new_state(estimator, rows, seed)
    if estimator._standardisation is None:  # a model of another library has none
        standardisation = state.standardisation
    else:
        standardisation = estimator._standardisation.to(rows.device)
    public = estimator._public_parameters().to(rows.device, torch.float64)
    unit = 1.0 if public.relative else standardisation.scale
    decoder_bias = public.decoder_bias - standardisation.centre
    values = (
        public.encoder,
        public.encoder_bias / unit,
        public.decoder,
        decoder_bias / standardisation.scale,
    )
    for array, value in zip(state.parameters.arrays(), values, strict=True):
        array.copy_(value)
    state.standardisation = standardisation
    state.history = list(estimator.history_)
    return state


def sample_size(n_columns: int) -> int:
    """Return how many rows to find the centre and scale from."""
    return max(1, min(_STANDARDISATION_ROWS, _STANDARDISATION_ENTRIES // n_columns))
