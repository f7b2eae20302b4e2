"""Input that cannot be used is refused in words; odd input that can be, is used."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, start
from skchoice.exceptions import (
    ConstantRowsWarning,
    DivergenceWarning,
    FewCalibrationRowsWarning,
    FewRowsWarning,
    OutlierRowsWarning,
    SAEWarning,
    UnfilledBudgetWarning,
)

SHARED = [MutualChoiceSAE, FeatureChoiceSAE]  # those whose k may be any number


def spoilt(X, row, value):
    X = np.array(X)
    X[row, 1] = value
    return X


# ----------------------------------------------------------------- values of X


LEARN = ["fit", "partial_fit"]
METHODS = [*LEARN, "transform", "score", "allocate"]
CONTAINERS = ["array", "float32", "float16", "list", "frame", "tensor", "lazy"]


def in_container(X, kind, Lazy):
    if kind == "frame":
        return pytest.importorskip("pandas").DataFrame(X)
    return {
        "array": np.asarray,
        "float32": lambda X: X.astype(np.float32),
        "float16": lambda X: X.astype(np.float16),
        "list": lambda X: X.tolist(),
        "tensor": torch.tensor,
        "lazy": Lazy,
    }[kind](X)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_non_finite_values_are_refused_with_their_row(
    make, X, Lazy, method, kind, value, word
):
    estimator = make(max_iter=1)
    if method not in LEARN:
        estimator.fit(X)
    X_bad = spoilt(spoilt(X, 570, value), 555, value)  # in the second block of rows
    message = f"{word}.* row 555.*{type(estimator).__name__}.*drop or replace"
    with pytest.raises(ValueError, match=message):
        getattr(estimator, method)(in_container(X_bad, kind, Lazy))


@pytest.mark.parametrize("seed", range(4))
def test_blocks_read_out_of_order(make, X, Lazy, monkeypatch, seed):
    # 1800 rows are four blocks; the first that is read has the first bad row to report.
    monkeypatch.setattr(start, "_STANDARDISATION_ROWS", 512)
    X_bad = np.tile(X, (3, 1))
    X_bad[[800, 801, 1100, 1101, 1700], 2] = np.nan
    with pytest.raises(ValueError, match=r"row (800|1100|1700)"):
        make(random_state=seed).fit(Lazy(X_bad))


def test_the_row_is_counted_through_chunks(make, X, Lazy):
    estimator = make(max_iter=1).fit(X)
    X_bad = np.tile(X, (15, 1))
    X_bad[8765, 0] = np.nan
    for container in (np.asarray, Lazy):
        for method in (estimator.transform, estimator.score, estimator.allocate):
            with pytest.raises(ValueError, match="row 8765"):
                method(container(X_bad))


# A finite X has finite results, or else it is refused.


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_float64_values_too_large_for_float32(make, X):
    for scale in (1e30, 1e60, 1e300):
        with contextlib.suppress(ValueError):
            estimator = make().fit(X * scale)
            codes = estimator.transform(X * scale)
            assert np.isfinite(codes.data).all()
            assert np.isfinite(estimator.inverse_transform(codes)).all()
            assert np.isfinite(estimator.score(X * scale))


def test_float32_values_near_the_largest(make, X):
    large = (X * 1e36).astype(np.float32)
    with contextlib.suppress(ValueError):
        estimator = make(max_iter=1).fit(large)
        codes = estimator.transform(large)
        assert np.isfinite(codes.data).all()
        assert np.isfinite(estimator.inverse_transform(codes)).all()
        assert np.isfinite(estimator.score(large))
        assert codes.nnz == pytest.approx(4 * len(X), rel=0.1)


@pytest.mark.parametrize("power", [-80, -20, 50])
def test_any_usual_scale_is_learned(make, X, power):
    scaled = (X * 2.0**power).astype(np.float32)
    estimator = make().fit(scaled)
    assert estimator.score(scaled) == pytest.approx(
        make().fit(X.astype(np.float32)).score(X), abs=1e-4
    )


# ---------------------------------------------------------------- shape and kind of X


BAD_X = {
    "no rows": (np.empty((0, 12)), ValueError, "0 sample.*minimum of 1"),
    "no columns": (np.empty((5, 0)), ValueError, "0 feature.*minimum of 1"),
    "vector": (np.zeros(12), ValueError, "Expected 2D array, got 1D array"),
    "scalar": (np.float64(3.0), ValueError, "Expected 2D array, got scalar"),
    "cube": (np.zeros((4, 4, 12)), ValueError, r"dim 3.*{name}.*reshape\(-1, 12\)"),
    "path": ("X.npy", TypeError, "path, 'X.npy'.*np.load.*ActivationStore"),
    "path object": (Path("X.npy"), TypeError, "path, 'X.npy'"),
    "complex": (np.ones((5, 12)) * 1j, ValueError, "Complex data not supported"),
    "words": (np.array([["a"] * 12] * 5), ValueError, "could not convert string"),
    "objects": (np.array([[{}] * 12] * 5), TypeError, "must be a string or a real"),
    "none": (None, ValueError, "Expected 2D array|NoneType"),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError, "inhomogeneous"),
    "csr": (sparse.eye_array(12, format="csr"), TypeError, "[Ss]parse.*dense.*require"),
    "coo": (sparse.coo_matrix(np.eye(12)), TypeError, "[Ss]parse.*dense.*require"),
    "tensor, no rows": (torch.empty(0, 12), ValueError, "0 sample.*minimum of 1"),
    "tensor, vector": (torch.zeros(12), ValueError, "Expected 2D array, got 1D"),
    "tensor, cube": (torch.zeros(4, 4, 12), ValueError, "dim 3.*{name}"),
    "tensor, complex": (torch.ones(5, 12) * 1j, ValueError, "Complex data not"),
    "tensor, sparse": (torch.eye(12).to_sparse(), TypeError, "[Ss]parse.*dense"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", BAD_X)
def test_what_is_no_matrix_of_numbers_is_refused(make, X, case, method):
    X_bad, error, message = BAD_X[case]
    estimator = make(max_iter=1)
    if method not in LEARN:
        estimator.fit(X)
    message = message.format(name=type(estimator).__name__)
    with pytest.raises(error, match=message):
        getattr(estimator, method)(X_bad)


def test_an_archive_is_refused_with_the_names_in_it(make, X, tmp_path):
    np.savez(tmp_path / "X.npz", activations=X, labels=X[:, 0])
    with (
        np.load(tmp_path / "X.npz") as archive,
        pytest.raises(TypeError, match=r"one of.*'activations', 'labels'"),
    ):
        make().fit(archive)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros(12), "Expected 2D array, got 1D array"),
        (np.zeros((2, 3, 4)), "dim 3"),
        (np.empty((0, 12)), "0 sample"),
        (np.ones((5, 12)) * 1j, "complex128"),
        (np.array([["a"] * 12] * 5), "<U1"),
        (np.array([[{}] * 12] * 5), "object"),
        (np.zeros((5, 12), dtype="M8[s]"), "datetime64"),
    ],
)
def test_lazy_arrays_are_checked_before_they_are_read(make, Lazy, array, message):
    lazy = Lazy(array)
    with pytest.raises(ValueError, match=message):
        make().fit(lazy)
    assert lazy.reads == []


@pytest.mark.parametrize("method", ["transform", "score", "allocate"])
@pytest.mark.parametrize("kind", ["array", "frame", "tensor", "lazy"])
def test_wrong_width(make, X, Lazy, method, kind):
    estimator = make(max_iter=1).fit(X)
    name = type(estimator).__name__
    message = f"X has 11 features, but {name} is expecting 12 features"
    with pytest.raises(ValueError, match=message):
        getattr(estimator, method)(in_container(X[:, :11], kind, Lazy))


# --------------------------------------------------------------------------- codes


def test_codes_of_wrong_width(fitted):
    for codes in (np.zeros((3, 47)), sparse.csr_array((3, 49))):
        with pytest.raises(ValueError, match=f"{codes.shape[1]} features.*48 codes"):
            fitted.inverse_transform(codes)


@pytest.mark.parametrize(
    "codes, message",
    [
        (np.zeros(48), "Expected 2D array"),
        (np.zeros((2, 2, 48)), "dim 3"),
        (np.empty((0, 48)), "0 sample"),
        (np.ones((2, 48)) * 1j, "Complex data not supported"),
        (np.full((2, 48), "a"), "could not convert string"),
    ],
)
def test_codes_that_are_no_matrix_of_numbers(fitted, codes, message):
    with pytest.raises(ValueError, match=message):
        fitted.inverse_transform(codes)


@pytest.mark.parametrize("value, word", [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_non_finite_codes(fitted, value, word, container):
    codes = container(spoilt(np.zeros((5, 48)), 3, value))
    with pytest.raises(ValueError, match=f"codes.*{word}|X contains {word}"):
        fitted.inverse_transform(codes)


# ---------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"k": 0}, "'k' parameter.*Got 0"),
        ({"k": -1}, "'k' parameter.*Got -1"),
        ({"k": "many"}, "'k' parameter.*Got 'many'"),
        ({"k": 49}, "k=49 must be at most n_features=48"),
        ({"k": np.nan}, "'k' parameter.*Got nan"),
        ({"n_features": 0}, "'n_features' parameter.*Got 0"),
        ({"n_features": 4.0}, "'n_features' parameter.*Got 4.0"),
        ({"n_features": 3}, "k=4 must be at most n_features=3"),
        ({"aux": "dead"}, "'aux' parameter.*Got 'dead'"),
        ({"aux_k": 0}, "'aux_k' parameter.*Got 0"),
        ({"aux_coef": -1.0}, "'aux_coef' parameter.*Got -1.0"),
        ({"importance": "squared"}, "'importance' parameter.*Got 'squared'"),
        ({"dead_after": 0}, "'dead_after' parameter.*Got 0"),
        ({"batch_size": 0}, "'batch_size' parameter.*Got 0"),
        ({"max_iter": 0}, "'max_iter' parameter.*Got 0"),
        ({"learning_rate": "fast"}, "'learning_rate' parameter.*Got 'fast'"),
        ({"learning_rate": 0.0}, "'learning_rate' parameter.*Got 0.0"),
        ({"learning_rate": np.inf}, "'learning_rate' parameter.*Got inf"),
        ({"warmup_fraction": 1.5}, "'warmup_fraction' parameter.*Got 1.5"),
        ({"decay_fraction": -0.1}, "'decay_fraction' parameter.*Got -0.1"),
        ({"n_calibration": -1}, "'n_calibration' parameter.*Got -1"),
        ({"n_calibration": 600}, "n_calibration=600.*only 600.*Lower"),
        ({"n_calibration": 10**9}, "n_calibration=1000000000.*only 600.*Lower"),
        ({"sparse_output": "yes"}, "'sparse_output' parameter.*Got 'yes'"),
        ({"device": 0}, "'device' parameter.*Got 0"),
        ({"random_state": "0"}, "'random_state' parameter.*Got '0'"),
        ({"verbose": -1}, "'verbose' parameter.*Got -1"),
        ({"warm_start": None}, "'warm_start' parameter.*Got None"),
    ],
    ids=str,
)
def test_parameters_out_of_range(make, X, parameters, message):
    with pytest.raises(ValueError, match=message):
        make(**parameters).fit(X)


@pytest.mark.parametrize("k", [2.5, 2.0, 0.5])
def test_token_choice_needs_a_whole_k(X, k):
    with pytest.raises(ValueError, match=f"'k' parameter.*int.*Got {k}"):
        TokenChoiceSAE(48, k).fit(X)


@pytest.mark.parametrize("Estimator", SHARED)
@pytest.mark.parametrize("k, n_rows", [(1e-9, 600), (0.0004, 600), (0.4, 1)])
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_k_of_less_than_one_match_in_a_batch(Estimator, X, k, n_rows):
    with pytest.raises(ValueError, match=r"k=.*batch"):
        Estimator(48, k, max_iter=1).fit(X[:n_rows])


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda(make, X, device, method):
    with pytest.raises(ValueError, match=r"'cuda.*CUDA.*device='auto' or 'cpu'"):
        getattr(make(device=device), method)(X)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "", "cuda:", "Cpu please"])
def test_unknown_device(make, X, device):
    with pytest.raises(ValueError, match=f"device='{device}'"):
        make(device=device).fit(X)


def test_device_that_this_torch_has_not(make, X):
    with pytest.raises(ValueError, match="device='ipu' is of a kind that is not"):
        make(device="ipu").fit(X)


def test_unknown_device_of_a_module(fitted):
    with pytest.raises(ValueError, match="device='gpu'"):
        fitted.to_torch("gpu")


@pytest.mark.parametrize("device", ["cpu", "auto", torch.device("cpu"), "cpu:0"])
def test_known_devices(make, X, device):
    assert make(device=device, max_iter=1).fit(X).transform(X).nnz > 0


# ---------------------------------------------------------------------------- caps


def feature_choice(**settings):
    return FeatureChoiceSAE(
        **{**dict(n_features=8, k=2, batch_size=100, max_iter=2), **settings}
    )


@pytest.mark.parametrize(
    "caps, message",
    [
        ("steep", "'caps' parameter.*Got 'steep'"),
        (None, "'caps' parameter.*Got None"),
        (0.25, "'caps' parameter.*Got 0.25"),
        ([0.25] * 7, r"shape \(8,\).*got shape \(7,\)"),
        ([[0.25] * 8], r"shape \(8,\).*got shape \(1, 8\)"),
        (["a"] * 8, "one number for each feature.*dtype <U1"),
        ([0.5] * 8, "sum to k=2.*sum to 4.*caps \\* k / caps.sum"),
        ([0.2] * 8, "sum to k=2.*sum to 1.6.*caps \\* k / caps.sum"),
        ([1.25, 0.75] + [0] * 6, r"in \[0, 1\].*0.0 to 1.25.*batch size"),
        ([-0.25, 0.75] + [0.25] * 6, r"in \[0, 1\].*-0.25 to 0.75"),
        ([np.nan] * 8, r"in \[0, 1\].*nan"),
        ([np.inf] + [0] * 7, r"in \[0, 1\].*inf"),
        ([200] * 8, r"in \[0, 1\].*Divide matches per batch by the batch size"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_caps_that_cannot_be_met(X, caps, message, method):
    with pytest.raises(ValueError, match=message):
        getattr(feature_choice(caps=caps), method)(X)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"min_cap": 2}, "'min_cap' parameter.*Got 2"),
        ({"mutual_fraction": 1.1}, "'mutual_fraction' parameter.*Got 1.1"),
        ({"zipf_exponent": -1.0}, "'zipf_exponent' parameter.*Got -1.0"),
        ({"zipf_offset": -1.0}, "'zipf_offset' parameter.*Got -1.0"),
        (
            {"min_cap": 1, "n_features": 500},
            "min_cap=1.*100 rows has 200 matches for n_features=500.*min_cap=0",
        ),
        (
            {"min_cap": 1, "n_features": 500, "k": 0.5, "batch_size": 10**6},
            "min_cap=1.*540 rows has 270 matches for n_features=500",
        ),
    ],
    ids=str,
)
def test_feature_choice_parameters_out_of_range(X, parameters, message):
    with pytest.raises(ValueError, match=message):
        feature_choice(**parameters).fit(X)


def test_min_cap_looks_at_the_rows_that_are_trained_on(mixture):
    # Of 5000 rows 500 are set aside: 4500 matches are too few for 4800 features.
    sae = FeatureChoiceSAE(4800, 1, min_cap=1, batch_size=10**6, max_iter=1)
    with pytest.raises(ValueError, match=r"min_cap=1.*4500 matches"):
        sae.fit(mixture(5000))


def test_min_cap_looks_at_the_batches_that_partial_fit_makes(X):
    # Two batches of 50 rows, where 64 matches would fit into a batch of 64.
    sae = feature_choice(n_features=64, k=1, min_cap=1, batch_size=64)
    with pytest.raises(ValueError, match=r"min_cap=1.*50 matches"):
        sae.partial_fit(X[:100])


def test_min_cap_excludes_caps_under_it(X):
    caps = np.array([1.0, 1.0] + [0.0] * 6)
    with pytest.raises(ValueError, match="min_cap"):
        feature_choice(caps=caps, min_cap=1).fit(X)


@pytest.mark.parametrize(
    "caps",
    [
        [0.25] * 8,
        np.full(8, 0.25, dtype=np.float32),
        (1, 1, 0, 0, 0, 0, 0, 0),
        np.array([1, 0.9, 0.05, 0.05, 0, 0, 0, 0]),
    ],
    ids=["list", "float32", "integers", "uneven"],
)
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.UnfilledBudgetWarning")
def test_caps_that_can_be_met(X, caps):
    sae = feature_choice(caps=caps).fit(X)
    assert sae.caps_.dtype == np.float64
    assert sae.caps_.shape == (8,)


# ------------------------------------------------------- odd data that can be learned


def assert_works(estimator, X, n_features):
    """Assert that outputs have shape and dtype, and are finite."""
    dtype = np.float64 if X.dtype == np.float64 else np.float32
    for codes in (estimator.transform(X), estimator.allocate(X)):
        assert codes.shape == (len(X), n_features)
        assert codes.dtype == dtype
        assert np.isfinite(codes.data).all()
        assert (codes.data > 0).all()
        back = estimator.inverse_transform(codes)
        assert back.shape == X.shape
        assert back.dtype == dtype
        assert np.isfinite(back).all()
    score = estimator.score(X)
    assert type(score) is float
    assert -np.inf < score <= 1
    for name in ("encoder_weights_", "components_"):
        array = getattr(estimator, name)
        assert array.shape == (n_features, X.shape[1])
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    for name in ("encoder_bias_", "thresholds_", "feature_density_"):
        array = getattr(estimator, name)
        assert array.shape == (n_features,)
        assert np.isfinite(array).all()
    assert estimator.dead_features_.dtype == bool
    assert estimator.decoder_bias_.shape == (X.shape[1],)
    assert estimator.decoder_bias_.dtype == dtype
    np.testing.assert_allclose(
        np.linalg.norm(estimator.components_, axis=1), 1.0, rtol=1e-5
    )
    for record in estimator.history_:
        assert all(np.isfinite(v) for v in record.values() if not isinstance(v, str))


def digits():
    return load_digits().data[:300]


# Each with the warnings that it must give; an unfilled budget may be warned of as well.
ODD = {
    "one row": (lambda: digits()[:1], {ConstantRowsWarning, FewRowsWarning}),
    "one column": (lambda: digits()[:, 20:21], set()),
    "one entry": (lambda: digits()[:1, 20:21], {ConstantRowsWarning, FewRowsWarning}),
    "equal rows": (lambda: digits()[:1].repeat(50, axis=0), {ConstantRowsWarning}),
    "equal entries": (lambda: np.full((50, 7), 0.1), {ConstantRowsWarning}),
    "zeros": (lambda: np.zeros((50, 7)), {ConstantRowsWarning}),
    "two rows": (lambda: digits()[:2], {FewRowsWarning}),
    "duplicates": (lambda: digits()[:5].repeat(40, axis=0), set()),
    "mostly zeros": (
        lambda: digits() * (np.arange(300)[:, None] < 30),
        {OutlierRowsWarning},  # to the median row, a row of zeros, all others are far
    ),
    "constant columns": (lambda: digits(), set()),
    "huge offset": (lambda: digits() + 1e6, set()),
    "fewer rows than a batch": (lambda: digits()[:40], set()),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize(
    "dtype, importance", [(np.float64, "relative"), (np.float32, "absolute")]
)
def test_odd_data(Estimator, case, dtype, importance):
    maker, expected = ODD[case]
    if Estimator is FeatureChoiceSAE and FewRowsWarning in expected:
        # The average of 16 features expects less than one match in so few rows.
        expected = expected | {FewCalibrationRowsWarning}
    X = maker().astype(dtype)
    estimator = Estimator(
        16, 2, batch_size=100, max_iter=5, random_state=0, importance=importance
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(X)
        assert_works(estimator, X, 16)
        estimator.partial_fit(X)
        assert_works(estimator, X, 16)
    given = {warning.category for warning in caught}
    assert given >= expected
    # Of one column all rows of a sign tie, and no few features can tell them apart.
    hopeless = {DivergenceWarning} if case == "one column" else set()
    assert given <= expected | {UnfilledBudgetWarning} | hopeless


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e-30])
@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_constant_rows_are_reconstructed_exactly(make, dtype, value):
    X = np.full((70, 5), value, dtype=dtype)
    estimator = make().fit(X)
    assert estimator.score(X) == 1.0
    np.testing.assert_allclose(
        estimator.inverse_transform(estimator.transform(X)), X, rtol=1e-6
    )


def test_all_features_for_each_token(Estimator):
    X = digits()
    with pytest.warns(UnfilledBudgetWarning, match=r"\d+\.\d% of the budget of k=16"):
        estimator = Estimator(16, 16, max_iter=20, random_state=0).fit(X)
    assert_works(estimator, X, 16)
    # All positive affinities match, and there are no others to have.
    assert (estimator.thresholds_ == 0).all()
    assert estimator.transform(X).nnz == estimator.allocate(X).nnz
    assert estimator.score(X) > 0.2


def test_one_feature(Estimator):
    X = digits()
    with pytest.warns(UnfilledBudgetWarning):
        estimator = Estimator(1, 1, max_iter=20, random_state=0).fit(X)
    assert_works(estimator, X, 1)


@pytest.mark.parametrize("n_features", [2, 3])
def test_few_features(Estimator, n_features):
    X = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfilledBudgetWarning)
        estimator = Estimator(n_features, 1, max_iter=20, random_state=0).fit(X)
    assert_works(estimator, X, n_features)


@pytest.mark.parametrize("Estimator", SHARED)
@pytest.mark.parametrize("k", [0.5, 2.5, np.float32(1.5), 1])
def test_any_positive_k(Estimator, X, k):
    settings = {"batch_size": 100, "max_iter": 10, "n_calibration": 0}
    estimator = Estimator(48, k, **settings, random_state=0).fit(X)
    assert_works(estimator, X, 48)
    assert estimator.transform(X).nnz / len(X) == pytest.approx(float(k), rel=0.05)
    assert estimator.allocate(X).nnz == round(k * len(X))


@pytest.mark.parametrize("caps", ["zipf", "uniform", "learned"])
@pytest.mark.parametrize("mutual_fraction", [0, 0.5, 1])
@pytest.mark.parametrize("min_cap", [0, 1])
def test_every_kind_of_caps(X, caps, mutual_fraction, min_cap):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfilledBudgetWarning)
        sae = FeatureChoiceSAE(
            48,
            4,
            batch_size=100,
            max_iter=6,
            caps=caps,
            mutual_fraction=mutual_fraction,
            min_cap=min_cap,
            random_state=0,
        ).fit(X)
    assert_works(sae, X, 48)
    assert ((sae.caps_ >= 0) & (sae.caps_ <= 1)).all()
    assert sae.caps_.sum() == pytest.approx(4, rel=0.01)


def test_many_more_features_than_rows(Estimator):
    X = digits()[:50]
    with pytest.warns(FewRowsWarning, match="50 rows to train on for n_features=3000"):
        estimator = Estimator(3000, 2, max_iter=3, random_state=0).fit(X)
    assert_works(estimator, X, 3000)


def test_default_parameters(Estimator):
    X = load_digits().data
    with warnings.catch_warnings():
        warnings.simplefilter("error", SAEWarning)
        # 32 features for 64 columns: a share per feature finds too few positives.
        warnings.simplefilter("ignore", UnfilledBudgetWarning)
        estimator = Estimator(random_state=0).fit(X)
    assert_works(estimator, X, 8 * 64)


def test_default_number_of_features(Estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAEWarning)
        few = Estimator(k=30, max_iter=1).fit(digits()[:, :10])
        many = Estimator(k=2, max_iter=1).fit(digits()[:, :10])
    assert len(few.components_) == 120
    assert len(many.components_) == 80
