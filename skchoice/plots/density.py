"""How often features fire, by rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skchoice import metrics
from skchoice.plots.axes import encoded, finish, fitted, given_or_new, with_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class DensityDisplay:
    """Feature densities by rank, on logarithmic axes.

    Parameters
    ----------
    density : array-like of shape (n_features,)
        Share of tokens on which each feature fires, in any order.
    label : str or None, default=None
        Name in the legend. None leaves the display out of it.

    Attributes
    ----------
    line_ : matplotlib.lines.Line2D
        Rank and density of the features, the densest at rank 1. Those with density 0
        have no place on a logarithmic axis; the legend counts them.
    fit_ : ZipfFit or None
        The Zipf fit, where one was asked for.
    fit_line_ : matplotlib.lines.Line2D or None
        The fit over the same ranks.
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the ax.

    See Also
    --------
    L0Display : How many features fire on a token.

    Examples
    --------
    >>> import numpy as np
    >>> from skchoice.plots import DensityDisplay
    >>> display = DensityDisplay(0.5 / np.arange(1, 101), label="Zipf's law")
    >>> display = display.plot(zipf=True)
    >>> display.ax_.get_yscale(), round(display.fit_.exponent, 3)
    ('log', 1.0)
    """

    def __init__(self, density: ArrayLike, *, label: str | None = None):
        self.density = density
        self.label = label

    def plot(
        self, ax: Axes | None = None, *, zipf: bool = False, **line_kwargs: Any
    ) -> DensityDisplay:
        """Draw the densities.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        zipf : bool, default=False
            Draw the Zipf fit too, dashed, its exponent and R2 in the legend.
        **line_kwargs : dict
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        DensityDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If a density is not from 0 to 1, or no feature fires.
        """
        density = np.sort(np.asarray(self.density, dtype=float))[::-1]
        if not ((density >= 0) & (density <= 1)).all():
            raise ValueError(
                "densities are shares of tokens, from 0 to 1, got numbers from "
                f"{density.min():.4g} to {density.max():.4g}. Divide counts by tokens."
            )
        if not density.any():
            raise ValueError(
                f"none of the {len(density)} features fires: a logarithmic axis has no "
                "place for that."
            )
        fit = metrics.zipf_fit(density) if zipf else None
        firing = density[density > 0]
        ranks = np.arange(1, len(firing) + 1)
        n_silent = len(density) - len(firing)
        note = f"{n_silent} with density 0" if n_silent else ""

        ax = given_or_new(ax)
        style = {"linewidth": 1.8, "label": with_note(self.label, note)} | line_kwargs
        if len(firing) == 1:  # which makes no line
            style = {"marker": "o"} | style
        (self.line_,) = ax.plot(ranks, firing, **style)
        self.fit_, self.fit_line_ = fit, None
        if fit is not None:
            (self.fit_line_,) = ax.plot(
                ranks,
                fit.predict(ranks),
                linestyle="--",
                linewidth=1.2,
                color=self.line_.get_color(),
                label=f"Zipf: exponent {fit.exponent:.2f}, R² {fit.r2:.3f}",
            )
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="Feature, by rank",
            ylabel="Density (share of tokens)",
        )
        self.ax_, self.figure_ = finish(ax, "lower left"), ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        zipf: bool = False,
        **line_kwargs: Any,
    ) -> DensityDisplay:
        """Draw the densities of a fitted autoencoder's features.

        Parameters
        ----------
        estimator : estimator
            A fitted autoencoder of this library.
        X : array-like of shape (n_tokens, n_columns) or None, default=None
            Rows to measure densities on. None takes the `feature_density_` of the fit.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        label : str or None, default=None
            Name in the legend. None is the name of the estimator's class.
        zipf : bool, default=False
            Draw the Zipf fit too.
        **line_kwargs : dict
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        DensityDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the estimator is not fitted.
        """
        if X is None:
            name, density = fitted(estimator, "feature_density_")
        else:
            name, codes = encoded(estimator, X)
            density = metrics.density(codes)
        return cls(density, label=label or name).plot(ax, zipf=zipf, **line_kwargs)

    @classmethod
    def from_codes(
        cls,
        codes: Any,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        zipf: bool = False,
        **line_kwargs: Any,
    ) -> DensityDisplay:
        """Draw the densities measured on codes.

        Parameters
        ----------
        codes : {array-like, sparse array, sparse matrix} of shape \
                (n_tokens, n_features)
            What `transform` returns.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        label : str or None, default=None
            Name in the legend. None leaves the display out of it.
        zipf : bool, default=False
            Draw the Zipf fit too.
        **line_kwargs : dict
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        DensityDisplay
            The display, drawn.
        """
        display = cls(metrics.density(codes), label=label)
        return display.plot(ax, zipf=zipf, **line_kwargs)
