"""Several measures at once, for searches."""

from __future__ import annotations

from typing import Any

from skchoice.metrics.codes import l0
from skchoice.metrics.errors import explained_variance


def sparsity_scores(estimator: Any, X: Any, y: Any = None) -> dict[str, float]:
    """Measure explained variance and L0 together: a ``scoring`` for searches.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``transform`` and ``inverse_transform``: an autoencoder, or a
        Pipeline that ends in one.
    X : array-like of shape (n_samples, n_features_in)
        Held-out rows.
    y : None
        Ignored.

    Returns
    -------
    dict
        ``explained_variance`` of X in its own units, and the mean ``l0`` per row.

    See Also
    --------
    skchoice.plots.FrontierDisplay : Draws what a search found with it.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skchoice import MutualChoiceSAE
    >>> from skchoice.metrics import sparsity_scores
    >>> search = GridSearchCV(
    ...     MutualChoiceSAE(n_features=128, random_state=0),
    ...     {"k": [4, 8]},
    ...     scoring=sparsity_scores,
    ...     refit="explained_variance",
    ...     cv=2,
    ... ).fit(load_digits().data)
    >>> search.best_params_, search.cv_results_["mean_test_l0"].round()
    ({'k': 8}, array([4., 8.]))
    """
    codes = estimator.transform(X)
    x_hat = estimator.inverse_transform(codes)
    return {"explained_variance": explained_variance(X, x_hat), "l0": l0(codes)}
