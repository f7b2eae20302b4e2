"""Checks of arguments, each with one wording."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raise ValueError unless the value is an integer in [low, high]."""
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {span}, got {value!r}.")


def check_number(name: str, value: Any, low: float) -> None:
    """Raise ValueError unless the value is a number of at least ``low``."""
    fits = isinstance(value, Real) and not isinstance(value, bool)
    if not fits or not value >= low:
        raise ValueError(f"{name} must be a number of at least {low}, got {value!r}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")


def check_each(name: str, values: NDArray, fine: NDArray, wanted: str) -> None:
    """Raise ValueError unless the value of each feature is fine."""
    if not fine.all():
        place = int(np.flatnonzero(~fine)[0])
        raise ValueError(
            f"Each of {name} must be {wanted}, got {values[place]} for feature {place}."
        )
