"""Gradients by matches only.

With ``g`` the gradient with respect to the reconstruction and ``delta_m = g_i . D_j``
that of the code of match ``m = (i, j)``, ``r`` the centred tokens, ``n`` their norms
(1 under absolute importance) and ``c`` the codes::

    dD_j     = sum_m c_m g_i
    dW_j     = sum_m delta_m r_i
    db_enc_j = sum_m delta_m n_i
    db_dec   = sum_i g_i - sum_m delta_m W_j             absolute
             = sum_i g_i - sum_m delta_m (W_j + b_j u_i)  relative, u_i = r_i / n_i

The last line is the derivative of ``c = W_j . r_i + b_j n_i``, the form that a relative
code takes once its norm is multiplied in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skchoice.codes import SparseCodes
from skchoice.model import Parameters, Tokens
from skchoice.ops import eager


class MatchGradients:
    """Gradients of all parameters, the weight matrices a range of features at a time.

    Parameters
    ----------
    upstream : Tensor of shape (n_tokens, d)
        Gradient with respect to the reconstruction.
    tokens : Tokens
    codes : SparseCodes
        Codes (not affinities), all positive.
    parameters : Parameters

    Attributes
    ----------
    encoder_bias : Tensor of shape (n_features,)
    decoder_bias : Tensor of shape (d,)
    parallel : Tensor of shape (n_features,)
        ``dD_j . D_j``, the part of the decoder gradient that only changes lengths.
    """

    def __init__(
        self,
        upstream: Tensor,
        tokens: Tokens,
        codes: SparseCodes,
        parameters: Parameters,
    ):
        self._upstream, self._residual, self._codes = upstream, tokens.residual, codes
        self._pointers = codes.feature_pointers()
        self._starts = self._pointers.tolist() if upstream.device.type == "cpu" else []
        self._delta = eager.bag_dots(
            parameters.decoder, upstream, codes.rows, self._pointers
        )
        self.parallel = self._per_feature(codes.values * self._delta)
        sums = self._per_feature(self._delta)
        self.encoder_bias = sums
        self.decoder_bias = upstream.sum(0) - sums @ parameters.encoder
        if tokens.norms is not None:
            self.encoder_bias = self._per_feature(
                self._delta * tokens.norms[codes.rows]
            )
            through_norm = self._delta * parameters.encoder_bias[codes.cols]
            self.decoder_bias -= (
                torch.zeros_like(tokens.norms).index_add_(0, codes.rows, through_norm)
                @ tokens.scaled
            )

    def weights(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the encoder's and the decoder's gradient for some features.

        Both have shape (stop - start, d).
        """
        pointers = self._pointers[start : stop + 1]
        first, last = (
            (self._starts[start], self._starts[stop])
            if self._starts
            else (0, len(self._codes))
        )
        rows = self._codes.rows[first:last]
        pointers = pointers - first
        return (
            eager.bag_sum(self._residual, rows, pointers, self._delta[first:last]),
            eager.bag_sum(
                self._upstream, rows, pointers, self._codes.values[first:last]
            ),
        )

    def _per_feature(self, values: Tensor) -> Tensor:
        sums = torch.bincount(self._codes.cols, values, self._codes.shape[1])
        return sums.to(values.dtype)
