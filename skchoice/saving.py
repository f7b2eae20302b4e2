"""What of an estimator goes into a file, and what a file must hold.

The format is a file of :mod:`skchoice.tensorfile` with this document::

    format        1; goes up when a reader of the old format would read it wrongly
    kind          "model"
    estimator     class name
    written_by    versions of skchoice, torch and numpy
    parameters    the constructor's
    fitted        all fitted attributes
    going_on      optimizer and sample that another partial_fit starts from, or null

in which values are written as :mod:`skchoice.tree` says.
"""

from __future__ import annotations

from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from skchoice import tensorfile, tree
from skchoice.caps import CapSampler
from skchoice.demand import Demand
from skchoice.firing import FiringTracker
from skchoice.metrics import ZipfFit
from skchoice.model import Parameters, all_finite
from skchoice.optimizer import Adam, CompactAdam
from skchoice.reservoir import Reservoir
from skchoice.standardisation import Standardisation
from skchoice.state import TrainingState
from skchoice.version import __version__
from skchoice.warm import WarmAllocator

FORMAT = 1
# The objects that fitted attributes and training states are made of.
CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Adam,
        CapSampler,
        CompactAdam,
        Demand,
        FiringTracker,
        Parameters,
        Reservoir,
        Standardisation,
        TrainingState,
        WarmAllocator,
        ZipfFit,
    )
}
_GOING_ON = ("_state", "_reservoir")
_PRIVATE = frozenset(
    {"_importance", "_k", "_standardisation", "_sklearn_output_config"}
)

# Shape, in features F and columns d, and types of the arrays that all models have.
_ARRAYS: dict[str, tuple[str, list[type]]] = {
    "components_": ("Fd", [np.float32]),
    "encoder_weights_": ("Fd", [np.float32]),
    "encoder_bias_": ("F", [np.float32]),
    "decoder_bias_": ("d", [np.float32, np.float64]),
    "thresholds_": ("F", [np.float32]),
}
# Those that a model has which was fitted, and one from another library may lack.
_MORE_ARRAYS: dict[str, tuple[str, list[type]]] = {
    "feature_density_": ("F", [np.float64]),
    "dead_features_": ("F", [np.bool_]),
    "caps_": ("F", [np.float64]),
}


def versions() -> dict[str, str]:
    """Return the versions of what writes a file."""
    return {
        "skchoice": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def is_fitted_attribute(name: str) -> bool:
    """Return whether an attribute of an estimator belongs into its file."""
    return name in _PRIVATE or (name[:1] != "_" and name[-1:] == "_")


def save(estimator: BaseEstimator, path: str | PathLike, training_state: bool) -> None:
    """Write a fitted estimator; see :meth:`FittedSAE.save`."""
    estimator._validate_params()
    parameters = estimator.get_params(deep=False)
    fitted = {
        name: value
        for name, value in vars(estimator).items()
        if is_fitted_attribute(name) and name not in parameters
    }
    check_fitted(fitted)
    arrays: dict[str, NDArray] = {}
    document: dict[str, Any] = {
        "format": FORMAT,
        "kind": "model",
        "estimator": type(estimator).__name__,
        "written_by": versions(),
        "parameters": _encode_all(parameters, "parameters.", arrays),
        "fitted": _encode_all(fitted, "", arrays),
        "going_on": None,
    }
    if training_state:
        held = {name: getattr(estimator, name, None) for name in _GOING_ON}
        document["going_on"] = _encode_all(held, "", arrays)
    tensorfile.write(path, arrays, document)


def _encode_all(
    values: dict[str, Any], prefix: str, arrays: dict[str, NDArray]
) -> dict[str, Any]:
    return {
        name: tree.encode(value, prefix + name, arrays, CLASSES)
        for name, value in values.items()
    }


def check_fitted(fitted: dict[str, Any]) -> None:
    """Raise ValueError where fitted attributes cannot belong to one working model."""
    for name in (*_ARRAYS, "_importance", "_k", "n_features_in_", "history_"):
        if name not in fitted:
            raise ValueError(f"{name} is missing")
    components = fitted["components_"]
    if not isinstance(components, np.ndarray) or components.ndim != 2:
        raise ValueError("components_ is not an array of two dimensions")
    sizes = dict(zip("Fd", components.shape, strict=True))
    for name, (axes, dtypes) in (_ARRAYS | _MORE_ARRAYS).items():
        if name in fitted:
            shape = tuple(sizes[axis] for axis in axes)
            _check_array(name, fitted[name], shape, dtypes)
    if min(components.shape) < 1 or fitted["n_features_in_"] != sizes["d"]:
        raise ValueError(
            f"n_features_in_ is {fitted['n_features_in_']!r} and components_ has shape "
            f"{components.shape}"
        )
    names = fitted.get("feature_names_in_")
    if names is not None and np.shape(names) != (sizes["d"],):
        raise ValueError(f"feature_names_in_ has shape {np.shape(names)}")
    if (fitted["thresholds_"] < 0).any():
        raise ValueError("thresholds_ has negative values")
    if fitted["_importance"] not in ("relative", "absolute"):
        raise ValueError(f"importance is {fitted['_importance']!r}")
    k = fitted["_k"]
    if not isinstance(k, Real) or not 0 < float(k) <= sizes["F"]:
        raise ValueError(f"k is {k!r} of {sizes['F']} features")
    standardisation = fitted.get("_standardisation")
    if standardisation is not None:
        _check_standardisation(standardisation, sizes["d"])


def _check_array(name: str, array: Any, shape: tuple, dtypes: list[type]) -> None:
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError(f"{name} has shape {np.shape(array)}, not {shape}")
    if array.dtype not in dtypes:
        raise ValueError(f"{name} has dtype {array.dtype}")
    # A feature that never fires may have an infinite threshold.
    wrong = np.isnan if name == "thresholds_" else lambda x: ~np.isfinite(x)
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(array.sum())  # a fraction of the time of a look
    if suspicious and wrong(array).any():
        raise ValueError(f"{name} holds a number that is not finite")


def _check_standardisation(standardisation: Any, n_columns: int) -> None:
    centre, scale = standardisation.centre, standardisation.scale
    _check_tensor("the centre of X", centre, (n_columns,), torch.float64)
    if type(scale) is not float or not 0 < scale < np.inf:
        raise ValueError(f"the scale of X is {scale!r}")
    if type(standardisation.n_rows) is not int:
        raise ValueError("the scale of X is not of a whole number of rows")


def _check_tensor(name: str, array: Any, shape: tuple, dtype: torch.dtype) -> None:
    if not isinstance(array, torch.Tensor) or array.shape != shape:
        raise ValueError(f"{name} has shape {np.shape(array)}, not {shape}")
    if array.dtype != dtype:
        raise ValueError(f"{name} has dtype {array.dtype}")
    if array.is_floating_point() and not all_finite(array):
        raise ValueError(f"{name} holds a number that is not finite")


def check_state(state: Any, n_features: int, n_columns: int) -> None:
    """Raise ValueError where a training state cannot belong to one model."""
    if not isinstance(state, TrainingState):
        raise ValueError(f"the training state is a {type(state).__name__}")
    shapes = [(n_features, n_columns), (n_features,)] * 2
    shapes[3] = (n_columns,)
    arrays = state.parameters.arrays()
    optimizer = state.optimizer
    for array, shape, moments in zip(arrays, shapes, optimizer.moments, strict=True):
        all_shapes = (shape, *optimizer.moment_shapes(shape))
        for part, its in zip((array, *moments), all_shapes, strict=True):
            _check_tensor("an array of the training state", part, its, torch.float32)
    if any(mine is not his for mine, his in zip(arrays, optimizer.arrays, strict=True)):
        raise ValueError("the optimizer is of other arrays than the parameters")
    _check_standardisation(state.standardisation, n_columns)
    for array, dtype in (
        (state.tracker.silence, torch.int64),
        (state.tracker._sums, torch.float64),
    ):
        _check_tensor("a count of matches", array, (n_features,), dtype)
    if state.underused is not None and len(state.underused):
        _check_tensor(
            "underused", state.underused, (len(state.underused),), torch.int64
        )
        if not 0 <= state.underused.min() <= state.underused.max() < n_features:
            raise ValueError("underused points past the features")
    if state.caps is not None:
        _check_array("the caps", state.caps.density, (n_features,), [np.float64])
        if not np.array_equal(np.sort(state.caps.order), np.arange(n_features)):
            raise ValueError("the order of the caps is no permutation")
        _check_array("what caps owe", state.caps._owed, (n_features,), [np.int64])
    if state.demand is not None:
        wanted = state.demand.density
        _check_tensor("the demand", wanted, (n_features,), torch.float64)
    if not isinstance(state.rng, np.random.Generator):
        raise ValueError("the training state has no random generator")
