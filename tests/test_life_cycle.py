"""fit, fit again, go on, copy, store, and fail: what an estimator is after each."""

import copy
import io
import pickle

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, batches, diagnosis
from skchoice.exceptions import DivergenceError, SAEWarning

few_rows = pytest.mark.filterwarnings(
    "ignore::skchoice.exceptions.FewRowsWarning",
    "ignore::skchoice.exceptions.ConstantRowsWarning",
)


def dense(codes):
    return codes.toarray() if hasattr(codes, "toarray") else codes


def with_nan(X, row):
    X = X.copy()
    X[row, 1] = np.nan
    return X


# ---------------------------------------------------------------- a fit that fails


FAILURES = ["nan", "late nan", "read error", "mismatch"]


@pytest.fixture
def failure(request, X, Lazy, monkeypatch):
    """Return a change of parameters and an X, which together cannot be fitted."""
    # Two blocks in a buffer: there are training steps before the last block is read.
    monkeypatch.setattr(batches, "_BUFFER_ENTRIES", 1024 * 12)
    large = np.tile(X, (4, 1))
    return {
        "nan": ({}, with_nan(X, 17)),
        "late nan": ({"n_calibration": 0}, Lazy(with_nan(large, 2100))),
        "read error": ({"n_calibration": 0}, Lazy(large, fail_at_read=4)),
        "late read error": ({"n_calibration": 0}, Lazy(large, fail_at_read=9)),
        "parameter": ({"max_iter": -1}, X),
        "mismatch": ({"k": 49}, X),
    }[request.param]


@pytest.mark.parametrize(
    "failure", [*FAILURES, "late read error", "parameter"], indirect=True
)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_a_failed_first_fit_leaves_no_trace(make, failure, method, published):
    settings, X_bad = failure
    estimator = make(**settings)
    before = dict(vars(estimator))
    with pytest.raises((ValueError, OSError)):
        getattr(estimator, method)(X_bad)
    assert published(estimator) == {}
    assert not hasattr(estimator, "n_features_in_")
    assert vars(estimator) == before
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("failure", [*FAILURES, "parameter"], indirect=True)
def test_a_failed_fit_leaves_the_last_one(
    make, X, X_new, failure, warm_start, published, assert_same_fit
):
    settings, X_bad = failure
    estimator = make(warm_start=warm_start, max_iter=2).fit(X)
    twin = copy.deepcopy(estimator)
    before, codes = published(estimator), estimator.transform(X_new)
    estimator.set_params(**settings)
    with pytest.raises((ValueError, OSError)):
        estimator.fit(X_bad)
    assert_same_fit(estimator, before)
    estimator.set_params(**twin.get_params())
    assert_array_equal(dense(estimator.transform(X_new)), dense(codes))
    # What cannot be seen is as it was, too: training goes on as if nothing had been.
    assert_same_fit(estimator.fit(X), twin.fit(X))


@pytest.mark.parametrize("failure", FAILURES, indirect=True)
def test_a_failed_partial_fit_leaves_the_last_one(
    make, X, X_new, failure, published, assert_same_fit
):
    settings, X_bad = failure
    estimator = make().partial_fit(X)
    twin = copy.deepcopy(estimator)
    before, codes = published(estimator), estimator.transform(X_new)
    estimator.set_params(**settings)
    with pytest.raises((ValueError, OSError)):
        estimator.partial_fit(X_bad)
    assert_same_fit(estimator, before)
    estimator.set_params(**twin.get_params())
    assert_array_equal(dense(estimator.transform(X_new)), dense(codes))
    assert_same_fit(estimator.partial_fit(X), twin.partial_fit(X))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_warning_turned_into_an_error_is_a_failed_fit(
    make, X, method, monkeypatch, published, assert_same_fit
):
    def refuse(*args):
        raise SAEWarning("as under warnings.simplefilter('error')")

    estimator = make(warm_start=True)
    getattr(estimator, method)(X)
    twin, before = copy.deepcopy(estimator), published(estimator)
    with monkeypatch.context() as patched:
        patched.setattr(diagnosis, "check_fit", refuse)
        with pytest.raises(SAEWarning):
            getattr(estimator, method)(X)
    assert_same_fit(estimator, before)
    assert_same_fit(getattr(estimator, method)(X), getattr(twin, method)(X))


def test_unfitted(make, X):
    estimator = make()
    assert not estimator.__sklearn_is_fitted__()
    name = type(estimator).__name__
    for call in (
        lambda: estimator.transform(X),
        lambda: estimator.inverse_transform(np.zeros((2, 48))),
        lambda: estimator.score(X),
        lambda: estimator.allocate(X),
        lambda: estimator.to_torch(),
        lambda: estimator.get_feature_names_out(),
    ):
        with pytest.raises(NotFittedError, match=name):
            call()
    assert estimator.fit(X).__sklearn_is_fitted__()


# --------------------------------------------------------------------- the same again


def test_refit_gives_the_same_bits(make, X, assert_same_fit):
    estimator = make().fit(X)
    again = clone(estimator).fit(X)
    assert_same_fit(estimator, again)
    assert_same_fit(again, estimator.fit(X))
    assert_array_equal(dense(estimator.transform(X)), dense(again.transform(X)))


def test_seed_matters(make, X):
    one, other = make().fit(X), make(random_state=1).fit(X)
    assert not np.array_equal(one.components_, other.components_)


def test_random_state_instance(make, X, assert_same_fit):
    def fits(n):
        state = np.random.RandomState(3)
        return [make(random_state=state).fit(X) for _ in range(n)]

    first, second = fits(2)
    assert not np.array_equal(first.components_, second.components_)
    for one, other in zip((first, second), fits(2), strict=True):
        assert_same_fit(one, other)


def test_without_random_state_numpy_seeds_the_fit(make, X, assert_same_fit):
    def seeded():
        np.random.seed(5)  # noqa: NPY002
        return make(random_state=None).fit(X)

    saved = np.random.get_state()  # noqa: NPY002
    try:
        assert_same_fit(seeded(), seeded())
    finally:
        np.random.set_state(saved)  # noqa: NPY002


def test_global_generators_stay_untouched(make, X, X_new):
    of_numpy = np.random.get_state()  # noqa: NPY002
    of_torch = torch.get_rng_state()
    estimator = make().fit(X).partial_fit(X)
    estimator.inverse_transform(estimator.transform(X_new))
    estimator.allocate(X_new)
    estimator.score(X_new)
    assert_array_equal(np.random.get_state()[1], of_numpy[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), of_torch)


def test_other_peoples_seeds_do_not_matter(make, X, assert_same_fit):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = make().fit(X)
        torch.manual_seed(1)
        assert_same_fit(one, make().fit(X))


def test_torch_settings_stay_untouched(make, X):
    before = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
    make().fit(X).transform(X)
    assert before == (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_fit_where_gradients_are_switched_off(make, X, context, assert_same_fit):
    with context():
        inside = make(dead_after=50).fit(X)
        inside.transform(X)
    assert_same_fit(inside, make(dead_after=50).fit(X))


def test_fit_in_a_session_of_another_default_dtype(make, X, assert_same_fit):
    usual = make().fit(X)
    torch.set_default_dtype(torch.float64)
    try:
        assert_same_fit(make().fit(X), usual)
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_is_printed_unless_asked_for(make, X, capfd):
    make().fit(X).partial_fit(X).score(X)
    assert capfd.readouterr() == ("", "")
    make(verbose=1).fit(X)
    out, err = capfd.readouterr()
    assert out == ""
    assert "fvu" in err
    assert "24/24" in err  # 600 rows, 4 passes, batches of 100


def test_fit_changes_neither_X_nor_parameters(make, X):
    given = X.copy()
    estimator = make()
    parameters = estimator.get_params()
    estimator.fit(given).partial_fit(given)
    codes = estimator.transform(given)
    kept = codes.copy()
    (
        estimator.inverse_transform(codes),
        estimator.score(given),
        estimator.allocate(given),
    )
    assert_array_equal(given, X)
    assert_array_equal(dense(codes), dense(kept))
    assert estimator.get_params() == parameters


def test_given_caps_are_copied(X):
    caps = np.full(48, 4 / 48)
    estimator = FeatureChoiceSAE(
        n_features=48, k=4, caps=caps, max_iter=2, random_state=0
    ).fit(X)
    assert not np.shares_memory(estimator.caps_, caps)
    estimator.partial_fit(X)
    assert not np.shares_memory(estimator.caps_, caps)
    assert_array_equal(caps, np.full(48, 4 / 48))


# ------------------------------------------------------------------ copies and stores


def through_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))


def through_joblib(estimator):
    stream = io.BytesIO()
    joblib.dump(estimator, stream)
    stream.seek(0)
    return joblib.load(stream)


@pytest.mark.parametrize("copied", [through_pickle, through_joblib, copy.deepcopy])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_copy_goes_on_as_the_original(
    make, X, X_new, copied, method, assert_same_fit
):
    original = make(warm_start=True, n_calibration=300)
    getattr(original, method)(X)
    twin = copied(original)
    assert_same_fit(original, twin)
    assert_array_equal(dense(original.transform(X_new)), dense(twin.transform(X_new)))
    # One call after the other, so that shared memory would show.
    for _ in range(2):
        getattr(original, method)(X)
        assert not np.array_equal(original.components_, twin.components_)
        getattr(twin, method)(X)
        assert_same_fit(original, twin)


def test_clone_is_unfitted(make, X, published):
    estimator = make(warm_start=True).fit(X).partial_fit(X)
    fresh = clone(estimator)
    assert published(fresh) == {}
    assert vars(fresh) == fresh.get_params()
    assert fresh.get_params() == estimator.get_params()


@few_rows
def test_a_fit_alone_keeps_no_training_state(make, X):
    size = len(pickle.dumps(make(n_features=1000).fit(X)))
    arrays = 2 * 1000 * 12 * 4
    assert size < 1.5 * arrays
    warm = len(pickle.dumps(make(n_features=1000, warm_start=True).fit(X)))
    assert warm > 3 * arrays


# ------------------------------------------------------------------------- going on


def test_warm_start_goes_on(make, X):
    estimator = make(warm_start=True).fit(X)
    first = estimator.history_
    assert [record["step"] for record in first] == list(range(1, 25))
    estimator.fit(X)
    assert estimator.history_[: len(first)] == first
    assert [record["step"] for record in estimator.history_] == list(range(1, 49))
    tokens = [record["n_tokens"] for record in estimator.history_]
    assert tokens == list(range(100, 4801, 100))
    # Not reset: the loss goes on from where it was, far under that of a new start.
    assert estimator.history_[24]["loss"] < 0.8 * first[0]["loss"]
    assert estimator.score(X) > make().fit(X).score(X)


def test_without_warm_start_fit_begins_anew(make, X, assert_same_fit):
    estimator = make().fit(X)
    estimator.partial_fit(X).fit(X)
    assert_same_fit(estimator, make().fit(X))


def test_warm_start_refuses_another_shape(make, X, published, assert_same_fit):
    estimator = make(warm_start=True).fit(X)
    before = published(estimator)
    with pytest.raises(ValueError, match=r"warm_start.*\(48, 12\).*\(48, 11\)"):
        estimator.fit(X[:, :11])
    estimator.set_params(n_features=47)
    with pytest.raises(ValueError, match=r"warm_start.*\(48, 12\).*\(47, 12\)"):
        estimator.fit(X)
    assert_same_fit(estimator, before)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("change", [{"n_features": 60}, {"importance": "absolute"}])
def test_going_on_with_another_model_is_refused(make, X, method, change):
    estimator = make(warm_start=True, importance="relative")
    getattr(estimator, method)(X)
    estimator.set_params(**change)
    with pytest.raises(ValueError, match=next(iter(change))):
        getattr(estimator, method)(X)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_going_on_with_another_k(make, X, mixture, method):
    estimator = make(warm_start=True, dead_after=50)
    getattr(estimator, method)(X)
    estimator.set_params(k=2)
    for _ in range(5):
        getattr(estimator, method)(X)
    assert estimator.history_[-1]["l0"] == pytest.approx(2, rel=0.05)
    assert estimator.transform(X).nnz / len(X) == pytest.approx(2, rel=0.1)
    if isinstance(estimator, FeatureChoiceSAE):
        assert estimator.caps_.sum() == pytest.approx(2, rel=0.01)


def test_partial_fit_goes_on_after_fit(make, X):
    # As everywhere in scikit-learn: partial_fit starts from what there is.
    estimator = make(max_iter=20).fit(X)
    fitted_score, n_iter = estimator.score(X), estimator.n_iter_
    estimator.partial_fit(X)
    assert estimator.n_iter_ == n_iter + 1
    assert estimator.score(X) > fitted_score - 0.05


@few_rows
def test_every_partial_fit_leaves_a_working_estimator(make, X, X_new):
    estimator = make()
    for call, part in enumerate((X[:100], X[100:101], X[101:433], X[433:]), start=1):
        assert estimator.partial_fit(part) is estimator
        codes = estimator.transform(X_new)
        assert codes.shape == (90, 48)
        assert np.isfinite(codes.data).all()
        assert np.isfinite(estimator.score(X_new))
        assert estimator.n_iter_ == call
    # Batches of a call are of one size, so the last may go over by a few rows.
    assert len(X) <= estimator.history_[-1]["n_tokens"] <= len(X) + 4


def test_partial_fit_learns(make, X):
    estimator = make().partial_fit(X)
    first = estimator.score(X)
    for _ in range(12):
        estimator.partial_fit(X)
    assert estimator.score(X) > first + 0.1
    assert estimator.history_[-1]["loss"] < 0.7 * estimator.history_[0]["loss"]


def test_partial_fit_refuses_another_width(make, X):
    estimator = make().partial_fit(X)
    with pytest.raises(ValueError, match=r"11 features.*expecting 12"):
        estimator.partial_fit(X[:, :11])
    with pytest.raises(ValueError, match=r"11 features.*expecting 12"):
        estimator.transform(X[:, :11])


@pytest.mark.parametrize("warm", [True, False])
def test_what_was_published_stays_as_it_was(make, X, warm, published):
    estimator = make(warm_start=warm)
    for method in ("partial_fit", "partial_fit", "fit", "fit", "partial_fit"):
        getattr(estimator, method)(X)
        held = {name: value for name, value in vars(estimator).items()}
        copies = published(estimator)
        getattr(estimator, method)(X)
        for name, value in copies.items():
            if isinstance(value, np.ndarray):
                assert_array_equal(held[name], value, err_msg=name)
            elif isinstance(value, list):
                assert held[name] == value


def test_writing_to_what_was_published_does_not_reach_training(
    make, X, assert_same_fit
):
    estimator = make(warm_start=True).fit(X)
    twin = copy.deepcopy(estimator)
    for value in vars(estimator).values():
        if isinstance(value, np.ndarray):
            value[:] = 0
    assert_same_fit(estimator.fit(X), twin.fit(X))


def test_published_arrays_do_not_share_memory(make, X):
    estimator = make(warm_start=True).fit(X)
    arrays = [v for v in vars(estimator).values() if isinstance(v, np.ndarray)]
    for index, one in enumerate(arrays):
        assert one.flags.writeable
        for other in arrays[:index]:
            assert not np.shares_memory(one, other)


def test_refit_forgets_the_names_of_the_columns(make, X):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X).rename(columns=lambda i: f"dim {i}")
    estimator = make().fit(frame)
    assert list(estimator.feature_names_in_) == list(frame.columns)
    estimator.fit(X)
    assert not hasattr(estimator, "feature_names_in_")


def test_passes_are_counted(make, X):
    estimator = make().fit(X)
    assert estimator.n_iter_ == 4
    assert type(estimator.n_iter_) is int
    estimator = make(warm_start=True).fit(X).fit(X)
    assert estimator.n_iter_ == 8
    assert estimator.partial_fit(X).n_iter_ == 9


# --------------------------------------------------------- the phases of FeatureChoice


def rules(estimator):
    return [record["rule"] for record in estimator.history_]


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_fit_turns_from_mutual_to_feature_choice(X):
    def fitted(**settings):
        shared = {"batch_size": 100, "max_iter": 4, "n_calibration": 0}
        return FeatureChoiceSAE(48, 4, **shared, random_state=0, **settings).fit(X)

    n_steps = 24
    assert rules(fitted()) == ["MutualChoice"] * 12 + ["FeatureChoice"] * 12
    assert rules(fitted(mutual_fraction=0.25)) == (
        ["MutualChoice"] * 6 + ["FeatureChoice"] * 18
    )
    never = fitted(mutual_fraction=1)
    assert rules(never) == ["MutualChoice"] * n_steps
    always = fitted(mutual_fraction=0)
    assert rules(always) == ["FeatureChoice"] * n_steps
    assert always.zipf_fit_ is None
    for estimator in (never, always):
        assert estimator.caps_.sum() == pytest.approx(4, rel=0.01)


def test_partial_fit_turns_to_feature_choice_once_densities_are_known(X):
    # Known after `dead_after` tokens: here 250, in the third of these calls.
    estimator = FeatureChoiceSAE(48, 4, batch_size=100, dead_after=250, random_state=0)
    for first in range(0, 600, 100):
        estimator.partial_fit(X[first : first + 100])
        assert estimator.caps_.shape == (48,)
        assert estimator.caps_.sum() == pytest.approx(4, rel=0.01)
        seen_before = first
        expected = "MutualChoice" if seen_before < 250 else "FeatureChoice"
        assert rules(estimator)[-1] == expected
        assert (estimator.zipf_fit_ is None) == (expected == "MutualChoice")


def test_mutual_choice_has_one_threshold(X):
    estimator = MutualChoiceSAE(48, 4, max_iter=2, random_state=0).fit(X)
    assert len(set(estimator.thresholds_)) == 1
    assert estimator.thresholds_[0] > 0


def test_parameters_set_after_fit_do_not_change_inference(make, X):
    estimator = make(importance="relative").fit(X)
    codes, score = dense(estimator.transform(X)), estimator.score(X)
    estimator.set_params(importance="absolute", k=8)
    assert_array_equal(dense(estimator.transform(X)), codes)
    assert estimator.score(X) == score


def test_partial_fit_on_fewer_rows_than_are_kept_to_calibrate_on(make, X):
    estimator = make(n_calibration=300).partial_fit(X[:200]).partial_fit(X[200:])
    assert np.isfinite(estimator.score(X))


@pytest.mark.parametrize("settings", [{}, {"n_calibration": 1}], ids=str)
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_single_rows_do_not_upset_what_many_rows_taught(make, X, settings):
    estimator = make(max_iter=20).fit(X)
    learned = estimator.score(X)
    estimator.set_params(**settings)
    for row in range(4):
        estimator.partial_fit(X[row : row + 1])
    assert estimator.score(X) > learned - 0.1


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_no_parameters_out_of_range_are_published(
    make, X, method, published, assert_same_fit
):
    # A single step: its error is of the parameters before it.
    estimator = make(batch_size=600, max_iter=1, decay_fraction=0).partial_fit(X)
    before = published(estimator)
    estimator.set_params(learning_rate=3e38, warmup_fraction=0)
    with pytest.raises(DivergenceError, match="Lower learning_rate"):
        getattr(estimator, method)(X)
    assert_same_fit(estimator, before)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_going_on_with_other_caps(X, method):
    sae = FeatureChoiceSAE(
        48, 4, batch_size=300, max_iter=2, warm_start=True, random_state=0
    ).fit(X)
    assert np.ptp(sae.caps_) > 0.01
    # Fewer allocations than the ranks of the features are kept for.
    getattr(sae.set_params(caps="uniform"), method)(X)
    assert_allclose(sae.caps_, 4 / 48)
