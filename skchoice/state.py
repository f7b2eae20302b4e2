"""The state of training: what a fit changes, and what going on needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skchoice.caps import CapSampler
from skchoice.demand import Demand
from skchoice.firing import FiringTracker
from skchoice.metrics import ZipfFit
from skchoice.model import DECODER_BIAS, ENCODER_BIAS, HIGHEST_BIAS, Parameters
from skchoice.optimizer import Adam
from skchoice.standardisation import Standardisation
from skchoice.warm import WarmAllocator


@dataclass
class TrainingState:
    """All that changes during training."""

    parameters: Parameters
    optimizer: Adam
    tracker: FiringTracker
    standardisation: Standardisation
    rng: np.random.Generator
    allocator: WarmAllocator = field(default_factory=WarmAllocator)
    caps: CapSampler | None = None  # set once Feature Choice has begun
    demand: Demand | None = None  # where the caps follow what features want
    zipf_fit: ZipfFit | None = None  # of the densities from before
    underused: Tensor | None = None  # indices, ascending
    history: list[dict] = field(default_factory=list)

    def begin_feature_choice(self, density: NDArray) -> None:
        """Turn to Feature Choice with these expected matches per token."""
        self.caps = CapSampler(density, self.rng)
        self.demand = Demand(self.tracker)
        self.allocator = WarmAllocator()

    def restandardise(self, new: Standardisation) -> None:
        """Go on with another centre and scale: directions stay, biases start anew.

        Of another centre or scale they would be so far off that it took Adam for ever
        to bring them back.
        """
        parameters, optimizer = self.parameters, self.optimizer
        parameters.decoder_bias.zero_()
        parameters.encoder_bias.fill_(HIGHEST_BIAS)
        for bias in (DECODER_BIAS, ENCODER_BIAS):
            optimizer.forget(bias, slice(None))
        self.standardisation, self.allocator = new, WarmAllocator()

    def to(self, device: torch.device) -> TrainingState:
        """Return the state on a device; itself if it is there."""
        if device == self.parameters.encoder.device:
            return self
        parameters = self.parameters.to(device, torch.float32)
        return replace(
            self,
            parameters=parameters,
            optimizer=self.optimizer.to(parameters.arrays()),
            tracker=self.tracker.to(device),
            demand=None if self.demand is None else self.demand.to(device),
            standardisation=self.standardisation.to(device),
            allocator=WarmAllocator(),
            underused=None if self.underused is None else self.underused.to(device),
        )
