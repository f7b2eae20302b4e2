"""Bringing back features that are dead or underused: the auxiliary loss, as trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skchoice.codes import SparseCodes
from skchoice.losses import auxiliary_loss
from skchoice.model import ENCODER_BIAS, Tokens
from skchoice.state import TrainingState

# The underused features are looked up again after this many steps.
_REFRESH = 8
# Pre-activations that the auxiliary loss computes at most, unless batches are huge.
_ENTRIES = 1 << 22


@dataclass(frozen=True)
class AuxiliaryOptions:
    """Which auxiliary loss, and how much of it."""

    kind: str | None
    coefficient: float
    k: int


@dataclass
class AuxiliaryGradients:
    """Gradients of the auxiliary loss for some features."""

    features: Tensor
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    loss: Tensor  # scalar

    def add_weights(
        self, features: slice | Tensor, encoder: Tensor, decoder: Tensor
    ) -> None:
        """Add those of the weights to gradients of a range, or of ascending features.

        All of these gradients' own features that lie between them are among them.
        """
        if isinstance(features, slice):
            first, last = features.start, features.stop - 1
        else:
            first, last = features[0], features[-1]
        inside = (self.features >= first) & (self.features <= last)
        which = inside.nonzero().view(-1)
        own = self.features[which]
        if isinstance(features, slice):
            here = own - first
        else:
            here = torch.searchsorted(features, own)
        encoder.index_add_(0, here, self.encoder[which])
        decoder.index_add_(0, here, self.decoder[which])


def revive(
    state: TrainingState,
    tokens: Tokens,
    matches: SparseCodes,
    error: Tensor,
    options: AuxiliaryOptions,
) -> AuxiliaryGradients | None:
    """Return the gradients of the auxiliary loss, None where nothing is underused.

    At most one in 32 features takes part in a step, drawn anew each time, so that the
    loss costs at most a fraction of the step however many are underused, and no more
    than memory should be given to.

    Parameters
    ----------
    state : TrainingState
        Its list of underused features is brought up to date, and dead features that
        no token comes near are recentred.
    tokens : Tokens
    matches : SparseCodes
        Of the batch, with affinities as values.
    error : Tensor of shape (n_tokens, d)
        ``x_hat - x``.
    options : AuxiliaryOptions
    """
    _look_up_underused(state, options)
    features = state.underused
    if features is None or not len(features):
        return None
    share, room = state.parameters.n_features // 32, _ENTRIES // len(error)
    most = max(256, min(share, room))
    if len(features) > most:
        drawn = np.sort(state.rng.choice(len(features), most, replace=False))
        features = features[torch.from_numpy(drawn).to(features.device)]
    _recentre(state, features, tokens, matches)
    return _gradients(state, features, tokens, error, options)


def _look_up_underused(state: TrainingState, options: AuxiliaryOptions) -> None:
    if options.kind is None or state.optimizer.step % _REFRESH:
        return
    tracker = state.tracker
    mask = tracker.underused() if options.kind == "zipf" else tracker.dead()
    state.underused = mask.nonzero().view(-1)


def _recentre(
    state: TrainingState, features: Tensor, tokens: Tokens, matches: SparseCodes
) -> None:
    """Lift the bias of dead features that are negative on every token.

    Adam moves a bias by about the learning rate in a step, so one that lies far off
    would stay there for ever. It is moved to where the feature's best token in this
    batch is as near to matching as the weakest match.
    """
    features = features[state.tracker.dead()[features]]
    if not len(features) or not len(matches):
        return
    parameters = state.parameters
    best = (parameters.encoder[features] @ tokens.scaled.T).amax(1)
    far = best + parameters.encoder_bias[features] <= 0
    features = features[far]
    parameters.encoder_bias[features] = matches.values.min() - best[far]
    state.optimizer.forget(ENCODER_BIAS, features)


def _gradients(
    state: TrainingState,
    features: Tensor,
    tokens: Tokens,
    error: Tensor,
    options: AuxiliaryOptions,
) -> AuxiliaryGradients:
    parameters = state.parameters
    bias, decoder = parameters.encoder_bias[features], parameters.decoder[features]
    preactivations = torch.addmm(bias, tokens.scaled, parameters.encoder[features].T)
    if tokens.norms is not None:
        preactivations *= tokens.norms[:, None]
    loss, of_preactivations, of_decoder = auxiliary_loss(
        error, preactivations, decoder, options.k
    )
    if tokens.norms is not None:
        of_preactivations *= tokens.norms[:, None]
    of_preactivations *= options.coefficient
    return AuxiliaryGradients(
        features,
        of_preactivations.T @ tokens.scaled,
        of_preactivations.sum(0),
        of_decoder.mul_(options.coefficient),
        loss,
    )
