"""What Jupyter shows of an estimator stays short."""

from sklearn.pipeline import make_pipeline


def test_the_html_of_a_fitted_estimator_is_short(make, X):
    few, many = (make(n_features=n, max_iter=1).fit(X) for n in (150, 450))
    shown = many._repr_html_()
    assert type(many).__name__ in shown
    # Neither arrays nor all the names of features: its length does not grow with them.
    assert len(shown) < 80_000
    assert len(shown) - len(few._repr_html_()) < 500
    assert len(make_pipeline(many)._repr_html_()) < 100_000
    assert len(repr(many)) < 500
