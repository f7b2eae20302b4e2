"""Reading what :meth:`FeatureChoiceSAE.save` and its siblings wrote."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skchoice import tensorfile, tree
from skchoice.base import ChoiceSAE
from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.exceptions import FileRefusedError
from skchoice.model import all_finite
from skchoice.saving import (
    CLASSES,
    FORMAT,
    check_fitted,
    check_state,
    is_fitted_attribute,
)

_ESTIMATORS: dict[str, type[ChoiceSAE]] = {
    cls.__name__: cls for cls in (TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE)
}


def load(path: str | PathLike) -> ChoiceSAE:
    """Read a fitted estimator from a file.

    Nothing in the file is run, and a file is read whole or not at all.

    Parameters
    ----------
    path : str or path-like
        As given to ``save``.

    Returns
    -------
    TokenChoiceSAE, MutualChoiceSAE or FeatureChoiceSAE
        Equal to the last bit to what was saved.

    Raises
    ------
    FileRefusedError
        If the file is damaged, no model of this library, or written by a newer version.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> import skchoice
    >>> X = load_digits().data
    >>> sae = skchoice.MutualChoiceSAE(128, k=8, max_iter=1, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sae.save(f"{folder}/digits.safetensors")
    ...     again = skchoice.load(f"{folder}/digits.safetensors")
    >>> bool((again.transform(X) != sae.transform(X)).nnz)
    False
    """
    if Path(path).is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, and load reads a file that save wrote. Folders of "
            "other libraries are read by skchoice.io."
        )
    arrays, document = tensorfile.read(path)
    check_kind(path, document, "model", FORMAT)
    try:
        return _estimator(arrays, document)
    except tree.MALFORMED as error:
        raise FileRefusedError(
            f"{path} does not hold a whole model: {type(error).__name__}: {error}."
        ) from error


def check_kind(
    path: str | PathLike, document: dict[str, Any], kind: str, newest: int
) -> None:
    """Refuse a file of another kind, or of a format that this version cannot know."""
    found = document.get("kind")
    if found != kind:
        raise FileRefusedError(f"{path} holds a {found!r}, where a {kind} is expected.")
    version = document.get("format")
    if type(version) is not int or not 1 <= version <= newest:
        raise FileRefusedError(
            f"{path} has format {version!r}; this version of skchoice reads formats 1 "
            f"to {newest}. It was written by {document.get('written_by')}: use that "
            "version or a newer one."
        )


def _estimator(arrays: dict[str, NDArray], document: dict[str, Any]) -> ChoiceSAE:
    parameters = _decode_all(document["parameters"], arrays)
    estimator = _ESTIMATORS[document["estimator"]](**parameters)
    estimator._validate_params()
    fitted = _decode_all(document["fitted"], arrays)
    check_fitted(fitted)
    for name, value in fitted.items():
        if not is_fitted_attribute(name):
            raise ValueError(f"{name} is no attribute of a fitted estimator")
        setattr(estimator, name, value)
    if document["going_on"] is not None:
        going_on = _decode_all(document["going_on"], arrays)
        state, reservoir = going_on["_state"], going_on["_reservoir"]
        if state is not None:
            check_state(state, *fitted["components_"].shape)
        if reservoir is not None:
            _check_reservoir(reservoir, fitted["n_features_in_"])
        estimator._state, estimator._reservoir = state, reservoir
    return estimator


def _check_reservoir(reservoir: Any, n_columns: int) -> None:
    held = reservoir._held
    if held.ndim != 2 or held.shape[1] != n_columns or not held.is_floating_point():
        raise ValueError(f"the sample of rows has shape {tuple(held.shape)}")
    if not all_finite(held):
        raise ValueError("the sample of rows holds a number that is not finite")


def _decode_all(values: dict[str, Any], arrays: dict[str, NDArray]) -> dict[str, Any]:
    return {name: tree.decode(value, arrays, CLASSES) for name, value in values.items()}
