"""Every rule against its definition, and the streamed selection against the dense."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from invariants import (
    MatrixAffinities,
    assert_budget,
    assert_caps,
    assert_maximal,
    assert_positive,
    assert_same_matches,
    group_counts,
)

from skchoice import allocation, looks
from skchoice import warm as warming
from skchoice.allocation import allocate, select
from skchoice.caps import systematic_caps
from skchoice.profiles import uniform_density, zipf_density
from skchoice.rules import FeatureChoice, MutualChoice, Rule, TokenChoice
from skchoice.warm import WarmAllocator


def drawn(density, shape, rng):
    return torch.from_numpy(systematic_caps(density, shape[0], rng.uniform()))


def any_caps(shape, k, rng):
    return torch.from_numpy(rng.integers(0, shape[0] + 3, shape[1]))


# From a shape, a budget of k matches per token and a numpy Generator, a rule. A rule
# joins by one line, and inherits every test below.
RULES = {
    "token": lambda shape, k, rng: TokenChoice(k),
    "mutual": lambda shape, k, rng: MutualChoice(k),
    "mutual, k fractional": lambda shape, k, rng: MutualChoice(k + rng.uniform()),
    "feature, uniform": lambda shape, k, rng: FeatureChoice(
        drawn(uniform_density(shape[1], min(k, shape[1])), shape, rng)
    ),
    "feature, zipf": lambda shape, k, rng: FeatureChoice(
        drawn(zipf_density(shape[1], min(k, shape[1])), shape, rng)
    ),
    "feature, any caps": lambda shape, k, rng: FeatureChoice(any_caps(shape, k, rng)),
}
every_rule = pytest.mark.parametrize("make", RULES.values(), ids=RULES.keys())

quick = settings(max_examples=40, deadline=None)


class Problem(NamedTuple):
    """Affinities full of ties, and what a rule is made from."""

    matrix: torch.Tensor
    k: int
    seed: int

    def rule(self, make) -> Rule:
        rng = np.random.default_rng(self.seed)
        return make(tuple(self.matrix.shape), self.k, rng)


def subnormal(dtype):
    return torch.tensor(torch.finfo(dtype).smallest_normal, dtype=dtype) / 2**20


@st.composite
def problems(draw, max_side=7, scales=("one", "huge", "subnormal"), max_tokens=None):
    shape = draw(
        st.tuples(st.integers(1, max_tokens or max_side), st.integers(1, max_side))
    )
    integers = draw(hnp.arrays(np.int8, shape, elements=st.integers(-2, 3)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scale = {"one": 1.0, "huge": 1e30, "subnormal": subnormal(dtype)}
    matrix = torch.from_numpy(integers).to(dtype) * scale[draw(st.sampled_from(scales))]
    k = draw(st.integers(0, shape[1] + 1))
    return Problem(matrix, k, draw(st.integers(0, 1000)))


DEGENERATE = {
    "one pair": [[2.0]],
    "one pair, zero": [[0.0]],
    "one pair, negative": [[-1.0]],
    "one token": [[1.0, 3.0, -1.0, 3.0]],
    "one feature": [[1.0], [3.0], [-1.0], [3.0]],
    "all negative": [[-1.0, -2.0], [-3.0, -1.0]],
    "all zero": [[0.0, 0.0], [0.0, -0.0]],
    "all tied": [[1.0] * 4] * 5,
    "empty column": [[1.0, -1.0, 2.0], [2.0, 0.0, 1.0], [3.0, -5.0, 1.0]],
    "one-hot tokens": [[0.0, 0.0, 7.0], [5.0, 0.0, 0.0], [0.0, 0.0, 6.0]],
}
every_degenerate = pytest.mark.parametrize(
    "matrix", list(map(torch.tensor, DEGENERATE.values())), ids=DEGENERATE.keys()
)


def expected(affinities: torch.Tensor, rule: Rule) -> torch.Tensor:
    """The matches by one sort: rank in the group below the cap."""
    n_tokens, n_features = affinities.shape
    flat = torch.arange(affinities.numel())
    groups = rule.groups(flat // n_features, flat % n_features).numpy()
    values = affinities.reshape(-1).numpy()
    order = np.lexsort((flat, -values, groups))
    first = np.searchsorted(groups[order], groups[order])
    rank = np.arange(len(order)) - first
    caps = rule.caps((n_tokens, n_features)).numpy()
    keep = (rank < caps[groups[order]]) & (values[order] > 0)
    mask = np.zeros(len(order), dtype=bool)
    mask[order[keep]] = True
    return torch.from_numpy(mask.reshape(n_tokens, n_features))


# ----------------------------------------------------------- each rule by its own words


@quick
@given(problem=problems())
def test_token_choice_gives_each_row_its_k_largest(problem):
    mask = select(problem.matrix, TokenChoice(problem.k))
    for row, chosen in zip(problem.matrix.tolist(), mask.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda j: (-row[j], j))[: problem.k]
        assert {j for j in best if row[j] > 0} == {j for j, c in enumerate(chosen) if c}


@quick
@given(problem=problems(), tenths=st.integers(0, 80))
def test_mutual_choice_gives_the_batch_its_largest(problem, tenths):
    k = tenths / 10
    mask = select(problem.matrix, MutualChoice(k)).view(-1).tolist()
    flat = problem.matrix.view(-1).tolist()
    order = sorted(range(len(flat)), key=lambda pair: (-flat[pair], pair))
    best = order[: round(k * len(problem.matrix))]
    assert {p for p in best if flat[p] > 0} == {p for p, c in enumerate(mask) if c}


@quick
@given(problem=problems())
def test_feature_choice_gives_each_column_as_many_as_its_cap(problem):
    rule = problem.rule(RULES["feature, any caps"])
    mask = select(problem.matrix, rule)
    columns = zip(
        problem.matrix.T.tolist(), mask.T.tolist(), rule.feature_caps, strict=True
    )
    for column, chosen, cap in columns:
        best = sorted(range(len(column)), key=lambda i: (-column[i], i))[:cap]
        assert {i for i in best if column[i] > 0} == {
            i for i, c in enumerate(chosen) if c
        }


# ----------------------------------------------------------------- the dense definition


@every_rule
@quick
@given(problem=problems())
def test_budget_and_caps_hold_and_no_match_is_left_out(make, problem):
    rule = problem.rule(make)
    mask = select(problem.matrix, rule)
    caps = rule.caps(tuple(mask.shape))
    assert caps.dtype == torch.int64
    assert_budget(mask, int(caps.sum()))
    assert_caps(group_counts(mask, rule), caps)
    assert_positive(mask, problem.matrix)
    assert_maximal(mask, problem.matrix, rule)


@every_rule
@quick
@given(problem=problems(max_side=3, scales=["one"]))
def test_kept_mass_is_that_of_brute_force(make, problem):
    rule = problem.rule(make)
    matrix = problem.matrix.double()
    n_pairs = matrix.numel()
    subsets = torch.tensor(list(product([0.0, 1.0], repeat=n_pairs))).double()
    flat = torch.arange(n_pairs)
    groups = rule.groups(flat // matrix.shape[1], flat % matrix.shape[1])
    caps = rule.caps(tuple(matrix.shape))
    of_group = torch.nn.functional.one_hot(groups, len(caps)).double()
    allowed = (subsets @ of_group <= caps).all(dim=1)
    best = (subsets @ matrix.view(-1))[allowed].max()
    assert matrix[select(problem.matrix, rule)].sum() == best


@every_rule
@quick
@given(problem=problems(scales=["one", "huge"]), power=st.integers(-4, 4))
def test_scale_does_not_matter(make, problem, power):
    rule = problem.rule(make)
    scaled = select(problem.matrix * 2.0**power, rule)
    assert torch.equal(scaled, select(problem.matrix, rule))


@every_rule
@quick
@given(problem=problems(), order=st.randoms(use_true_random=False))
def test_order_of_tokens_does_not_matter_without_ties(make, problem, order):
    rule = problem.rule(make)
    values = [float(v) for v in range(-9, problem.matrix.numel() - 9)]
    order.shuffle(values)
    matrix = torch.tensor(values).view(problem.matrix.shape)
    tokens = list(range(len(matrix)))
    order.shuffle(tokens)
    permuted = select(matrix[tokens], rule)
    assert torch.equal(permuted, select(matrix, rule)[tokens])


# ------------------------------------------------------------------ the streamed path

NASTY = [-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 1e7]
THRESHOLDS = {
    "cold": lambda n, rng: np.zeros(n),
    "negative": lambda n, rng: np.full(n, -1.0),
    "far too high": lambda n, rng: np.full(n, 1e8),
    "infinite": lambda n, rng: np.full(n, np.inf),
    "of each group its own": lambda n, rng: rng.choice(NASTY, n),
}
every_threshold = pytest.mark.parametrize(
    "guess", THRESHOLDS.values(), ids=THRESHOLDS.keys()
)

tilings = st.tuples(st.integers(1, 4), st.integers(1, 6))


def thresholds_for(guess, rule, matrix, seed):
    n_groups = len(rule.caps(tuple(matrix.shape)))
    guessed = guess(n_groups, np.random.default_rng(seed))
    unit = matrix.abs()[matrix != 0].min() if matrix.any() else 1.0
    return torch.from_numpy(guessed).to(matrix.dtype) * unit


@every_threshold
@every_rule
@settings(max_examples=20, deadline=None)
@given(problem=problems(), tiling=tilings)
def test_streamed_is_dense_whatever_the_threshold(make, guess, problem, tiling):
    rule = problem.rule(make)
    thresholds = thresholds_for(guess, rule, problem.matrix, problem.seed)
    seen = allocate(MatrixAffinities(problem.matrix, *tiling), rule, thresholds)
    mask = select(problem.matrix, rule)
    assert torch.equal(mask, expected(problem.matrix, rule))
    assert_same_matches(seen.matches, mask, problem.matrix)


@every_threshold
@every_rule
@settings(max_examples=20, deadline=None)
@given(problem=problems(), tiling=tilings, overflow=st.integers(0, 2))
def test_cutting_back_in_mid_stream_changes_nothing(
    make, guess, problem, tiling, overflow
):
    rule = problem.rule(make)
    thresholds = thresholds_for(guess, rule, problem.matrix, problem.seed)
    with mock.patch.multiple(looks, _OVERFLOW=overflow, _MIN_OVERFLOW=0):
        seen = allocate(MatrixAffinities(problem.matrix, *tiling), rule, thresholds)
    assert_same_matches(seen.matches, expected(problem.matrix, rule), problem.matrix)


by_feature = pytest.mark.parametrize(
    "make",
    [make for name, make in RULES.items() if name.startswith("feature")],
    ids=[name for name in RULES if name.startswith("feature")],
)


@every_threshold
@by_feature
@settings(max_examples=20, deadline=None)
@given(problem=problems(), tile_features=st.integers(1, 4), n_pairs=st.integers(1, 30))
def test_features_looked_at_together_change_nothing(
    make, guess, problem, tile_features, n_pairs
):
    rule = problem.rule(make)
    thresholds = thresholds_for(guess, rule, problem.matrix, problem.seed)
    affinities = MatrixAffinities(problem.matrix, tile_features, len(problem.matrix))
    with mock.patch.dict(allocation._RUN_PAIRS, cpu=n_pairs):
        seen = allocate(affinities, rule, thresholds)
    assert_same_matches(seen.matches, expected(problem.matrix, rule), problem.matrix)
    # What is short is kept, not asked for again.
    assert affinities.n_served() == problem.matrix.numel()


@every_rule
@every_degenerate
@pytest.mark.parametrize("k", [0, 1, 2, 100])
def test_degenerate_matrices(make, matrix, k):
    rule = make(tuple(matrix.shape), k, np.random.default_rng(k))
    mask = select(matrix, rule)
    assert_maximal(mask, matrix, rule)
    n_groups = len(rule.caps(tuple(matrix.shape)))
    for start in (0.0, 1e30):
        seen = allocate(MatrixAffinities(matrix), rule, torch.full((n_groups,), start))
        assert_same_matches(seen.matches, mask, matrix)
    warm = WarmAllocator()
    for _ in range(3):
        seen = warm(MatrixAffinities(matrix), rule)
        assert_same_matches(seen.matches, mask, matrix)


@every_rule
@quick
@given(batches=st.lists(problems(max_tokens=9), min_size=2, max_size=5), data=st.data())
def test_warm_allocation_is_dense_batch_after_batch(make, batches, data):
    # The batches differ in their number of tokens and in scale, not in their features
    # and k; the caps of a feature may change from one to the next.
    dtype, n_features = batches[0].matrix.dtype, batches[0].matrix.shape[1]
    warm = WarmAllocator()
    overflow = data.draw(st.sampled_from([0, 1 << 20]))
    hostile = data.draw(st.sampled_from([None, 0.0, 1e-6, 1e6]))
    with (
        mock.patch.object(warming, "_FIRST_LOOK", 2),
        mock.patch.object(looks, "_MIN_OVERFLOW", overflow),
    ):
        for problem in batches:
            columns = torch.arange(n_features) % problem.matrix.shape[1]
            matrix = problem.matrix[:, columns].to(dtype)
            rule = Problem(matrix, batches[0].k, problem.seed).rule(make)
            # What a token's size is said to be is a guess like any other.
            sizes = data.draw(st.sampled_from([None, 0.0, 1.0]))
            sizes = None if sizes is None else matrix.new_full((len(matrix),), sizes)
            affinities = MatrixAffinities(matrix, *data.draw(tilings), sizes)
            seen = warm(affinities, rule)
            assert_same_matches(seen.matches, expected(matrix, rule), matrix)
            if hostile is not None:
                warm.level = torch.full_like(warm.level, hostile)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warm_allocation_is_dense_on_many_tokens(make, dtype):
    rng = np.random.default_rng(0)
    warm = WarmAllocator()
    for step in range(12):
        n_tokens = 301 if step % 5 else 170
        loudness = np.exp(rng.standard_normal((n_tokens, 1)))
        matrix = (1 + step / 4) * loudness * (rng.standard_normal((n_tokens, 37)) - 0.5)
        if step % 2:  # a grid: many ties
            matrix = matrix.round(1)
        matrix = torch.from_numpy(matrix).to(dtype)
        rule = make(tuple(matrix.shape), 4, rng)
        seen = warm(MatrixAffinities(matrix, 11, 64), rule)
        assert_same_matches(seen.matches, expected(matrix, rule), matrix)


@every_rule
@quick
@given(problem=problems(), tiling=tilings)
def test_what_an_allocation_reports(make, problem, tiling):
    matrix, rule = problem.matrix, problem.rule(make)
    guess = THRESHOLDS["of each group its own"]
    thresholds = thresholds_for(guess, rule, matrix, problem.seed)
    given_ = thresholds.clone()
    seen = allocate(MatrixAffinities(matrix, *tiling), rule, thresholds)
    assert torch.equal(thresholds, given_)

    caps = rule.caps(tuple(matrix.shape))
    assert torch.equal(seen.caps, caps)
    tokens, features = (matrix > 0).nonzero(as_tuple=True)
    groups = rule.groups(tokens, features)
    values = matrix[tokens, features]
    reached = values >= thresholds.clamp(min=0)[groups]
    counts = torch.bincount(groups[reached], minlength=len(caps))
    asked = caps > 0
    short = (counts < caps) & (thresholds > 0)
    if isinstance(rule, TokenChoice):  # it may raise its thresholds on the way
        assert (seen.counts <= counts)[asked].all()
        assert (seen.retried | ~short).all()
    else:
        assert torch.equal(seen.counts[asked], counts[asked])
        assert torch.equal(seen.retried, short)

    # A cut is the least of what was kept, or 0 where the group has room left.
    kept = expected(matrix, rule)[tokens, features]
    least = torch.full_like(thresholds, torch.inf)
    least.scatter_reduce_(0, groups[kept], values[kept], "amin")
    full = torch.bincount(groups, minlength=len(caps)) >= caps
    cuts = torch.where(full, least, 0.0)
    assert torch.equal(seen.cuts[asked], cuts[asked])


# ---------------------------------------------------------------- what the screen costs


@every_rule
def test_a_good_threshold_needs_one_pass(make):
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.standard_normal((60, 12)))
    rule = make((60, 12), 2, rng)
    cuts = allocate(MatrixAffinities(matrix), rule, zero_thresholds(rule, matrix)).cuts
    affinities = MatrixAffinities(matrix)
    seen = allocate(affinities, rule, cuts)
    assert affinities.n_served() == matrix.numel()
    # The cuts let nothing through that is not a match, where a cut there is.
    assert torch.equal(seen.counts[cuts > 0], seen.caps[cuts > 0])


@pytest.mark.parametrize(
    ("rule", "share"),
    [(TokenChoice(2), 1 / 60), (FeatureChoice(torch.full((12,), 2)), 1 / 12)],
    ids=["token", "feature"],
)
def test_only_groups_that_are_short_are_looked_at_again(rule, share):
    matrix = torch.from_numpy(np.random.default_rng(0).standard_normal((60, 12)))
    cuts = allocate(MatrixAffinities(matrix), rule, zero_thresholds(rule, matrix)).cuts
    cuts[7] *= 1.05
    affinities = MatrixAffinities(matrix)
    seen = allocate(affinities, rule, cuts)
    assert seen.retried.nonzero().view(-1).tolist() == [7]
    assert affinities.n_served() == pytest.approx(matrix.numel() * (1 + share))


@every_rule
def test_who_hardly_has_a_positive_is_looked_at_three_times(make):
    rng = np.random.default_rng(0)
    matrix = -torch.from_numpy(rng.uniform(size=(60, 60)))
    matrix.fill_diagonal_(1e-6)
    rule = make((60, 60), 20, rng)
    affinities = MatrixAffinities(matrix)
    thresholds = torch.ones_like(zero_thresholds(rule, matrix))
    matches = allocate(affinities, rule, thresholds).matches
    assert len(matches) == expected(matrix, rule).sum()
    assert affinities.n_served() <= 3 * matrix.numel()


def zero_thresholds(rule, matrix):
    return torch.zeros(len(rule.caps(tuple(matrix.shape))), dtype=matrix.dtype)


def candidates(warm: WarmAllocator, rule: Rule, matrix: torch.Tensor) -> int:
    """How many pairs reach the thresholds that the next batch would start from."""
    shape = tuple(matrix.shape)
    thresholds = rule.spread(warm.level, MatrixAffinities(matrix))
    thresholds = torch.where(rule.caps(shape) > 0, thresholds, torch.inf)
    tokens, features = (matrix > 0).nonzero(as_tuple=True)
    values = matrix[tokens, features]
    return int((values >= thresholds[rule.groups(tokens, features)]).sum())


def silence(matrix):
    return torch.full_like(matrix, -1.0)


def silence_one_token(matrix):
    return torch.cat([silence(matrix[:1]), matrix[1:]])


@every_rule
@pytest.mark.parametrize("overflow", [0, 1 << 20], ids=["overflowing", "roomy"])
@pytest.mark.parametrize(
    ("first", "off_by"),
    [(None, 1.0), (None, 0.05), (None, 20.0), (silence, 1.0), (silence_one_token, 1.0)],
    ids=["cold", "too low", "too high", "after silence", "a silent token"],
)
def test_the_screen_finds_its_level_again(make, overflow, first, off_by):
    # Half of all pairs are positive, one in ten is to be kept: a screen that lets the
    # positives through costs several times the sorting it could.
    rng = np.random.default_rng(0)
    shape, k = (200, 40), 4

    def batch():
        return torch.from_numpy(rng.standard_normal(shape))

    rule = make(shape, k, rng)
    warm = WarmAllocator()
    with mock.patch.object(looks, "_MIN_OVERFLOW", overflow):
        warm(MatrixAffinities(batch() if first is None else first(batch())), rule)
        warm.level = warm.level * off_by
        for _ in range(40):
            seen = warm(MatrixAffinities(batch(), 16, 100), rule)
    caps = rule.caps(shape)
    supply = group_counts(batch() > 0, rule)
    target = 1.3 * caps + 4 * caps.sqrt() + 2
    assert candidates(warm, rule, batch()) < torch.minimum(target, supply).sum()
    # Who has too few positives for its cap is always short.
    assert seen.retried[caps < 0.6 * supply].double().mean() < 1 / 3


@pytest.mark.parametrize("steepness", [2, 4, 16])
@pytest.mark.parametrize("change", [1.0, 0.995, 1.005])
def test_mutual_choice_seldom_looks_twice(steepness, change):
    # However fast the number of affinities falls with their size, and though all fall
    # or rise from batch to batch.
    rng = np.random.default_rng(0)
    rule, warm = MutualChoice(4), WarmAllocator()
    retried, wasted = [], []
    for number in range(60):
        sizes = (1.0 - rng.random((400, 60))) ** (-1 / steepness)
        matrix = torch.from_numpy(change**number * sizes)
        seen = warm(MatrixAffinities(matrix, 60, 400), rule)
        retried.append(seen.retried.item())
        wasted.append(seen.counts.item() / seen.budget)
    assert np.mean(retried[10:]) < 0.1
    # A margin of 1.14 where the number falls with the fourth power, and a trend.
    assert np.mean(wasted[10:]) < 1.14 ** (steepness / 4) * 1.2


def test_a_level_comes_back_from_batches_without_an_affinity():
    rule, warm = MutualChoice(2), WarmAllocator()
    matrix = torch.from_numpy(np.random.default_rng(0).random((50, 20)))
    warm(MatrixAffinities(matrix), rule)
    for _ in range(2):
        warm(MatrixAffinities(silence(matrix)), rule)
        assert warm.level.item() == 0.0
    for _ in range(2):
        seen = warm(MatrixAffinities(matrix), rule)
    assert not seen.retried and len(seen.matches) == 100
    assert seen.counts.item() < 200
