"""One training step against slow numpy, and training as a whole."""

import copy
from itertools import repeat

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from test_standardisation import spread_rows

from skchoice import training
from skchoice.firing import FiringTracker
from skchoice.model import Parameters
from skchoice.optimizer import Adam, CompactAdam
from skchoice.revival import AuxiliaryOptions
from skchoice.rules import FeatureChoice, MutualChoice, TokenChoice
from skchoice.standardisation import Standardisation, standardise
from skchoice.state import TrainingState
from skchoice.training import train, train_steps

N, D, F = 12, 4, 7  # tokens, columns, features
LEARNING_RATE = 0.01
NO_AUXILIARY = AuxiliaryOptions(None, 0.0, 1)
RULES = {
    "token": TokenChoice(2),
    "mutual": MutualChoice(1.75),
    "feature": FeatureChoice(torch.tensor([5, 0, 1, 2, 12, 3, 1])),
}


# ------------------------------------------------- the definition, dense and in numpy


def forward(x, arrays, relative):
    """Affinities, their scale and the centred tokens."""
    encoder, encoder_bias, _, decoder_bias = arrays
    residual = x - decoder_bias
    norms = np.linalg.norm(residual, axis=1) if relative else np.ones(len(x))
    return residual / norms[:, None] @ encoder.T + encoder_bias, norms


def naive_matches(affinities, rule):
    """Match the largest positive affinities first, as the rule allows."""
    matched = np.zeros(affinities.shape, dtype=bool)
    for flat in np.argsort(-affinities, axis=None, kind="stable"):
        token, feature = np.unravel_index(flat, affinities.shape)
        if isinstance(rule, TokenChoice):
            free = matched[token].sum() < rule.k
        elif isinstance(rule, MutualChoice):
            free = matched.sum() < round(rule.k * len(affinities))
        else:
            free = matched[:, feature].sum() < rule.feature_caps[feature]
        matched[token, feature] = free and affinities[token, feature] > 0
    return matched


def reconstruction_loss(x, arrays, relative, matched):
    affinities, norms = forward(x, arrays, relative)
    x_hat = (matched * affinities * norms[:, None]) @ arrays[2] + arrays[3]
    # Tokens of more than three times the typical norm, 1, count less.
    weights = np.minimum(1, (3 / np.linalg.norm(x, axis=1)) ** 3)
    mean = weights @ x / weights.sum()
    error = weights @ ((x - x_hat) ** 2).sum(1)
    return error / (weights @ ((x - mean) ** 2).sum(1)), x - x_hat


def auxiliary_loss(x, arrays, relative, error, features, k_aux, origin):
    """Of the given features alone; the error and the centre are taken as given."""
    affinities, norms = forward(x, (*arrays[:3], origin), relative)
    values = (affinities * norms[:, None])[:, features]
    kept = np.zeros_like(values)
    for row, out in zip(values, kept, strict=True):
        top = np.argsort(-row)[:k_aux]
        out[top] = row[top]
    missed = ((error - kept @ arrays[2][features]) ** 2).sum()
    return missed / ((error - error.mean(0)) ** 2).sum()


def numeric_gradients(loss, arrays, step=1e-5):
    gradients = [np.zeros_like(array) for array in arrays]
    for array, gradient in zip(arrays, gradients, strict=True):
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + step
            above = loss(arrays)
            array[index] = value - step
            gradient[index] = (above - loss(arrays)) / (2 * step)
            array[index] = value
    return gradients


def naive_step(arrays, moments, gradients, count, rate=LEARNING_RATE):
    """Adam with bias correction; the decoder's rows then scaled to unit norm.

    Encoder biases stay at -0.02 or below; those above it do not rise. Where a matrix
    has one moment alone, that is of the mean square of each row.
    """
    decoder = arrays[2]
    along = (gradients[2] * decoder).sum(1, keepdims=True)
    gradients = [*gradients[:2], gradients[2] - along * decoder, gradients[3]]
    updated, new_moments = [], []
    for array, gradient, known in zip(arrays, gradients, moments, strict=True):
        if len(known) == 1:
            second = 0.9 * known[0] + 0.1 * (gradient**2).mean(1)
            typical = np.sqrt(second / (1 - 0.9**count)) + 1e-10
            new_moments.append((second,))
            updated.append(array - rate * gradient / typical[:, None])
            continue
        first, second = known
        first = 0.5 * first + 0.5 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        new_moments.append((first, second))
        corrected = np.sqrt(second / (1 - 0.95**count)) + 1e-10
        change = first / (1 - 0.5**count) / corrected
        updated.append(array - rate * change)
    updated[1] = np.minimum(updated[1], np.maximum(arrays[1], -0.02))
    updated[2] /= np.linalg.norm(updated[2], axis=1, keepdims=True)
    return updated, new_moments


# --------------------------------------------------------------- a state to start from


def a_state(seed, relative, optimizer=Adam):
    rng = np.random.default_rng(seed)
    decoder = rng.normal(size=(F, D))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    arrays = (
        rng.normal(size=(F, D)),
        0.2 * rng.normal(size=F),
        decoder,
        0.3 * rng.normal(size=D),
    )
    parameters = Parameters(
        *(torch.tensor(a, dtype=torch.float32) for a in arrays), relative
    )
    return TrainingState(
        parameters=parameters,
        optimizer=optimizer(parameters.arrays()),
        tracker=FiringTracker(F, 2.0, 100, torch.device("cpu")),
        standardisation=Standardisation(torch.zeros(D, dtype=torch.float64), 1.0),
        rng=rng,
    )


def a_batch(seed):
    rng = np.random.default_rng([seed, 1])
    x = rng.normal(size=(N, D))
    x[0] *= 20  # an outlier
    return torch.tensor(x, dtype=torch.float32)


def train_step(state, x, rule, learning_rate, auxiliary, tally):
    """One batch on its own."""
    train_steps(state, [x], rule, [learning_rate], auxiliary, tally)


def alone(state, step):
    """Batches are allocated one by one."""
    return 1


def in_numpy(tensors):
    return [tensor.double().numpy().copy() for tensor in tensors]


# ------------------------------------------------------------------------ one step


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("with_auxiliary", [False, True])
@pytest.mark.parametrize("optimizer", [Adam, CompactAdam])
def test_one_step(seed, relative, rule, with_auxiliary, optimizer):
    state = a_state(seed, relative, optimizer)
    # Not the first step: then Adam's would be the sign of the gradient alone.
    for number in range(3):
        x = a_batch(100 * seed + number + 1)
        train_step(state, x, rule, LEARNING_RATE, NO_AUXILIARY, training.Tally())
    features, k_aux, coefficient = [0, 2, 3, 6], 2, 0.25
    options = NO_AUXILIARY
    if with_auxiliary:
        # Looked up anew at steps divisible by eight only.
        state.underused = torch.tensor(features)
        options = AuxiliaryOptions("zipf", coefficient, k_aux)
    arrays = in_numpy(state.parameters.arrays())
    moments = [in_numpy(pair) for pair in state.optimizer.moments]
    batch = a_batch(1000 * seed)
    x = batch.double().numpy()

    matched = naive_matches(forward(x, arrays, relative)[0], rule)
    loss, error = reconstruction_loss(x, arrays, relative, matched)
    origin = arrays[3].copy()

    def total_loss(arrays):
        total = reconstruction_loss(x, arrays, relative, matched)[0]
        if with_auxiliary:
            total += coefficient * auxiliary_loss(
                x, arrays, relative, error, features, k_aux, origin
            )
        return total

    gradients = numeric_gradients(total_loss, arrays)
    expected, expected_moments = naive_step(arrays, moments, gradients, 4)

    tally = training.Tally()
    train_step(state, batch, rule, LEARNING_RATE, options, tally)

    found = in_numpy(state.parameters.arrays())
    for one, other in zip(found, expected, strict=True):
        # Steps are of the order of the learning rate: correct to a thousandth of it.
        assert_allclose(one, other, atol=1e-3 * LEARNING_RATE)
    for pair, other in zip(state.optimizer.moments, expected_moments, strict=True):
        for one, moment in zip(in_numpy(pair), other, strict=True):
            assert_allclose(one, moment, rtol=1e-3, atol=1e-5 * np.abs(moment).max())
    assert state.optimizer.step == 4
    assert tally.matches == matched.sum()
    found_loss, found_auxiliary, *sums = tally.measures.tolist()
    assert found_loss == pytest.approx(loss, rel=1e-5)
    squares = (error**2).sum(), ((x - x.mean(0)) ** 2).sum()
    assert sums == pytest.approx(squares, rel=1e-5)
    auxiliary = 0.0
    if with_auxiliary:
        auxiliary = auxiliary_loss(x, arrays, relative, error, features, k_aux, origin)
    assert found_auxiliary == pytest.approx(auxiliary, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("optimizer", [Adam, CompactAdam])
def test_steps_on_batches_that_got_their_matches_together(
    seed, relative, rule, optimizer
):
    state = a_state(seed, relative, optimizer)
    arrays = in_numpy(state.parameters.arrays())
    moments = [in_numpy(pair) for pair in state.optimizer.moments]
    parts = [a_batch(3 * seed), a_batch(3 * seed + 1)[:5], a_batch(3 * seed + 2)[:9]]
    x = torch.cat(parts).double().numpy()
    matched = naive_matches(forward(x, arrays, relative)[0], rule)
    rates = [0.1, 0.1, 0.02]
    n_matches = start = 0
    for number, (part, rate) in enumerate(zip(parts, rates, strict=True), start=1):
        stop = start + len(part)
        rows = x[start:stop]
        kept = matched[start:stop] & (forward(rows, arrays, relative)[0] > 0)
        gradients = numeric_gradients(
            lambda arrays, rows=rows, kept=kept: reconstruction_loss(
                rows, arrays, relative, kept
            )[0],
            arrays,
        )
        arrays, moments = naive_step(arrays, moments, gradients, number, rate)
        n_matches += kept.sum()
        start = stop
    assert 0 < n_matches <= matched.sum()

    tally = training.Tally()
    train_steps(state, parts, rule, rates, NO_AUXILIARY, tally)
    for one, other in zip(in_numpy(state.parameters.arrays()), arrays, strict=True):
        assert_allclose(one, other, atol=1e-3 * rates[0])
    assert tally.steps == 3 and tally.tokens == len(x)
    assert tally.matches == n_matches
    assert tally.budget == rule.caps((len(x), F)).sum()


@pytest.mark.parametrize("tile_rows", [1, 3, 1000])
@pytest.mark.parametrize("optimizer", [Adam, CompactAdam])
def test_tiles_of_the_update_do_not_show(tile_rows, optimizer, monkeypatch):
    results = []
    for height in (tile_rows, 5):
        state = a_state(0, True, optimizer)
        row_bytes = state.parameters.encoder[0].nbytes
        monkeypatch.setattr(training, "_TILE_BYTES", {"cpu": height * row_bytes})
        state.underused = torch.tensor([0, 4, 5])
        state.optimizer.step = 1
        options = AuxiliaryOptions("zipf", 0.1, 1)
        for number in range(3):
            train_step(
                state,
                a_batch(number),
                RULES["mutual"],
                0.01,
                options,
                training.Tally(),
            )
        results.append(in_numpy(state.parameters.arrays()))
    for one, other in zip(*results, strict=True):
        assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_decoder_rows_keep_unit_norm():
    state = a_state(0, True)
    for number in range(20):
        train_step(
            state, a_batch(number), RULES["token"], 0.1, NO_AUXILIARY, training.Tally()
        )
        norms = torch.linalg.vector_norm(state.parameters.decoder, dim=1)
        assert_allclose(norms, 1.0, rtol=1e-6)


def test_a_step_on_constant_tokens_changes_nothing():
    state = a_state(0, False)
    before = in_numpy(state.parameters.arrays())
    x = torch.ones(N, D)
    train_step(state, x, RULES["mutual"], 0.1, NO_AUXILIARY, training.Tally())
    for one, other in zip(in_numpy(state.parameters.arrays()), before, strict=True):
        assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("optimizer", [Adam, CompactAdam])
def test_features_without_matches_are_left_alone(optimizer):
    state = a_state(0, True, optimizer)
    before = in_numpy(state.parameters.arrays())
    rule = FeatureChoice(torch.tensor([3, 0, 3, 0, 3, 0, 3]))
    train_step(state, a_batch(0), rule, 0.1, NO_AUXILIARY, training.Tally())
    after = in_numpy(state.parameters.arrays())
    for one, other in zip(after[:2], before[:2], strict=True):
        assert_array_equal(one[1::2], other[1::2])
        assert (one[::2] != other[::2]).any()


# --------------------------------------------------------------------------- training


def directions_data(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(9).normal(size=(F, D))
    return torch.tensor(rng.exponential(size=(n_rows, F)) @ directions)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_training_lowers_the_loss(rule):
    state = a_state(0, True)
    x = directions_data(N)
    state.standardisation = standardise(x)[0]
    train(
        state,
        repeat(x),
        300,
        lambda state, step, n_tokens: rule,
        alone,
        lambda step: 0.01,
        NO_AUXILIARY,
        lambda record: None,
        1,
    )
    losses = [record["loss"] for record in state.history]
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:5])


@pytest.mark.parametrize("n_steps, record_every", [(1, 1), (7, 3), (6, 3), (2, 5)])
def test_records_are_sums_over_their_steps(n_steps, record_every):
    def run(record_every):
        state, shown = a_state(0, True), []
        train(
            state,
            (directions_data(N, seed=number) for number in range(n_steps)),
            n_steps,
            lambda state, step, n_tokens: MutualChoice(1.5),
            alone,
            lambda step: 0.01 / (step + 1),
            NO_AUXILIARY,
            shown.append,
            record_every,
        )
        assert shown == state.history
        return state

    fine, coarse = run(1).history, run(record_every).history
    assert len(fine) == n_steps
    ends = [*range(record_every, n_steps, record_every), n_steps]
    assert [record["step"] for record in coarse] == ends
    for start, end, record in zip([0, *ends], ends, coarse, strict=False):
        part = fine[start:end]
        assert record["n_tokens"] == end * N
        assert record["learning_rate"] == 0.01 / end
        for name in ("loss", "l0", "unfilled"):
            mean = np.mean([single[name] for single in part])
            assert record[name] == pytest.approx(mean, rel=1e-6)
        fvus = [single["fvu"] for single in part]
        assert min(fvus) <= record["fvu"] <= max(fvus)


def test_rules_are_asked_for_with_what_they_need():
    asked = []

    def rule_for(state, step, n_tokens):
        asked.append((step, n_tokens))
        return TokenChoice(1)

    sizes = [5, 9, 2]
    train(
        a_state(0, False),
        (directions_data(size) for size in sizes),
        3,
        rule_for,
        alone,
        lambda step: 0.1,
        NO_AUXILIARY,
        lambda record: None,
        1,
    )
    assert asked == list(enumerate(sizes))


def test_batches_are_allocated_together_as_asked():
    asked, steps = [], []

    def rule_for(state, step, n_tokens):
        asked.append((step, n_tokens))
        return TokenChoice(1)

    state = a_state(0, False)
    train(
        state,
        (directions_data(size) for size in [5, 9, 2, 4, 6, 7, 8]),
        6,
        rule_for,
        lambda state, step: 1 if step < 2 else 3,
        lambda step: 0.1 / (step + 1),
        NO_AUXILIARY,
        lambda record: None,
        2,
        after_step=lambda step, tally: steps.append(step),
    )
    # At most three of the last four, in equal shares.
    assert asked == [(0, 5), (1, 9), (2, 6), (4, 13)]
    assert steps == [1, 2, 4, 6]
    assert [record["step"] for record in state.history] == [2, 4, 6]
    assert [record["learning_rate"] for record in state.history] == [
        0.1 / 2,
        0.1 / 4,
        0.1 / 6,
    ]


def test_the_auxiliary_loss_revives_dead_features():
    # Features whose bias is so low that they fire on no token.
    def n_dead(kind):
        state = a_state(0, False)
        state.parameters.encoder_bias[:3] = -1.0
        state.parameters.encoder[:3] *= 0.01
        state.tracker = FiringTracker(F, 2.0, 30, torch.device("cpu"))
        x = directions_data(200)
        state.standardisation = standardise(x)[0]
        train(
            state,
            repeat(x),
            400,
            lambda state, step, n_tokens: MutualChoice(2),
            alone,
            lambda step: 0.01,
            AuxiliaryOptions(kind, 1 / 32, 2),
            lambda record: None,
            400,
        )
        return state.history[-1]["n_dead"]

    assert n_dead(None) >= 3
    assert n_dead("k") == 0
    assert n_dead("zipf") == 0


def test_state_can_be_copied_and_goes_on_alike():
    state = a_state(0, True)

    def go_on(state):
        train(
            state,
            (directions_data(N, seed=number) for number in range(5)),
            5,
            lambda state, step, n_tokens: MutualChoice(1.5),
            alone,
            lambda step: 0.01,
            AuxiliaryOptions("zipf", 0.1, 1),
            lambda record: None,
            1,
        )
        return in_numpy(state.parameters.arrays())

    go_on(state)
    twin = copy.deepcopy(state)
    for one, other in zip(go_on(state), go_on(twin), strict=True):
        assert_array_equal(one, other)
    assert twin.optimizer.arrays[0] is twin.parameters.encoder
    assert state.history == twin.history


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("scale", [0.01, 300.0])
def test_another_standardisation_keeps_the_codes_about_its_centre(relative, scale):
    x = torch.tensor(spread_rows(200, D))
    state = a_state(0, relative)
    state.parameters.decoder_bias.zero_()
    state.standardisation = standardise(x)[0]
    other = Standardisation(state.standardisation.centre + 0.5 * scale, scale)
    codes = []
    for moved in (x, x + 0.5 * scale):
        arrays = [array.double().numpy() for array in state.parameters.arrays()]
        rows = state.standardisation.apply(moved).double().numpy()
        affinities, norms = forward(rows, arrays, relative)
        affinities -= arrays[1]
        codes.append(state.standardisation.scale * affinities * norms[:, None])
        state.restandardise(other)
    assert (state.parameters.encoder_bias == torch.tensor(-0.02)).all()
    assert_allclose(codes[1], codes[0], rtol=1e-3, atol=1e-3)
