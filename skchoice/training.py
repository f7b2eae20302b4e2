"""The training loop, readable downward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skchoice.codes import SparseCodes
from skchoice.gradients import MatchGradients
from skchoice.losses import reconstruction_loss
from skchoice.model import (
    DECODER,
    DECODER_BIAS,
    ENCODER,
    ENCODER_BIAS,
    HIGHEST_BIAS,
    Tokens,
    decode,
    encoder_input,
)
from skchoice.optimizer import CompactAdam
from skchoice.revival import AuxiliaryGradients, AuxiliaryOptions, revive
from skchoice.rules import Rule
from skchoice.state import TrainingState
from skchoice.tiles import DEVICE_TILE_BYTES, EncoderAffinities

# Of the gradient of one tile of a weight matrix. On the CPU smaller tiles stay nearer
# the cache, and the many calls cost more than that gains.
_TILE_BYTES = {"cpu": 1 << 22}
# Rows of more than this many times the median norm count less, the more the further.
_NORM_LIMIT = 3.0


@dataclass
class Tally:
    """Sums over the steps since the last record; pooled, never averaged ratios."""

    steps: int = 0
    tokens: int = 0
    matches: int = 0
    budget: int = 0
    # Of the losses, the auxiliary losses, the squared errors and the variances: on the
    # device, which need not be waited for before the record.
    measures: Tensor = field(default_factory=lambda: torch.zeros(4).double())

    def add(self, *measures: Tensor) -> None:
        """Add the four measures of a step."""
        new = torch.stack(measures).double()
        self.measures = self.measures.to(new.device) + new


@torch.no_grad()
def train(
    state: TrainingState,
    batches: Iterator[Tensor],
    n_steps: int,
    rule_for: Callable[[TrainingState, int, int], Rule],
    n_together: Callable[[TrainingState, int], int],
    learning_rate: Callable[[int], float],
    auxiliary: AuxiliaryOptions,
    on_record: Callable[[dict], None],
    record_every: int,
    first_step: int = 0,
    tally: Tally | None = None,
    after_step: Callable[[int, Tally], None] | None = None,
) -> None:
    """Run some steps.

    Parameters
    ----------
    state : TrainingState
        Changed in place.
    batches : iterator of Tensors of shape (n_tokens, d)
        Rows in the units of X.
    n_steps : int
    rule_for : callable
        ``rule_for(state, step, n_tokens)`` gives the allocation rule of a step.
    n_together : callable
        ``n_together(state, step)`` batches at most from this step on get their matches
        together, as many each time; then a step is taken on each.
    learning_rate : callable
        ``learning_rate(step)``, step counted from 0.
    auxiliary : AuxiliaryOptions
    on_record : callable
        Called with each record added to ``state.history``.
    record_every : int
        Steps summed up in one record.
    first_step, tally : optional
        Where to go on: the steps already done, and the sums since the last record.
    after_step : callable, optional
        Called with the number of steps done and the sums since the last record, where
        the next batches are to get their matches.
    """
    tally = tally or Tally()
    step = first_step
    while step < n_steps:
        # In equal shares: a last one of few rows would leave features without a match.
        n_left = n_steps - step
        n_now = math.ceil(n_left / math.ceil(n_left / n_together(state, step)))
        parts = [state.standardisation.apply(next(batches)) for _ in range(n_now)]
        rates = [learning_rate(step + part) for part in range(n_now)]
        rule = rule_for(state, step, sum(map(len, parts)))
        train_steps(state, parts, rule, rates, auxiliary, tally)
        step += n_now
        if tally.steps >= record_every or step == n_steps:
            record = _record(state, tally, rates[-1], type(rule).__name__)
            state.history.append(record)
            on_record(record)
            tally = Tally()
        if after_step is not None:
            after_step(step, tally)


def train_steps(
    state: TrainingState,
    parts: list[Tensor],
    rule: Rule,
    learning_rates: list[float],
    auxiliary: AuxiliaryOptions,
    tally: Tally,
) -> None:
    """Allocate some batches together, then learn from one after the other.

    Parameters change on the way: each batch keeps its matches, and these take the
    affinities of the time.
    """
    if len(parts) == 1:
        tokens, matches = _allocate(state, parts[0], rule, tally)
        _learn(state, parts[0], tokens, matches, learning_rates[0], auxiliary, tally)
        return
    _, together = _allocate(state, torch.cat(parts), rule, tally)
    start = 0
    for part, rate in zip(parts, learning_rates, strict=True):
        stop = start + len(part)
        tokens = encoder_input(part, state.parameters)
        matches = tokens.rescored(together.of_tokens(start, stop), state.parameters)
        _learn(state, part, tokens, matches, rate, auxiliary, tally)
        start = stop


def _allocate(
    state: TrainingState, x: Tensor, rule: Rule, tally: Tally
) -> tuple[Tokens, SparseCodes]:
    """Return what the encoder sees, and the matches with their affinities."""
    n_tokens, tokens = len(x), encoder_input(x, state.parameters)
    del x  # of several batches it is a copy, and as large as all else
    affinities = EncoderAffinities(state.parameters, tokens, n_tokens)
    seen = state.allocator(affinities, rule)
    tally.budget += seen.budget
    if state.demand is not None:
        state.demand.update(seen.caps, seen.cuts, n_tokens)
    return tokens, seen.matches


def _learn(
    state: TrainingState,
    x: Tensor,
    tokens: Tokens,
    matches: SparseCodes,
    learning_rate: float,
    auxiliary: AuxiliaryOptions,
    tally: Tally,
) -> None:
    """Reconstruct a batch from its matches, and update all parameters."""
    parameters = state.parameters
    codes = tokens.to_codes(matches)
    error = decode(codes, parameters).sub_(x)
    result = reconstruction_loss(x, error, _NORM_LIMIT)
    gradients = MatchGradients(result.gradient, tokens, codes, parameters)

    state.tracker.update(matches.counts(), len(x))
    extra = revive(state, tokens, matches, error, auxiliary)
    _update(state, gradients, extra, learning_rate)

    tally.steps += 1
    tally.tokens += len(x)
    tally.matches += len(matches)
    tally.add(
        result.loss,
        extra.loss if extra else torch.zeros_like(result.loss),
        result.squared_error,
        result.variance,
    )


def _update(
    state: TrainingState,
    gradients: MatchGradients,
    extra: AuxiliaryGradients | None,
    learning_rate: float,
) -> None:
    """Take one Adam step, a tile of features at a time."""
    parameters, optimizer = state.parameters, state.optimizer
    optimizer.begin_step(learning_rate)
    if extra is not None:
        gradients.encoder_bias[extra.features] += extra.encoder_bias
        gradients.parallel[extra.features] += (
            extra.decoder * parameters.decoder[extra.features]
        ).sum(1)
    optimizer.update(DECODER_BIAS, gradients.decoder_bias)
    # One that is above the limit, as in models of other libraries, can only fall.
    limit = parameters.encoder_bias.clamp(min=HIGHEST_BIAS)
    biases = optimizer.update(ENCODER_BIAS, gradients.encoder_bias)
    torch.minimum(biases, limit, out=biases)
    for features in _tiles(state, gradients, extra):
        encoder, decoder = gradients.weights(features)
        if extra is not None:
            extra.add_weights(features, encoder, decoder)
        # A step along the direction itself would be undone by the normalisation.
        along = gradients.parallel[features, None]
        decoder.addcmul_(parameters.decoder[features], along, value=-1)
        optimizer.update(ENCODER, encoder, features)
        optimizer.update(DECODER, decoder, features, unit_norm=True)
        # Held while the next are made, they would take twice the memory, and so much at
        # once goes back to the system after each step: to get it again takes time.
        del encoder, decoder


def _tiles(
    state: TrainingState, gradients: MatchGradients, extra: AuxiliaryGradients | None
) -> Iterator[slice | Tensor]:
    """Yield the features whose weights may move, a tile at a time, ascending."""
    encoder = state.parameters.encoder
    size = _TILE_BYTES.get(encoder.device.type, DEVICE_TILE_BYTES)
    height = max(1, size // encoder[0].nbytes)
    if isinstance(state.optimizer, CompactAdam):
        features = gradients.matched()
        if extra is not None:
            features = torch.cat([features, extra.features]).unique()
        if len(features):
            yield from features.split(height)
        return
    for start in range(0, len(encoder), height):
        yield slice(start, min(start + height, len(encoder)))


def _record(
    state: TrainingState, tally: Tally, learning_rate: float, rule: str
) -> dict:
    tracker = state.tracker
    loss, auxiliary, error, variance = tally.measures.cpu().tolist()
    return {
        "step": state.optimizer.step,
        "n_tokens": tracker.n_tokens,
        "rule": rule,
        "loss": loss / tally.steps,
        "auxiliary_loss": auxiliary / tally.steps,
        "fvu": error / variance if variance else 0.0,
        "l0": tally.matches / tally.tokens,
        "unfilled": 1.0 - tally.matches / tally.budget if tally.budget else 0.0,
        "n_dead": int(tracker.dead().sum()),
        "n_underused": 0 if state.underused is None else len(state.underused),
        "learning_rate": learning_rate,
    }
