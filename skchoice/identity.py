"""What decides the result of a fit: its parameters, its rows, and where it starts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from skchoice import tree
from skchoice.inputs import Rows
from skchoice.provenance import digest_of_rest
from skchoice.saving import CLASSES
from skchoice.state import TrainingState

# Parameters that do not change what is learned, and the one that gives the seed.
_NO_MATTER = frozenset(
    "checkpoint_dir checkpoint_interval random_state sparse_output verbose".split()
)


def identity_of(
    estimator: BaseEstimator,
    rows: Rows,
    provenance: dict[str, Any],
    seed: int,
    start: TrainingState | None,
) -> dict[str, Any]:
    """Return what decides the result of a fit, as JSON.

    Parameters
    ----------
    estimator : estimator
    rows : Rows
        Every one of them counts, and their order.
    provenance : dict
        Of the rows.
    seed : int
        Drawn from ``random_state``; left out where that is None, so that the next fit
        goes on with the seed of the one that was stopped.
    start : TrainingState or None
        What a warm start goes on from.
    """
    arrays: dict[str, NDArray] = {}
    parameters = {
        name: tree.encode(_as_array(value), name, arrays, {})
        for name, value in estimator.get_params(deep=False).items()
        if name not in _NO_MATTER
    }
    data = ("n_rows", "n_columns", "dtype", "sha256")
    return {
        "estimator": type(estimator).__name__,
        "parameters": parameters | {name: _hash(arrays[name]) for name in arrays},
        "data": {name: provenance[name] for name in data}
        | {"rest_sha256": digest_of_rest(rows)},
        "seed": None if estimator.random_state is None else seed,
        "start": None if start is None else _hash_of_state(start),
    }


def differences(found: Any, wanted: dict[str, Any]) -> str:
    """Name the entries in which two identities differ."""
    if not isinstance(found, dict):
        return "it does not say of which"
    other = []
    for name, value in wanted.items():
        theirs = found.get(name)
        if isinstance(value, dict) and isinstance(theirs, dict):
            other += [
                f"{key} was {theirs.get(key)!r} and is {value.get(key)!r}"
                for key in sorted(value.keys() | theirs.keys())
                if value.get(key) != theirs.get(key)
            ]
        elif theirs != value:
            other.append(f"{name} was {theirs!r} and is {value!r}")
    return "; ".join(other)


def _as_array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, (list, tuple)) else value


def _hash(array: NDArray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def _hash_of_state(state: TrainingState) -> str:
    arrays: dict[str, NDArray] = {}
    document = tree.encode(state, "state", arrays, CLASSES)
    hashes = {name: _hash(array) for name, array in arrays.items()}
    return hashlib.sha256(json.dumps([document, hashes]).encode()).hexdigest()
