"""Description lengths against codes that are really written."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from skchoice import FeatureChoiceSAE
from skchoice.metrics import description_length, l0


def made(n_rows=4000, n_columns=6, n_features=5, seed=0):
    rng = np.random.default_rng(seed)
    fires = rng.random((n_rows, n_features)) < [0.5, 0.25, 0.1, 0.01, 0.0]
    codes = np.where(fires, rng.integers(1, 9, fires.shape), 0.0)
    X_hat = codes @ rng.standard_normal((n_features, n_columns))
    X = X_hat + 3.0 * rng.standard_normal(X_hat.shape)
    return X, X_hat, codes


def test_each_part_is_the_cost_of_an_ideal_code():
    X, X_hat, codes = made()
    bits = description_length(X, X_hat, codes, precision=1.0)
    p = (codes != 0).mean(0)[:4]
    # Minus the mean log probability of what was seen, row by row.
    fires = codes[:, :4] != 0
    of_features = -np.where(fires, np.log2(p), np.log2(1 - p)).sum(1).mean()
    np.testing.assert_allclose(bits.features, of_features)
    # Eight values alike: three bits a match.
    np.testing.assert_allclose(bits.values, 3.0 * l0(codes), rtol=0.01)
    # The entropy of the errors rounded to the precision, entry by entry.
    _, counts = np.unique(np.round(X - X_hat), return_counts=True)
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    np.testing.assert_allclose(bits.error, X.shape[1] * entropy, rtol=0.01)
    assert bits.total == bits.features + bits.values + bits.error


def test_sparse_codes_and_stored_zeros():
    X, X_hat, codes = made(200)
    rows, cols = np.indices(codes.shape)
    stored = sparse.coo_array((codes.ravel(), (rows.ravel(), cols.ravel()))).tocsr()
    assert stored.nnz == codes.size
    expected = description_length(X, X_hat, codes, precision=0.5)
    assert description_length(X, X_hat, stored, precision=0.5) == expected


def test_values_of_one_place_are_added_up():
    X, X_hat, _ = made(2)
    codes = sparse.coo_array(([1.0, 2.0, 3.0], ([0, 0, 1], [0, 0, 1])), shape=(2, 2))
    expected = description_length(X, X_hat, codes.toarray(), precision=0.5)
    assert description_length(X, X_hat, codes, precision=0.5) == expected


def test_a_unit_of_x_is_only_a_unit():
    X, X_hat, codes = made()
    bits = description_length(X, X_hat, codes, precision=0.25)
    scaled = description_length(8 * X, 8 * X_hat, 8 * codes, precision=2.0)
    np.testing.assert_allclose(scaled, bits)


def test_halving_the_precision_costs_a_bit_for_each_number():
    X, X_hat, codes = made()
    coarse = description_length(X, X_hat, codes, precision=0.01)
    fine = description_length(X, X_hat, codes, precision=0.005)
    assert fine.error - coarse.error == pytest.approx(X.shape[1], abs=1e-3)
    assert fine.features == coarse.features
    # Of values in a continuum, too, as long as there are many more than steps.
    codes *= np.random.default_rng(1).uniform(0.5, 1.5, codes.shape)
    coarse = description_length(X, X_hat, codes, precision=0.5)
    fine = description_length(X, X_hat, codes, precision=0.25)
    assert fine.values - coarse.values == pytest.approx(l0(codes), rel=0.05)


def test_no_match_and_no_error():
    zeros = np.zeros((3, 2))
    bits = description_length(zeros, zeros, np.zeros((3, 4)), precision=1.0)
    assert (bits.features, bits.values) == (0.0, 0.0)


def test_a_dictionary_pays_on_real_rows():
    from sklearn.datasets import load_digits

    X = load_digits().data
    sae = FeatureChoiceSAE(32, 4, max_iter=60, batch_size=256, random_state=0)
    sae.fit(X[:1200])
    rest = X[1200:]
    codes = sae.transform(rest)
    with_codes = description_length(
        rest, sae.inverse_transform(codes), codes, precision=1.0
    )
    mean = np.broadcast_to(X[:1200].mean(0), rest.shape)
    without = description_length(rest, mean, np.zeros((len(rest), 1)), precision=1.0)
    assert with_codes.total < without.total


@pytest.mark.parametrize(
    ("X_hat", "codes", "precision", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), 0.0, "positive"),
        (np.zeros((3, 2)), np.zeros((3, 4)), np.nan, "positive"),
        (np.zeros((3, 1)), np.zeros((3, 4)), 1.0, "same shape"),
        (np.zeros((3, 2)), np.zeros((3, 4)), "a", "positive number, got 'a'"),
        (np.zeros((3, 2)), np.zeros((3, 4)), np.ones(2), "positive number"),
        (np.zeros((3, 2)), np.zeros((2, 4)), 1.0, "one row for each of the 3"),
        (np.zeros((3, 2)), np.full((3, 4), np.nan), 1.0, "codes must be finite"),
        (np.full((3, 2), np.nan), np.zeros((3, 4)), 1.0, "X_hat must be finite"),
    ],
)
def test_bad_input(X_hat, codes, precision, message):
    with pytest.raises(ValueError, match=message):
        description_length(np.zeros((3, 2)), X_hat, codes, precision=precision)
