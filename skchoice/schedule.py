"""How large a batch is and how fast training goes, step by step and by default."""

from __future__ import annotations

import math
from collections.abc import Callable

# Radians by which a step of Adam turns a decoder row, or nearly so, in a batch of as
# many rows as there are features ...
_TURN = 0.25
# ... and the rows, of each feature, up to which more of them allow for larger steps.
_MANY_ROWS = 0.4
# Matches of the average feature until the learning rate of an endless run has fallen
# by the root of two. Of 40 to 1200, over widths of 256 to 8192, near the best.
_SETTLING_MATCHES = 300


def auto_batch_size(n_rows: int, n_features: int, k: float) -> int:
    """Return the rows of a step that suit so long a run.

    Few rows are best used in many small steps; when there are many, larger batches,
    whose gradients are less noisy, give the better end. Half the square root of the
    rows is near the best from some ten thousand rows to a million. Batches in which
    the average feature expects less than a match train badly, and spend their time on
    updating features that had none.

    Parameters
    ----------
    n_rows : int
        Rows trained on, all passes together.
    n_features : int
    k : float
        Matches per row.
    """
    return math.ceil(max(math.sqrt(n_rows) / 2, n_features / k))


def auto_learning_rate(n_columns: int, rows_per_feature: float) -> float:
    """Return a peak learning rate for rows of median norm 1.

    Adam moves each number by about the learning rate, and so turns a decoder row of
    unit norm by about that times the root of its length. How far it may turn grows with
    the root of the matches it learns from, whose average has so much less noise, and
    falls with the root of ``k``: the features of a row all turn by its one error, and
    what they change adds up. ``k`` cancels, and rows per feature are left. With steps
    that are too large features die; with steps too small a short run ends too early.

    Parameters
    ----------
    n_columns : int
    rows_per_feature : float
        Rows of a batch over the number of features.
    """
    return _TURN * math.sqrt(min(rows_per_feature, _MANY_ROWS) / n_columns)


def linear_schedule(
    n_steps: int, peak: float, warmup: float, decay: float
) -> Callable[[int], float]:
    """Return a learning rate that rises to a peak, stays, and falls to zero.

    Parameters
    ----------
    n_steps : int
    peak : float
    warmup, decay : float
        Fractions of the steps spent rising and falling.
    """
    rising = math.ceil(warmup * n_steps)
    falling = math.ceil(decay * n_steps)

    def learning_rate(step: int) -> float:
        up = (step + 1) / (rising + 1)
        down = (n_steps - step) / (falling + 1)
        return peak * min(1.0, up, down)

    return learning_rate


def endless_schedule(
    peak: float,
    n_before: int,
    batch_size: int,
    n_features: int,
    k: float,
) -> Callable[[int], float]:
    """Return a learning rate for training whose end is not known.

    It falls with the root of the rows seen, and so is near the best wherever training
    ends.

    Parameters
    ----------
    peak : float
    n_before : int
        Rows seen before.
    batch_size, n_features : int
    k : float
    """
    settling = _SETTLING_MATCHES * n_features / k

    def learning_rate(step: int) -> float:
        return peak / math.sqrt(1.0 + (n_before + step * batch_size) / settling)

    return learning_rate
