"""Any parameters and any tiny data: a fit works, or is refused before it begins."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from skchoice import (
    FeatureChoiceSAE,
    MutualChoiceSAE,
    TokenChoiceSAE,
    training,
)
from skchoice.exceptions import DivergenceError, SAEWarning

SHARED = {
    "n_features": st.none() | st.integers(-1, 60),
    "k": st.integers(0, 20) | st.floats(-1, 30) | st.just("k") | st.none(),
    "aux": st.sampled_from(["zipf", "k", None, "none", 1]),
    "aux_coef": st.floats(-1, 10) | st.integers(0, 3) | st.just(float("nan")),
    "aux_k": st.none() | st.integers(-1, 100),
    "dead_after": st.none() | st.integers(-1, 1000),
    "importance": st.sampled_from(["relative", "absolute", "both"]),
    "batch_size": st.integers(-1, 300) | st.just(7.5),
    "max_iter": st.integers(-1, 4),
    "learning_rate": st.sampled_from(["auto", "fast", -1.0, 0, 1e-12, 1e-2, 1.0, 1e5]),
    "warmup_fraction": st.floats(-0.1, 1.1),
    "decay_fraction": st.floats(-0.1, 1.1),
    "n_calibration": st.none() | st.integers(-1, 80),
    "sparse_output": st.booleans() | st.just("yes"),
    "device": st.sampled_from(["auto", "cpu", torch.device("cpu"), "tpu", 3]),
    "warm_start": st.booleans(),
    "random_state": st.none() | st.integers(-1, 5) | st.just("seed"),
    "verbose": st.just(0),
    "checkpoint_interval": st.sampled_from(["auto", 0, 1e9, -1, "never"]),
}
FEATURE_CHOICE = {
    "caps": st.sampled_from(["zipf", "uniform", "learned", "none"])
    | st.lists(st.floats(-0.1, 1.1), max_size=60)
    | st.integers(1, 60).map(lambda n: np.full(n, 4 / n)),
    "zipf_exponent": st.none() | st.floats(-1, 50),
    "zipf_offset": st.none() | st.floats(-1, 1e6),
    "min_cap": st.integers(-1, 2),
    "mutual_fraction": st.floats(-0.1, 1.1),
}


@st.composite
def estimators(draw):
    """An estimator with some parameters drawn, most of them valid."""
    estimator = draw(
        st.sampled_from([TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE])
    )
    known = SHARED | (FEATURE_CHOICE if estimator is FeatureChoiceSAE else {})
    names = draw(st.lists(st.sampled_from(sorted(known)), max_size=8, unique=True))
    chosen = {"k": 3, "max_iter": 2, "batch_size": 64, "random_state": 0}
    return estimator(**(chosen | {name: draw(known[name]) for name in names}))


@st.composite
def tiny_data(draw):
    """Rows of many kinds, some of them degenerate."""
    n_rows = draw(st.integers(1, 90))
    n_columns = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    X = rng.normal(size=(n_rows, n_columns)) ** 3
    kind = draw(
        st.sampled_from("plain constant zeros repeated tiny huge outlier".split())
    )
    if kind == "constant":
        X[:] = X[0]
    elif kind == "zeros":
        X[:] = 0
    elif kind == "repeated":
        X[len(X) // 3 :] = X[0]
    elif kind == "tiny":
        X *= 1e-20
    elif kind == "huge":
        X *= 1e18
    elif kind == "outlier":
        X[0] *= 1e6
    X += draw(st.sampled_from([0.0, 1.0, -1e4]))
    return X.astype(draw(st.sampled_from([np.float64, np.float32])))


class Trained:
    """Whether any step of training has begun."""

    def __init__(self, monkeypatch):
        self.steps = 0
        original = training.train_steps

        def counted(*args):
            self.steps += 1
            return original(*args)

        monkeypatch.setattr(training, "train_steps", counted)


def assert_invariants(sae, X):
    n_features, n_columns = sae.components_.shape
    assert n_columns == X.shape[1] == sae.n_features_in_
    assert sae.encoder_weights_.shape == (n_features, n_columns)
    for name in ("encoder_bias_", "thresholds_", "feature_density_", "dead_features_"):
        assert getattr(sae, name).shape == (n_features,), name
    for name, value in vars(sae).items():
        if name.endswith("_") and isinstance(value, np.ndarray):
            assert np.isfinite(value).all() or name == "thresholds_", name
    assert sae.components_.dtype == sae.encoder_weights_.dtype == np.float32
    norms = np.linalg.norm(sae.components_, axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-4)
    assert (sae.thresholds_ >= 0).all()
    assert ((sae.feature_density_ >= 0) & (sae.feature_density_ <= 1)).all()
    for record in sae.history_:
        assert np.isfinite([v for v in record.values() if not isinstance(v, str)]).all()
        assert record["l0"] <= sae.k * (1 + 1e-9) + 0.5  # the budget is rounded

    codes = sae.transform(X)
    assert codes.shape == (len(X), n_features)
    values = codes.data if hasattr(codes, "tocsr") else codes
    assert values.dtype == X.dtype
    assert np.isfinite(np.asarray(values)).all() and (np.asarray(values) >= 0).all()
    restored = sae.inverse_transform(codes)
    assert restored.shape == X.shape and restored.dtype == X.dtype
    assert np.isfinite(restored).all()
    assert sae.score(X) <= 1

    exact = sae.allocate(X)
    assert exact.nnz <= (
        int(sae.k) * len(X)
        if isinstance(sae, TokenChoiceSAE)
        else round(sae.k * len(X))
    )
    if isinstance(sae, TokenChoiceSAE):
        assert exact.getnnz(axis=1).max() <= sae.k
    if isinstance(sae, FeatureChoiceSAE):
        assert ((sae.caps_ >= 0) & (sae.caps_ <= 1)).all()
        assert sae.caps_.sum() <= sae.k * (1 + 1e-6)
        assert (exact.getnnz(axis=0) <= np.ceil(sae.caps_ * len(X) + 1e-5)).all()


def check(sae, X, monkeypatch):
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", SAEWarning)
        trained = Trained(patched)
        before = sae.get_params()
        try:
            sae.fit(X)
        except DivergenceError:  # what cannot be known before
            event("diverged")
            assert sae.learning_rate == 1e5
            assert vars(sae) == before
            return
        except (ValueError, TypeError):
            event("refused")
            assert trained.steps == 0, "refused after training had begun"
            assert vars(sae) == before
            return
        event("fitted")
        assert trained.steps > 0
        assert_invariants(sae, X)


quiet = dict(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(estimators(), tiny_data())
@settings(max_examples=60, **quiet)
def test_a_fit_works_or_is_refused(monkeypatch, sae, X):
    check(sae, X, monkeypatch)


@pytest.mark.soak
@given(estimators(), tiny_data())
@settings(max_examples=3000, **quiet)
def test_thousands_of_fits_work_or_are_refused(monkeypatch, sae, X):
    check(sae, X, monkeypatch)
