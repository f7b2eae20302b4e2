"""Pictures of how an autoencoder spends its matches.

The only module that imports matplotlib. Like scikit-learn's displays, a display holds
what it shows, `plot` draws it, and several may share one ax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skchoice import metrics

try:
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgba
except ImportError as error:
    raise ImportError(
        "skchoice.plots needs matplotlib, which the extra `plots` brings: "
        "pip install skchoice[plots]"
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DensityDisplay", "L0Display"]

_MAX_BINS = 100  # as many as stay legible in a panel
_SPIKE = 0.5  # a share of the tokens that dwarfs a histogram of any other shape


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
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure

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
        **line_kwargs
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : DensityDisplay

        Raises
        ------
        ValueError
            If no feature fires and a fit is asked for.
        """
        density = np.sort(np.asarray(self.density, dtype=float))[::-1]
        fit = metrics.zipf_fit(density) if zipf else None
        firing = density[density > 0]
        ranks = np.arange(1, len(firing) + 1)
        n_silent = len(density) - len(firing)
        note = f"{n_silent} with density 0" if n_silent else ""

        ax = _given_or_new(ax)
        style = {"linewidth": 1.8, "label": _label(self.label, note)} | line_kwargs
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
        self.ax_, self.figure_ = _finish(ax), ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        zipf: bool = False,
        **line_kwargs: Any,
    ) -> DensityDisplay:
        """Draw the `feature_density_` of a fitted autoencoder.

        Parameters
        ----------
        estimator : estimator
            A fitted autoencoder of this library.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        label : str or None, default=None
            Name in the legend. None is the name of the estimator's class.
        zipf : bool, default=False
            Draw the Zipf fit too.
        **line_kwargs
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : DensityDisplay

        Raises
        ------
        ValueError
            If the estimator is not fitted.
        """
        name = type(estimator).__name__
        if not hasattr(estimator, "feature_density_"):
            raise ValueError(f"this {name} has no feature_density_: fit it first.")
        display = cls(estimator.feature_density_, label=label or name)
        return display.plot(ax, zipf=zipf, **line_kwargs)

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
        **line_kwargs
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : DensityDisplay
        """
        display = cls(metrics.density(codes), label=label)
        return display.plot(ax, zipf=zipf, **line_kwargs)


class L0Display:
    """How many features fire on a token: a histogram over the tokens.

    Parameters
    ----------
    l0_per_token : array-like of int of shape (n_tokens,)
        Matches of each token.
    label : str or None, default=None
        Name in the legend, followed by the mean. None leaves the display out of it.

    Attributes
    ----------
    stairs_ : matplotlib.patches.StepPatch
        Share of the tokens at each number of matches. Where a bin holds several
        numbers it has their mean share, so that bins of all widths compare.
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure

    Examples
    --------
    >>> from skchoice.plots import L0Display
    >>> display = L0Display([2, 3, 3, 4], label="an autoencoder").plot()
    >>> display.stairs_.get_data().values
    array([0.25, 0.5 , 0.25])
    """

    def __init__(self, l0_per_token: ArrayLike, *, label: str | None = None):
        self.l0_per_token = l0_per_token
        self.label = label

    def plot(self, ax: Axes | None = None, **stairs_kwargs: Any) -> L0Display:
        """Draw the histogram.

        Where most tokens of one autoencoder have the same number of matches and those
        of another do not, the axis ends above the latter and the spike runs out of it;
        the legend says how high.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        **stairs_kwargs
            For `matplotlib.axes.Axes.stairs`.

        Returns
        -------
        display : L0Display
        """
        l0 = np.asarray(self.l0_per_token)
        shares, edges = _integer_histogram(l0)
        note = f"mean {l0.mean():.1f}"
        if shares.max() >= _SPIKE:
            peak = edges[shares.argmax()] + 0.5
            note += f", {shares.max():.1%} at {peak:.0f}"

        ax = _given_or_new(ax)
        style = {"linewidth": 1.5, "label": _label(self.label, note)} | stairs_kwargs
        self.stairs_ = ax.stairs(shares, edges, **style)
        paler = to_rgba(self.stairs_.get_edgecolor(), alpha=0.15)
        self.stairs_.set(fill=True, facecolor=paler)
        ax.set(xlabel="Matches per token", ylabel="Share of tokens")
        _end_above_what_is_no_spike(ax)
        self.ax_, self.figure_ = _finish(ax), ax.figure
        return self

    @classmethod
    def from_codes(
        cls,
        codes: Any,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        **stairs_kwargs: Any,
    ) -> L0Display:
        """Draw the histogram of the matches of each row of codes.

        Parameters
        ----------
        codes : {array-like, sparse array, sparse matrix} of shape \
                (n_tokens, n_features)
            What `transform` returns.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        label : str or None, default=None
            Name in the legend. None leaves the display out of it.
        **stairs_kwargs
            For `matplotlib.axes.Axes.stairs`.

        Returns
        -------
        display : L0Display
        """
        return cls(metrics.l0_per_token(codes), label=label).plot(ax, **stairs_kwargs)


def _integer_histogram(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of `counts` at each integer, and bin edges halfway between integers."""
    low, high = int(counts.min()), int(counts.max())
    width = (high - low) // _MAX_BINS + 1
    edges = np.arange(low, high + width + 1, width) - 0.5
    return np.histogram(counts, edges)[0] / (len(counts) * width), edges


def _end_above_what_is_no_spike(ax: Axes) -> None:
    """Set the top of the axis for all the histograms on it, whichever came first."""
    histograms = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    heights = [float(patch.get_data().values.max()) for patch in histograms]
    low = [height for height in heights if height < _SPIKE]
    ax.set_ylim(0, 1.3 * max(low or heights))  # with room for the legend


def _given_or_new(ax: Axes | None) -> Axes:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _label(name: str | None, note: str) -> str | None:
    return f"{name} ({note})" if name and note else name


def _finish(ax: Axes) -> Axes:
    """Light grid behind the data, open frame, and a legend of all that is named."""
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize="small")
    return ax
