"""What all displays do alike: find an ax, name the line, tidy up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, MaxNLocator
except ImportError as error:
    raise ImportError(
        "skchoice.plots needs matplotlib, which the extra `plots` brings: "
        "pip install skchoice[plots]"
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


def fitted(estimator: Any, attribute: str) -> tuple[str, Any]:
    """Return the name of an estimator, and what it has once it is fitted."""
    name = type(estimator).__name__
    if not hasattr(estimator, attribute):
        raise ValueError(f"this {name} has no {attribute}: fit it first.")
    return name, getattr(estimator, attribute)


def encoded(estimator: Any, X: Any) -> tuple[str, Any]:
    """Return the name of an estimator, and the codes of X."""
    name, _ = fitted(estimator, "components_")
    return name, estimator.transform(X)


def given_or_new(ax: Axes | None) -> Axes:
    """Return the ax, or one of a new figure."""
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def with_note(name: str | None, note: str) -> str | None:
    """Return the name for the legend with a note behind it, None for no name."""
    return f"{name} ({note})" if name and note else name


def count(axis: Axis) -> None:
    """Let an axis have ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True))


def abbreviate(axis: Axis) -> None:
    """Let an axis write thousands as k and millions as M."""
    axis.set_major_formatter(EngFormatter(sep=""))


def finish(ax: Axes, legend: Any = "best") -> Axes:
    """Light grid behind the data, open frame, and a legend of all that is named."""
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc=legend, framealpha=0.85, edgecolor="none", fontsize="small")
    return ax
