"""The hyperparameters of the estimators, and what None and "auto" stand for."""

from __future__ import annotations

import math
from numbers import Integral, Real
from os import PathLike
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from skchoice.inputs import Rows
from skchoice.schedule import auto_batch_size, auto_learning_rate

# Set aside for calibration are at most a tenth of the rows, no more than tell L0 to a
# percent, and each feature's threshold from so many matches.
_TELLING_ROWS = 4096
_TELLING_MATCHES = 32
# Below so many rows in all, a tenth of them may be too few to tell features apart, and
# below so many even L0.
_FEW_ROWS = 4096
_VERY_FEW_ROWS = 256


class ConfiguredSAE(BaseEstimator):
    """The constructor that all estimators have, and what follows from its arguments."""

    # Where codes need none, few rows had better all be trained on.
    _needs_thresholds = True

    _parameter_constraints: dict = {
        "n_features": [Interval(Integral, 1, None, closed="left"), None],
        "k": [Interval(Real, 0, None, closed="neither")],
        "aux": [StrOptions({"zipf", "k"}), None],
        "aux_coef": [Interval(Real, 0, None, closed="left")],
        "aux_k": [Interval(Integral, 1, None, closed="left"), None],
        "dead_after": [Interval(Integral, 1, None, closed="left"), None],
        "importance": [StrOptions({"relative", "absolute"})],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "warmup_fraction": [Interval(Real, 0, 1, closed="both")],
        "decay_fraction": [Interval(Real, 0, 1, closed="both")],
        "n_calibration": [Interval(Integral, 0, None, closed="left"), None],
        "sparse_output": ["boolean"],
        "device": [str, torch.device],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "checkpoint_dir": [str, PathLike, None],
        "checkpoint_interval": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="left"),
        ],
    }

    def __init__(
        self,
        n_features=None,
        k=32,
        *,
        aux="zipf",
        aux_coef=1 / 32,
        aux_k=None,
        dead_after=None,
        importance="relative",
        batch_size="auto",
        max_iter=10,
        learning_rate="auto",
        warmup_fraction=0.05,
        decay_fraction=0.5,
        n_calibration=None,
        sparse_output=True,
        device="auto",
        warm_start=False,
        random_state=None,
        verbose=0,
        checkpoint_dir=None,
        checkpoint_interval="auto",
    ):
        self.n_features = n_features
        self.k = k
        self.aux = aux
        self.aux_coef = aux_coef
        self.aux_k = aux_k
        self.dead_after = dead_after
        self.importance = importance
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.warmup_fraction = warmup_fraction
        self.decay_fraction = decay_fraction
        self.n_calibration = n_calibration
        self.sparse_output = sparse_output
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_interval = checkpoint_interval

    def _check_parameters(self, rows: Rows, batch_size: int) -> None:
        """Raise where parameters do not fit each other or the data."""
        n_features = self._n_features(rows.shape[1])
        if self.k > n_features:
            raise ValueError(
                f"k={self.k} must be at most n_features={n_features}: a token cannot "
                "match more features than there are. Lower k or raise n_features."
            )
        n_matches = self.k * batch_size
        if round(n_matches) == 0:
            raise ValueError(
                f"k={self.k} leaves a batch of {batch_size} rows with "
                f"{n_matches:.3g} matches, which rounds to none. Raise k, or "
                "batch_size and the number of rows."
            )

    def _n_features(self, n_columns: int) -> int:
        if self.n_features is None:
            return max(8 * n_columns, math.ceil(4 * self.k))
        return self.n_features

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _rows_per_step(self, rows: Rows, n_train: int, n_passes: int) -> int:
        """Return the given batch size, or one for the length of training."""
        batch_size = self.batch_size
        if batch_size == "auto":
            n_features = self._n_features(rows.shape[1])
            batch_size = auto_batch_size(n_passes * n_train, n_features, self.k)
        return min(batch_size, n_train)

    def _peak_learning_rate(self, rows: Rows, batch_size: int) -> float:
        """Return the given learning rate, or one for the data and the batches."""
        if self.learning_rate == "auto":
            rows_per_feature = batch_size / self._n_features(rows.shape[1])
            return auto_learning_rate(rows.shape[1], rows_per_feature)
        return float(self.learning_rate)

    def _n_held(self, rows: Rows) -> int:
        """Return how many rows to set aside for calibration."""
        if self.n_calibration is not None:
            if self.n_calibration >= rows.shape[0]:
                raise ValueError(
                    f"n_calibration={self.n_calibration} rows are set aside from "
                    f"training, but X has only {rows.shape[0]}. Lower it, or calibrate "
                    "on the training rows with 0."
                )
            return self.n_calibration
        n_rows, n_columns = rows.shape
        if n_rows < (_VERY_FEW_ROWS if self._needs_thresholds else _FEW_ROWS):
            return 0
        return min(n_rows // 10, max(_TELLING_ROWS, self._n_telling(n_columns)))

    def _few_held(self, rows: Rows) -> bool:
        """Return whether the rows set aside tell L0, and features hardly apart."""
        n_rows, n_columns = rows.shape
        few = n_rows < _FEW_ROWS and self._needs_thresholds
        return few and 0 < self._n_held(rows) < self._n_telling(n_columns)

    def _n_telling(self, n_columns: int) -> int:
        """Return how many rows tell the threshold of the average feature."""
        return math.ceil(_TELLING_MATCHES * self._n_features(n_columns) / self.k)

    def _device(self, X: Any = None) -> torch.device:
        if str(self.device) == "auto":
            if isinstance(X, Tensor):
                return X.device
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return usable_device(self.device)


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device; raise ValueError where there is none of that name."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device={name!r} is not a torch device: use 'auto', 'cpu', 'cuda' or "
            "'cuda:0'."
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={str(name)!r} was asked for, but torch finds no CUDA device: use "
            "device='auto' or 'cpu', or install a CUDA build of torch."
        )
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={str(name)!r} is of a kind that is not served here, or that this "
            "torch was not built for: use 'auto', 'cpu' or 'cuda'."
        ) from error
    return device
