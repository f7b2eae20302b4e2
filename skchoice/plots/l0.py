"""How many features fire on a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgba
from numpy.typing import ArrayLike

from skchoice import metrics
from skchoice.plots.axes import count, encoded, finish, given_or_new, with_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MAX_BINS = 100  # as many as stay legible in a panel
_SPIKE = 0.5  # a share of the tokens that dwarfs a histogram of any other shape


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
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the ax.

    See Also
    --------
    DensityDisplay : How often each feature fires.

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
        **stairs_kwargs : dict
            For `matplotlib.axes.Axes.stairs`.

        Returns
        -------
        L0Display
            The display, drawn.
        """
        l0 = np.asarray(self.l0_per_token)
        shares, edges = _integer_histogram(l0)
        note = f"mean {l0.mean():.1f}"
        if shares.max() >= _SPIKE:
            peak = edges[shares.argmax()] + 0.5
            note += f", {shares.max():.1%} at {peak:.0f}"

        ax = given_or_new(ax)
        style = {"linewidth": 1.5, "label": with_note(self.label, note)} | stairs_kwargs
        self.stairs_ = ax.stairs(shares, edges, **style)
        paler = to_rgba(self.stairs_.get_edgecolor(), alpha=0.15)
        self.stairs_.set(fill=True, facecolor=paler)
        ax.set(xlabel="Matches per token", ylabel="Share of tokens")
        count(ax.xaxis)
        _end_above_what_is_no_spike(ax)
        self.ax_, self.figure_ = finish(ax), ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        ax: Axes | None = None,
        *,
        label: str | None = None,
        **stairs_kwargs: Any,
    ) -> L0Display:
        """Draw the histogram of the matches of each row of X.

        Parameters
        ----------
        estimator : estimator
            A fitted autoencoder of this library.
        X : array-like of shape (n_tokens, n_columns)
            Rows to encode.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        label : str or None, default=None
            Name in the legend. None is the name of the estimator's class.
        **stairs_kwargs : dict
            For `matplotlib.axes.Axes.stairs`.

        Returns
        -------
        L0Display
            The display, drawn.

        Raises
        ------
        ValueError
            If the estimator is not fitted.
        """
        name, codes = encoded(estimator, X)
        return cls.from_codes(codes, ax, label=label or name, **stairs_kwargs)

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
        **stairs_kwargs : dict
            For `matplotlib.axes.Axes.stairs`.

        Returns
        -------
        L0Display
            The display, drawn.
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
