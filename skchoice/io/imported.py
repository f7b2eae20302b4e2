"""Estimators from the arrays of other libraries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skchoice.base import ChoiceSAE
from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.exceptions import FileRefusedError

# Norms that differ by less than this are equal but for rounding ...
_ROUNDING = 1e-5
# ... and these are of rows that were rounded to bfloat16.
_COARSE_ROUNDING = 2.0**-8


# Shapes of the arrays of SAELens, and of dictionary_learning's JumpReluAutoEncoder;
# a JumpReLU model has a threshold, too.
JUMP = {"W_enc": "dF", "b_enc": "F", "W_dec": "Fd", "b_dec": "d"}


@dataclass
class Weights:
    """The arrays of a sparse autoencoder, its codes ``act * (act > threshold)``.

    Parameters
    ----------
    encoder : Tensor of shape (n_features, d)
    encoder_bias : Tensor of shape (n_features,)
    decoder : Tensor of shape (n_features, d)
    decoder_bias : Tensor of shape (d,)
        Subtracted before encoding and added after decoding.
    thresholds : Tensor of shape (n_features,) or None
        None where the ``k`` largest of each token are kept instead.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    thresholds: Tensor | None


def estimator(
    path: str | PathLike, weights: Weights, k: Any, provenance: dict[str, Any]
) -> ChoiceSAE:
    """Return the estimator whose rule the weights follow.

    Rows of the decoder are made to have unit norm, and what goes into them is scaled to
    make up for it: the codes are multiplied by the norms, the reconstruction stays.

    Parameters
    ----------
    path : str or path-like
        Named in errors.
    weights : Weights
    k : float or None
        Matches per token.
    provenance : dict
    """
    if k is None:
        raise FileRefusedError(
            f"{path} does not say how many features fire on a token. Measure it, and "
            "pass it as k."
        )
    n_features, n_columns = weights.decoder.shape
    if isinstance(k, bool) or not isinstance(k, Real) or not 0 < float(k) <= n_features:
        raise FileRefusedError(f"{path} says k={k!r} of {n_features} features.")
    if weights.thresholds is not None or _may_be_scaled(path, weights):
        weights = with_unit_norm(weights)
    made: ChoiceSAE
    if weights.thresholds is None:
        if not isinstance(k, Integral):
            raise FileRefusedError(f"{path} says k={k!r}, which is not a whole number.")
        made = TokenChoiceSAE(n_features, k, importance="absolute")
    elif (weights.thresholds == weights.thresholds[0]).all():
        made = MutualChoiceSAE(n_features, k, importance="absolute")
    else:
        made = FeatureChoiceSAE(n_features, k, importance="absolute")
        made.zipf_fit_ = None
    thresholds = weights.thresholds
    if thresholds is None:
        thresholds = torch.zeros(n_features)
    made.components_ = _array(weights.decoder)
    made.encoder_weights_ = _array(weights.encoder)
    made.encoder_bias_ = _array(weights.encoder_bias)
    made.decoder_bias_ = _array(weights.decoder_bias)
    # Only positive affinities match, so a negative threshold is the same as zero.
    made.thresholds_ = _array(thresholds.clamp(min=0))
    made.history_ = []
    made.n_iter_ = 0
    made.n_features_in_ = n_columns
    made.provenance_ = provenance
    made._importance, made._k, made._standardisation = "absolute", k, None
    return made


def jump_weights(arrays: dict[str, Tensor]) -> Weights:
    """Return the weights in arrays of the names and shapes in JUMP."""
    return Weights(
        arrays["W_enc"].T,
        arrays["b_enc"],
        arrays["W_dec"],
        arrays["b_dec"],
        arrays.get("threshold"),
    )


def recentred(weights: Weights, sign: int) -> Weights:
    """Fold the decoder bias into the encoder's, for the same codes.

    With ``sign`` 1 the weights are of a model that does not subtract it before it
    encodes, and are made for one that does; with -1 the other way round.
    """
    shift = weights.encoder.double() @ weights.decoder_bias.double()
    bias = (weights.encoder_bias.double() + sign * shift).float()
    return replace(weights, encoder_bias=bias)


def with_unit_norm(weights: Weights) -> Weights:
    """Scale decoder rows to unit norm; the codes are multiplied by what their norm was.

    A row of zeros stays.
    """
    norms = torch.linalg.vector_norm(weights.decoder.double(), dim=1)
    if (norms - 1).abs().max() <= _ROUNDING:
        return weights
    norms = torch.where(norms == 0, 1.0, norms)
    thresholds = weights.thresholds
    return Weights(
        (weights.encoder.double() * norms[:, None]).float(),
        (weights.encoder_bias.double() * norms).float(),
        (weights.decoder.double() / norms[:, None]).float(),
        weights.decoder_bias,
        None if thresholds is None else (thresholds.double() * norms).float(),
    )


def _may_be_scaled(path: str | PathLike, weights: Weights) -> bool:
    """Return whether scaling leaves the order of a token's affinities as it is.

    Raises where it does not, and would be needed.
    """
    norms = torch.linalg.vector_norm(weights.decoder.double(), dim=1)
    if norms.max() <= (1 + _ROUNDING) * norms.min():
        return True
    if (norms - 1).abs().max() <= _COARSE_ROUNDING:
        return False
    raise FileRefusedError(
        f"{path} has decoder rows with norms from {norms.min():.4g} to "
        f"{norms.max():.4g}. Rows of unit norm would change which features are the k "
        "largest of a token: normalise the decoder in the library it is from."
    )


def _array(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.float().numpy(), order="C")
