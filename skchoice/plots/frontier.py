"""Error against sparsity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skchoice.plots.axes import finish, given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class FrontierDisplay:
    """Fraction of variance unexplained against L0, as measured.

    Parameters
    ----------
    l0 : array-like of shape (n_models,)
        Mean matches per token of each model.
    fvu : array-like of shape (n_models,)
        Fraction of variance unexplained by each.
    fvu_std : array-like of shape (n_models,) or None, default=None
        Standard deviation over splits or seeds, drawn as bars.
    group : array-like of shape (n_models,) or None, default=None
        Models of one group are joined by a line, which the legend names by it.
    label : str or None, default=None
        Name in the legend, before that of the group. None without groups leaves the
        display out of it.

    Attributes
    ----------
    lines_ : list of matplotlib.container.ErrorbarContainer
        One for each group.
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the ax.

    See Also
    --------
    skchoice.metrics.sparsity_scores : Measures both in a search.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skchoice import MutualChoiceSAE
    >>> from skchoice.metrics import sparsity_scores
    >>> from skchoice.plots import FrontierDisplay
    >>> search = GridSearchCV(
    ...     MutualChoiceSAE(n_features=128, max_iter=20, random_state=0),
    ...     {"k": [4, 8]},
    ...     scoring=sparsity_scores,
    ...     refit=False,
    ...     cv=2,
    ... ).fit(load_digits().data)
    >>> display = FrontierDisplay.from_cv_results(search.cv_results_)
    >>> bool(display.fvu[1] < display.fvu[0])
    True
    """

    def __init__(
        self,
        l0: ArrayLike,
        fvu: ArrayLike,
        *,
        fvu_std: ArrayLike | None = None,
        group: ArrayLike | None = None,
        label: str | None = None,
    ):
        self.l0 = l0
        self.fvu = fvu
        self.fvu_std = fvu_std
        self.group = group
        self.label = label

    def plot(self, ax: Axes | None = None, **errorbar_kwargs: Any) -> FrontierDisplay:
        """Draw the models, each group from the sparsest on.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        **errorbar_kwargs : dict
            For `matplotlib.axes.Axes.errorbar`.

        Returns
        -------
        FrontierDisplay
            This display.
        """
        l0, fvu = np.asarray(self.l0), np.asarray(self.fvu)
        std = None if self.fvu_std is None else np.asarray(self.fvu_std)
        group = np.full(len(l0), "")
        if self.group is not None:
            group = np.asarray(self.group).astype(str)
        ax = given_or_new(ax)
        self.lines_ = []
        for name in dict.fromkeys(group.tolist()):
            here = np.flatnonzero(group == name)
            here = here[np.argsort(l0[here], kind="stable")]
            label = ", ".join(part for part in (self.label, name) if part)
            style: dict[str, Any] = {"marker": "o", "markersize": 4.5, "capsize": 2.5}
            self.lines_.append(
                ax.errorbar(
                    l0[here],
                    fvu[here],
                    yerr=None if std is None else std[here],
                    **(
                        style
                        | {"linewidth": 1.8, "label": label or None}
                        | errorbar_kwargs
                    ),
                )
            )
        ax.set(
            xlabel="L0 (matches per token, measured)",
            ylabel="Fraction of variance unexplained",
        )
        self.ax_, self.figure_ = finish(ax), ax.figure
        return self

    @classmethod
    def from_cv_results(
        cls,
        cv_results: Any,
        ax: Axes | None = None,
        *,
        by: str | None = None,
        label: str | None = None,
        **errorbar_kwargs: Any,
    ) -> FrontierDisplay:
        """Draw the candidates of a search: means over its splits, and deviations.

        Parameters
        ----------
        cv_results : dict or fitted search
            A search with ``scoring=sparsity_scores``, or its `cv_results_`.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        by : str or None, default=None
            A parameter of the search: its values are the groups. None makes one group,
            which no line joins where several parameters were searched.
        label : str or None, default=None
            Name in the legend.
        **errorbar_kwargs : dict
            For `matplotlib.axes.Axes.errorbar`.

        Returns
        -------
        FrontierDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If ``cv_results`` is neither; a search that was not fitted is none.
        ValueError
            If the search did not measure L0 and explained variance, or did not search
            over ``by``.
        """
        cv_results = getattr(cv_results, "cv_results_", cv_results)
        if not isinstance(cv_results, Mapping):
            raise TypeError(
                "cv_results must be a fitted search or its cv_results_, got "
                f"{type(cv_results).__name__}."
            )
        needed = {"mean_test_l0", "mean_test_explained_variance"}
        if not needed <= set(cv_results):
            raise ValueError(
                f"cv_results lacks {sorted(needed - set(cv_results))}: search with "
                "scoring=skchoice.metrics.sparsity_scores, and refit="
                "'explained_variance' or False."
            )
        group = None
        searched = [key[6:] for key in cv_results if key.startswith("param_")]
        if by is None:
            if len(searched) > 1:
                errorbar_kwargs = {"linestyle": "none"} | errorbar_kwargs
        else:
            if by not in searched:
                raise ValueError(f"by={by!r} is not one of the searched {searched}.")
            group = [f"{by} = {value}" for value in cv_results[f"param_{by}"]]
        display = cls(
            np.asarray(cv_results["mean_test_l0"]),
            1.0 - np.asarray(cv_results["mean_test_explained_variance"]),
            fvu_std=np.asarray(cv_results["std_test_explained_variance"]),
            group=group,
            label=label,
        )
        return display.plot(ax, **errorbar_kwargs)
