"""dictionary_learning: a folder with ``ae.pt`` and ``config.json``.

Read from dictionary_learning 0.1 (``dictionary.py``, ``trainers/``)::

    BatchTopKSAE         relu(pre) * (relu(pre) > threshold)    pre = W (x - b_dec) + b
    AutoEncoderTopK      the k largest of relu(pre)             the same
    JumpReluAutoEncoder  relu(pre * (pre > threshold))          pre = x W_enc + b_enc

The last does not subtract its decoder bias, whatever it did in training.
"""

from __future__ import annotations

import io
from numbers import Integral
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from skchoice.base import ChoiceSAE
from skchoice.estimators import FeatureChoiceSAE
from skchoice.exceptions import FileRefusedError, InexactExportError
from skchoice.io import foreign, imported
from skchoice.io.exported import contiguous, jump_arrays, weights_of, write_folder

_FILES = ("ae.pt", "config.json")
_LINEAR = {
    "encoder.weight": "Fd",
    "encoder.bias": "F",
    "decoder.weight": "dF",
    "b_dec": "d",
    "k": "",
    "threshold": "",
}
_SHAPES = {
    "BatchTopKSAE": _LINEAR,
    "AutoEncoderTopK": _LINEAR,
    "JumpReluAutoEncoder": imported.JUMP | {"threshold": "F"},
}
_TRAINERS = {
    "BatchTopKSAE": "BatchTopKTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}


def to_dictionary_learning(
    sae: ChoiceSAE,
    folder: str | PathLike,
    *,
    lm_name: str | None = None,
    layer: int | None = None,
    submodule_name: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write an estimator for dictionary_learning.

    Parameters
    ----------
    sae : estimator, fitted with ``importance="absolute"``
        MutualChoiceSAE becomes a BatchTopKSAE, FeatureChoiceSAE a
        JumpReluAutoEncoder, TokenChoiceSAE an AutoEncoderTopK.
    folder : str or path-like
        Made if need be; ``load_dictionary(folder, device)`` reads it.
    lm_name, layer, submodule_name : optional
        Where the rows are from, for its config.json.
    overwrite : bool, default=False
        Whether to replace a model that is in the folder.

    Raises
    ------
    FileExistsError
        If a model is in the folder.
    InexactExportError
        If dictionary_learning would give other codes.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import MutualChoiceSAE, io
    >>> X = load_digits().data
    >>> sae = MutualChoiceSAE(
    ...     64, k=8, max_iter=2, importance="absolute", random_state=0
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     io.to_dictionary_learning(sae.fit(X), folder, lm_name="gpt2", layer=8)
    ...     again = io.from_dictionary_learning(folder)
    >>> again.provenance_["trainer"]["dict_class"]
    'BatchTopKSAE'
    """
    weights = weights_of(sae, "dictionary_learning")
    n_features, n_columns = weights.decoder.shape
    arrays: dict[str, Tensor]
    if weights.thresholds is not None and isinstance(sae, FeatureChoiceSAE):
        kind = "JumpReluAutoEncoder"
        arrays = jump_arrays(imported.recentred(weights, -1))
    else:
        arrays = {
            "encoder.weight": weights.encoder,
            "encoder.bias": weights.encoder_bias,
            "decoder.weight": weights.decoder.T,
            "b_dec": weights.decoder_bias,
            "k": torch.tensor(_whole(sae._k), dtype=torch.int32),
            "threshold": torch.tensor(-1.0),
        }
        kind = "AutoEncoderTopK"
        if weights.thresholds is not None:
            kind = "BatchTopKSAE"
            arrays["threshold"] = weights.thresholds[0]
    trainer: dict[str, Any] = {
        "trainer_class": _TRAINERS[kind],
        "dict_class": kind,
        "activation_dim": n_columns,
        "dict_size": n_features,
        "layer": layer,
        "lm_name": lm_name,
        "submodule_name": submodule_name,
    }
    if kind == "JumpReluAutoEncoder":
        trainer["target_l0"] = sae._k
    else:
        trainer["k"] = _whole(sae._k)
    buffer = io.BytesIO()
    torch.save(contiguous(arrays), buffer)
    config = {"trainer": trainer, "buffer": {}}
    write_folder(folder, _FILES, buffer.getvalue(), config, overwrite)


def _whole(k: float) -> int:
    if k != int(k):
        raise InexactExportError(
            f"k={k} is no whole number, which dictionary_learning needs: fit with one, "
            "or export with to_saelens."
        )
    return int(k)


def from_dictionary_learning(
    folder: str | PathLike, *, k: float | None = None
) -> ChoiceSAE:
    """Read a dictionary of dictionary_learning.

    Parameters
    ----------
    folder : str or path-like
        With ``config.json`` and ``ae.pt``, of which only tensors are read.
    k : float, optional
        Matches per token, for a JumpReluAutoEncoder without ``target_l0``.

    Returns
    -------
    MutualChoiceSAE, FeatureChoiceSAE or TokenChoiceSAE
        Of a BatchTopKSAE, JumpReluAutoEncoder or AutoEncoderTopK. Only what inference
        needs is fitted.

    Raises
    ------
    FileNotFoundError
        If the folder lacks one of these files.
    FileRefusedError
        If a file is damaged, or its codes could not be the same here.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import TokenChoiceSAE, io
    >>> X = load_digits().data
    >>> sae = TokenChoiceSAE(64, k=8, max_iter=2, importance="absolute", random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     io.to_dictionary_learning(sae.fit(X), folder)
    ...     io.from_dictionary_learning(folder).transform(X).shape
    (1797, 64)
    """
    file, path = foreign.files(folder, "dictionary_learning", _FILES)
    trainer = foreign.setting(path, foreign.read_json(path), "trainer")
    if not isinstance(trainer, dict):
        raise FileRefusedError(f"{path} has a trainer that is no object.")
    kind = foreign.setting(path, trainer, "dict_class")
    if not isinstance(kind, str) or kind not in _SHAPES:
        raise FileRefusedError(
            f"{path} says dict_class={kind!r}; {sorted(_SHAPES)} can be read."
        )
    found = foreign.read_pickled(file)
    arrays = foreign.tensors(file, found, _SHAPES[kind])
    provenance = {"imported_from": "dictionary_learning", "trainer": trainer}
    if kind == "JumpReluAutoEncoder":
        weights = imported.recentred(imported.jump_weights(arrays), 1)
        k = trainer.get("target_l0") if k is None else k
    else:
        weights = _linear_weights(arrays)
        if kind == "BatchTopKSAE":
            if arrays["threshold"] < 0:
                raise FileRefusedError(
                    f"{file} has threshold {arrays['threshold'].item()}: it was saved "
                    "before its trainer had learned one."
                )
            weights.thresholds = arrays["threshold"].expand(len(weights.encoder))
        k = foreign.setting(path, trainer, "k")
        if not isinstance(k, Integral) or found["k"].item() != k:
            raise FileRefusedError(f"{path} says k={k!r}, {file} {found['k'].item()}.")
    foreign.require(path, trainer, "dict_size", weights.decoder.shape[0])
    foreign.require(path, trainer, "activation_dim", weights.decoder.shape[1])
    return imported.estimator(folder, weights, k, provenance)


def _linear_weights(arrays: dict[str, Tensor]) -> imported.Weights:
    return imported.Weights(
        arrays["encoder.weight"],
        arrays["encoder.bias"],
        arrays["decoder.weight"].T,
        arrays["b_dec"],
        None,
    )
