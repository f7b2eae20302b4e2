"""scikit-learn's own checks, and what its users expect of a transformer."""

import copy
import importlib.util
import inspect
import re

import numpy as np
import pytest
from joblib import Parallel, delayed
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils import estimator_checks as checks
from sklearn.utils import estimator_html_repr
from sklearn.utils.estimator_checks import parametrize_with_checks

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE

ESTIMATORS = [TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE]
SMALL = dict(n_features=8, k=2, max_iter=2)

# The checks of scikit-learn are many small data sets: most have fewer rows than
# features, and some are constant on purpose.
few_rows = pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")


@few_rows
@parametrize_with_checks(
    [make(**settings) for make in ESTIMATORS for settings in ({}, SMALL)]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


# Checks that scikit-learn runs on its own estimators and leaves to third parties to
# import.
MORE_CHECKS = [
    checks.check_dataframe_column_names_consistency,
    checks.check_estimator_sparse_array,
    checks.check_estimator_sparse_matrix,
    checks.check_estimator_sparse_tag,
    checks.check_estimators_partial_fit_n_features,
    checks.check_get_feature_names_out_error,
    checks.check_global_output_transform_pandas,
    checks.check_inplace_ensure_writeable,
    checks.check_n_features_in_after_fitting,
    checks.check_param_validation,
    checks.check_set_output_transform,
    checks.check_set_output_transform_pandas,
    checks.check_transformer_get_feature_names_out,
    checks.check_transformer_get_feature_names_out_pandas,
    checks.check_transformer_n_iter,
]
if importlib.util.find_spec("polars"):
    MORE_CHECKS += [
        checks.check_global_set_output_transform_polars,
        checks.check_set_output_transform_polars,
    ]


@few_rows
@pytest.mark.parametrize("check", MORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("sparse_output", [True, False], ids=["sparse", "dense"])
def test_check_left_to_third_parties(Estimator, check, sparse_output):
    estimator = Estimator(n_features=10, k=2, max_iter=2, sparse_output=sparse_output)
    check(Estimator.__name__, estimator)


# ---------------------------------------------------------------- containers of codes


@pytest.mark.parametrize("method", ["transform", "allocate"])
def test_codes_are_csr_of_the_configured_interface(fitted, X_new, method):
    encode = getattr(fitted, method)
    assert isinstance(encode(X_new), sparse.csr_matrix)
    with config_context(sparse_interface="sparray"):
        assert isinstance(encode(X_new), sparse.csr_array)
    with config_context(sparse_interface="spmatrix"):
        assert isinstance(encode(X_new), sparse.csr_matrix)


@pytest.mark.parametrize("interface", ["spmatrix", "sparray"])
@pytest.mark.parametrize("method", ["transform", "allocate"])
def test_csr_is_canonical(fitted, X_new, interface, method):
    with config_context(sparse_interface=interface):
        codes = getattr(fitted, method)(X_new)
    given = codes.indices.copy(), codes.indptr.copy(), codes.data.copy()
    anew = type(codes)((given[2], given[0], given[1]), shape=codes.shape)
    assert anew.has_canonical_format  # recomputed, not the flag that was set
    assert codes.indices.dtype == codes.indptr.dtype == np.int32
    assert (codes.data > 0).all()


@pytest.mark.parametrize("context", ["local", "global"])
def test_sparse_codes_do_not_become_pandas(make, X, context):
    setting = {}
    encoders = make().fit(X), OneHotEncoder().fit(X)
    if context == "local":
        for encoder in encoders:
            encoder.set_output(transform="pandas")
    else:
        setting = dict(transform_output="pandas")
    refused = pytest.raises(ValueError, match="Set sparse_output=False")
    for encoder in encoders:
        with config_context(**setting), refused:
            encoder.transform(X)


def test_dense_codes_become_pandas_with_the_index_of_X(make, X):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, index=[f"token {i}" for i in range(len(X))])
    frame.columns = [f"dim {i}" for i in range(X.shape[1])]
    estimator = make(sparse_output=False).fit(frame).set_output(transform="pandas")
    codes = estimator.transform(frame)
    assert list(codes.index) == list(frame.index)
    assert list(codes.columns) == list(estimator.get_feature_names_out())
    assert codes.columns[0] == type(estimator).__name__.lower() + "0"
    estimator.set_output(transform="default")
    np.testing.assert_array_equal(codes, estimator.transform(frame))


def test_dense_output_holds_the_sparse_codes(make, fitted, X_new):
    dense = copy.deepcopy(fitted).set_params(sparse_output=False)
    np.testing.assert_array_equal(
        dense.transform(X_new), fitted.transform(X_new).toarray()
    )


# ------------------------------------------------------------------------ composition


def test_pipeline_and_column_transformer(make, X):
    y = X[:, 0] > X[:, 0].mean()
    pipeline = make_pipeline(make(), LogisticRegression(max_iter=500))
    assert pipeline.fit(X, y).score(X, y) > 0.6
    assert pipeline[:-1].inverse_transform(pipeline[:-1].transform(X)).shape == X.shape
    split = ColumnTransformer(
        [("left", make(k=1, n_features=8), slice(0, 6)), ("right", "drop", [6])]
    )
    assert split.fit_transform(X).shape == (len(X), 8)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_grid_search_gives_the_same_in_parallel(Estimator):
    X, y = load_digits(return_X_y=True)
    X, y = X[:700].repeat(3, axis=0), y[:700].repeat(3)
    assert X.nbytes > 1 << 20  # so that joblib gives its workers a memory map
    pipeline = make_pipeline(
        Estimator(max_iter=2, batch_size=128, random_state=0),
        LogisticRegression(max_iter=10, tol=1e-2),
    )
    prefix = Estimator.__name__.lower()
    grid = {f"{prefix}__k": [4, 8], f"{prefix}__n_features": [32, 64]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise")
    alone = clone(search).set_params(n_jobs=1).fit(X, y)
    together = clone(search).set_params(n_jobs=2).fit(X, y)
    scores = alone.cv_results_["mean_test_score"]
    assert len(scores) == 4
    assert scores.min() > 0.5
    np.testing.assert_array_equal(scores, together.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(
        alone.best_estimator_[0].components_, together.best_estimator_[0].components_
    )


def test_fit_in_a_worker_is_the_fit_in_the_parent(make, mixture, assert_same_fit):
    X = mixture(11_000)
    assert X.nbytes > 1 << 20  # so that joblib maps it
    here = make(max_iter=1).fit(X)
    (there,) = Parallel(n_jobs=2)([delayed(make(max_iter=1).fit)(X)])
    assert_same_fit(here, there)


def test_grid_search_by_the_score_of_the_estimator_itself(make, X):
    estimator = make(batch_size=50, max_iter=20)
    search = GridSearchCV(estimator, {"k": [1, 4]}, cv=2).fit(X)
    assert search.best_params_ == {"k": 4}


# ---------------------------------------------------------------------- documentation


def documented(docstring, section):
    """Names in a section of a numpydoc docstring."""
    text = inspect.cleandoc(docstring).split(f"{section}\n{'-' * len(section)}\n")[1]
    text = re.split(r"\n\n\w[\w ]*\n---", text)[0]
    heads = [line for line in text.splitlines() if line and not line.startswith(" ")]
    names = [head.split(" : ")[0] for head in heads]
    return [name for several in names for name in several.split(", ")]


def test_every_parameter_is_documented(Estimator):
    names = documented(Estimator.__doc__, "Parameters")
    assert len(names) == len(set(names))
    assert set(names) == set(inspect.signature(Estimator).parameters)


def test_every_fitted_attribute_is_documented(make, X, published):
    pd = pytest.importorskip("pandas")
    estimator = make().fit(pd.DataFrame(X).rename(columns=str))
    names = documented(type(estimator).__doc__, "Attributes")
    assert set(names) == set(published(estimator))


def test_documented_defaults_are_the_defaults(Estimator):
    signature = inspect.signature(Estimator).parameters
    text = inspect.cleandoc(Estimator.__doc__)
    found = re.findall(r"^([\w, ]+) : .*?, default=(.+)$", text, flags=re.MULTILINE)
    assert found
    for names, defaults in found:
        names = names.split(", ")
        values = defaults.split(", ") if len(names) > 1 else [defaults]
        for name, value in zip(names, values * len(names), strict=False):
            expected = signature[name].default
            assert eval(value) == expected, name


def test_representations_are_short(fitted):
    assert len(repr(fitted)) < 400
    assert len(estimator_html_repr(fitted)) < 200_000
