"""What the displays draw, read back from the drawing."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt

from skchoice import metrics
from skchoice.plots import DensityDisplay, FrontierDisplay, L0Display, TrainingDisplay

plt.switch_backend("Agg")
N_TOKENS, N_FEATURES = 200, 50


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


@pytest.fixture
def codes():
    """Codes whose densities fall with rank, in a shuffled order; the rarest is 0."""
    rng = np.random.default_rng(0)
    density = np.append(0.6 / np.arange(1, N_FEATURES), 0)
    matches = rng.random((N_TOKENS, N_FEATURES)) < rng.permutation(density)
    return sparse.csr_array(matches * rng.random((N_TOKENS, N_FEATURES)))


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---------------------------------------------------------------------------- density


def test_density_is_drawn_by_rank_without_the_silent(ax, codes):
    display = DensityDisplay.from_codes(codes, ax, label="codes")

    density = np.sort(metrics.density(codes))[::-1]
    n_silent = np.count_nonzero(density == 0)
    ranks, drawn = display.line_.get_data()
    assert_array_equal(ranks, np.arange(1, N_FEATURES - n_silent + 1))
    assert_array_equal(drawn, density[density > 0])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert n_silent > 0
    assert labels(ax) == [f"codes ({n_silent} with density 0)"]
    assert display.ax_ is ax and display.figure_ is ax.figure
    assert display.fit_ is None and display.fit_line_ is None


@pytest.mark.parametrize(
    "density, message",
    [
        ([0.0, 0.0], "none of the 2 features fires"),
        ([], "none of the 0 features fires"),
        ([3, 1, 0], "from 0 to 3. Divide counts by tokens"),
        ([-0.1, 0.5], "from 0 to 1, got numbers from -0.1"),
        ([np.nan, 0.5], "from 0 to 1, got numbers from nan"),
    ],
)
def test_what_is_no_density_is_refused(density, message):
    with pytest.raises(ValueError, match=message):
        DensityDisplay(density).plot()
    assert plt.get_fignums() == []


def test_one_feature_is_a_mark(ax):
    assert DensityDisplay([0.2, 0.0]).plot(ax).line_.get_marker() == "o"
    assert DensityDisplay([0.2, 0.1]).plot(ax).line_.get_marker() == "None"


def test_zipf_fit_is_drawn_along_the_same_ranks(ax):
    ranks = np.arange(1, 101)
    display = DensityDisplay(0.5 * ranks**-1.2, label="law").plot(ax, zipf=True)

    assert display.fit_.exponent == pytest.approx(1.2, abs=1e-3)
    assert_array_equal(display.fit_line_.get_xdata(), ranks)
    assert_allclose(display.fit_line_.get_ydata(), 0.5 * ranks**-1.2, rtol=1e-3)
    assert display.fit_line_.get_color() == display.line_.get_color()
    assert labels(ax) == ["law", "Zipf: exponent 1.20, R² 1.000"]


def test_estimators_share_an_ax_under_their_names(ax):
    class SomeSAE(SimpleNamespace):
        pass

    first = SomeSAE(feature_density_=np.array([0.1, 0.4, 0.2]))
    second = SomeSAE(feature_density_=np.array([0.3, 0.3, 0.0]))
    one = DensityDisplay.from_estimator(first, ax=ax)
    two = DensityDisplay.from_estimator(second, ax=ax, label="other", linewidth=3)

    assert_array_equal(one.line_.get_ydata(), [0.4, 0.2, 0.1])
    assert_array_equal(two.line_.get_ydata(), [0.3, 0.3])
    assert list(ax.lines) == [one.line_, two.line_]
    assert labels(ax) == ["SomeSAE", "other (1 with density 0)"]
    assert two.line_.get_linewidth() == 3
    assert one.line_.get_color() != two.line_.get_color()


def test_estimators_are_measured_on_rows(ax, fitted, X_new):
    codes, name = fitted.transform(X_new), type(fitted).__name__
    density = DensityDisplay.from_estimator(fitted, X_new, ax)
    assert_array_equal(density.density, metrics.density(codes))
    l0 = L0Display.from_estimator(fitted, X_new)
    assert_array_equal(l0.l0_per_token, metrics.l0_per_token(codes))
    for display in (density, l0):
        assert labels(display.ax_)[0].startswith(name)


def test_an_estimator_that_is_not_fitted_is_named():
    with pytest.raises(ValueError, match="SimpleNamespace has no feature_density_"):
        DensityDisplay.from_estimator(SimpleNamespace())
    for display in (DensityDisplay, L0Display):
        with pytest.raises(ValueError, match="SimpleNamespace has no components_"):
            display.from_estimator(SimpleNamespace(), np.zeros((3, 2)))
    assert plt.get_fignums() == []


def test_a_display_can_be_drawn_again_elsewhere(ax, codes):
    display = DensityDisplay.from_codes(codes, ax)
    assert ax.get_legend() is None
    display.plot()
    assert display.ax_ is not ax
    assert len(display.ax_.lines) == len(ax.lines) == 1


# --------------------------------------------------------------------------------- L0


def test_l0_histogram_has_the_share_at_each_number(ax, codes):
    display = L0Display.from_codes(codes, ax, label="codes")

    shares, edges, _ = display.stairs_.get_data()
    l0 = metrics.l0_per_token(codes)
    numbers = np.arange(l0.min(), l0.max() + 1)
    assert_array_equal(edges, np.append(numbers, numbers[-1] + 1) - 0.5)
    assert_allclose(shares, [np.mean(l0 == number) for number in numbers])
    assert labels(ax) == [f"codes (mean {l0.mean():.1f})"]
    assert display.ax_ is ax and display.figure_ is ax.figure


def test_ticks_of_counts_are_whole_numbers(ax):
    assert_array_equal(L0Display([7, 8, 8, 9]).plot(ax).ax_.get_xticks() % 1, 0)
    training = TrainingDisplay(history("aaaaa")).plot(quantity="n_dead")
    assert_array_equal(training.ax_.get_yticks() % 1, 0)


def test_wide_l0_histograms_stay_comparable(ax):
    l0 = np.random.default_rng(0).poisson(500, size=3000)
    shares, edges, _ = L0Display(l0).plot(ax).stairs_.get_data()

    widths = np.diff(edges)
    assert 1 < widths[0] < 10 and np.all(widths == widths[0])
    assert len(shares) <= 100
    assert np.sum(shares * widths) == pytest.approx(1)
    assert edges[0] < l0.min() and edges[-1] > l0.max()
    inside = (l0 > edges[0]) & (l0 < edges[1])
    assert shares[0] == pytest.approx(inside.mean() / widths[0])


@pytest.mark.parametrize("spike_first", [True, False])
def test_a_spike_does_not_flatten_the_others(ax, spike_first):
    spike = L0Display(np.full(100, 32), label="spike")
    broad = L0Display(np.arange(20, 40), label="broad")
    for display in (spike, broad) if spike_first else (broad, spike):
        display.plot(ax)

    assert_array_equal(spike.stairs_.get_data().values, [1.0])
    assert_array_equal(spike.stairs_.get_data().edges, [31.5, 32.5])
    assert ax.get_ylim() == (0, pytest.approx(1.3 * 0.05))
    assert sorted(labels(ax)) == [
        "broad (mean 29.5)",
        "spike (mean 32.0, 100.0% at 32)",
    ]
    assert ax.get_xlim()[0] < 20 and ax.get_xlim()[1] > 39


def test_a_spike_alone_is_shown_whole(ax):
    L0Display([3, 3, 3, 4]).plot(ax)
    assert ax.get_ylim() == (0, pytest.approx(1.3 * 0.75))


# --------------------------------------------------------------------------- training


def history(rules="aabbb"):
    return [
        {"n_tokens": 10 * (i + 1), "rule": rule, "fvu": 1 / (i + 1), "n_dead": i}
        for i, rule in enumerate(rules)
    ]


def test_training_is_drawn_over_tokens_with_changes_of_rule(ax):
    display = TrainingDisplay(history(), label="sae").plot(ax)

    tokens, values = display.line_.get_data()
    assert_array_equal(tokens, [10, 20, 30, 40, 50])
    assert_allclose(values, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    (change,) = display.change_lines_
    assert_array_equal(change.get_xdata(), [20, 20])
    assert labels(ax) == ["sae", "b begins"]

    other = TrainingDisplay(history("aaaaa")).plot(ax, quantity="n_dead")
    assert_array_equal(other.line_.get_ydata(), range(5))
    assert other.change_lines_ == [] and ax.get_ylabel() == "Dead features"


def test_training_of_an_estimator(ax, fitted):
    display = TrainingDisplay.from_estimator(fitted, ax, quantity="l0")
    assert_array_equal(
        display.line_.get_ydata(), [record["l0"] for record in fitted.history_]
    )
    assert labels(ax)[0] == type(fitted).__name__
    for quantity in fitted.history_[0]:
        if quantity not in ("step", "n_tokens", "rule"):
            TrainingDisplay.from_estimator(fitted, ax, quantity=quantity)
    with pytest.raises(ValueError, match="quantity must be one of"):
        TrainingDisplay.from_estimator(fitted, ax, quantity="step")
    with pytest.raises(ValueError, match="the model was not trained here"):
        TrainingDisplay([]).plot()
    with pytest.raises(ValueError, match="SimpleNamespace has no history_"):
        TrainingDisplay.from_estimator(SimpleNamespace())


# --------------------------------------------------------------------------- frontier


def test_each_group_is_a_line_from_the_sparsest_on(ax):
    display = FrontierDisplay(
        [8, 2, 4, 3, 1],
        [0.1, 0.4, 0.2, 0.3, 0.5],
        fvu_std=[0.01, 0.04, 0.02, 0.03, 0.05],
        group=["a", "a", "a", "b", "b"],
        label="run",
    ).plot(ax)

    first, second = (container.lines[0] for container in display.lines_)
    assert_array_equal(first.get_data(), [[2, 4, 8], [0.4, 0.2, 0.1]])
    assert_array_equal(second.get_data(), [[1, 3], [0.5, 0.3]])
    bars = display.lines_[0].lines[2][0].get_segments()
    assert_allclose(bars[0], [[2, 0.36], [2, 0.44]])
    assert labels(ax) == ["run, a", "run, b"]


def test_the_frontier_of_a_search(ax, make, X):
    search = GridSearchCV(
        make(max_iter=2),
        {"k": [2, 6], "importance": ["absolute", "relative"]},
        scoring=metrics.sparsity_scores,
        refit=False,
        cv=2,
    ).fit(X)
    display = FrontierDisplay.from_cv_results(search.cv_results_, ax, by="importance")
    results = search.cv_results_
    assert_allclose(display.fvu, 1 - results["mean_test_explained_variance"])
    assert_array_equal(display.l0, results["mean_test_l0"])
    assert labels(ax) == ["importance = absolute", "importance = relative"]
    display = FrontierDisplay.from_cv_results(search)
    assert display.ax_.get_legend() is None
    # Of several parameters, neighbours in L0 may have nothing in common.
    assert display.lines_[0].lines[0].get_linestyle() == "None"

    with pytest.raises(ValueError, match=r"by='aux' is not one of the searched \["):
        FrontierDisplay.from_cv_results(results, by="aux")
    with pytest.raises(TypeError, match="must be a fitted search or its cv_results_"):
        FrontierDisplay.from_cv_results(clone(search))
    results = GridSearchCV(make(), {"k": [2]}, cv=2).fit(X).cv_results_
    with pytest.raises(ValueError, match=r"scoring=skchoice\.metrics\.sparsity_scores"):
        FrontierDisplay.from_cv_results(results)


def test_sparsity_scores_are_those_of_the_estimator(fitted, X_new):
    found = metrics.sparsity_scores(fitted, X_new)
    assert found["explained_variance"] == pytest.approx(fitted.score(X_new), abs=1e-6)
    assert found["l0"] == metrics.l0(fitted.transform(X_new))
