"""How training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skchoice.plots.axes import abbreviate, count, finish, fitted, given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {
    "loss": "Loss",
    "auxiliary_loss": "Auxiliary loss",
    "fvu": "Fraction of variance unexplained",
    "l0": "Matches per token",
    "unfilled": "Unfilled share of the budget",
    "n_dead": "Dead features",
    "n_underused": "Underused features",
    "learning_rate": "Learning rate",
}


class TrainingDisplay:
    """One quantity over the tokens of training.

    Where the rule changes, as from Mutual Choice to Feature Choice, a dotted line says
    so.

    Parameters
    ----------
    history : list of dict
        The `history_` of a fitted autoencoder.
    label : str or None, default=None
        Name in the legend. None leaves the display out of it.

    Attributes
    ----------
    line_ : matplotlib.lines.Line2D
        The quantity after so many tokens.
    change_lines_ : list of matplotlib.lines.Line2D
        Where another rule begins.
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        The figure of the ax.

    See Also
    --------
    FrontierDisplay : Error against sparsity of several autoencoders.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import FeatureChoiceSAE
    >>> from skchoice.plots import TrainingDisplay
    >>> sae = FeatureChoiceSAE(n_features=128, k=8, batch_size=512, random_state=0)
    >>> display = TrainingDisplay.from_estimator(sae.fit(load_digits().data))
    >>> display.ax_.get_ylabel(), len(display.change_lines_)
    ('Fraction of variance unexplained', 1)
    """

    def __init__(self, history: Sequence[dict], *, label: str | None = None):
        self.history = history
        self.label = label

    def plot(
        self, ax: Axes | None = None, *, quantity: str = "fvu", **line_kwargs: Any
    ) -> TrainingDisplay:
        """Draw the quantity.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        quantity : str, default="fvu"
            A key of the records: "fvu", "loss", "auxiliary_loss", "l0", "unfilled",
            "n_dead", "n_underused" or "learning_rate".
        **line_kwargs : dict
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        TrainingDisplay
            This display.

        Raises
        ------
        ValueError
            If there is no such quantity, or nothing was recorded.
        """
        if quantity not in _NAMES:
            raise ValueError(
                f"quantity must be one of {sorted(_NAMES)}, got {quantity!r}."
            )
        if not self.history:
            raise ValueError("there is no history: the model was not trained here.")
        tokens = [record["n_tokens"] for record in self.history]
        values = [record[quantity] for record in self.history]
        ax = given_or_new(ax)
        style = {"linewidth": 1.8, "label": self.label} | line_kwargs
        (self.line_,) = ax.plot(tokens, values, **style)
        self.change_lines_ = [
            ax.axvline(
                before["n_tokens"],
                color=self.line_.get_color(),
                linestyle=":",
                linewidth=1.2,
                label=f"{after['rule']} begins",
            )
            for before, after in zip(self.history, self.history[1:], strict=False)
            if before["rule"] != after["rule"]
        ]
        ax.set(xlabel="Tokens", ylabel=_NAMES[quantity])
        abbreviate(ax.xaxis)
        if quantity.startswith("n_"):
            count(ax.yaxis)
        self.ax_, self.figure_ = finish(ax), ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        ax: Axes | None = None,
        *,
        quantity: str = "fvu",
        label: str | None = None,
        **line_kwargs: Any,
    ) -> TrainingDisplay:
        """Draw from the `history_` of a fitted autoencoder.

        Parameters
        ----------
        estimator : estimator
            A fitted autoencoder of this library.
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw. None makes a new figure.
        quantity : str, default="fvu"
            As for `plot`.
        label : str or None, default=None
            Name in the legend. None is the name of the estimator's class.
        **line_kwargs : dict
            For `matplotlib.axes.Axes.plot`.

        Returns
        -------
        TrainingDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the estimator is not fitted.
        """
        name, history = fitted(estimator, "history_")
        display = cls(history, label=label or name)
        return display.plot(ax, quantity=quantity, **line_kwargs)
