"""Gradients by matches only.

With ``g`` the gradient with respect to the reconstruction and ``delta_m = g_i . D_j``
that of the code of match ``m = (i, j)``, ``n`` the norms of the centred tokens (1 under
absolute importance), ``u`` the centred tokens divided by them, and ``c`` the codes::

    dD_j     = sum_m c_m g_i
    dW_j     = sum_m delta_m n_i u_i
    db_enc_j = sum_m delta_m n_i
    db_dec   = sum_i g_i - sum_m delta_m W_j             absolute
             = sum_i g_i - sum_m delta_m (W_j + b_j u_i)  relative

The last line is the derivative of ``c = W_j . (x_i - b_dec) + b_j n_i``, the form that
a relative code takes once its norm is multiplied in.
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
        self._upstream, self._scaled, self._codes = upstream, tokens.scaled, codes
        self._pointers = codes.feature_pointers()
        delta = eager.pair_dots(parameters.decoder, upstream, codes.cols, codes.rows)
        self._affinity = delta  # gradient with respect to the affinity of each match
        sums = self._per_feature(delta)
        self.parallel = self._per_feature(codes.values * delta)
        self.encoder_bias = sums
        self.decoder_bias = upstream.sum(0) - sums @ parameters.encoder
        if tokens.norms is not None:
            self._affinity = delta * tokens.norms[codes.rows]
            self.encoder_bias = self._per_feature(self._affinity)
            through_norm = delta * parameters.encoder_bias[codes.cols]
            per_token = eager.sums(codes.rows, through_norm, len(upstream))
            self.decoder_bias -= per_token @ tokens.scaled

    def matched(self) -> Tensor:
        """Return the features with a match, ascending, int64."""
        return torch.unique_consecutive(self._codes.cols).long()

    def weights(self, features: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder's and the decoder's gradient for some features.

        Parameters
        ----------
        features : slice or int64 Tensor of shape (n,)
            A range, or ascending features, with all between them that have a match.

        Returns
        -------
        encoder, decoder : Tensors of shape (n, d)
        """
        if isinstance(features, slice):
            pointers = self._pointers[features.start : features.stop + 1]
        else:
            ends = self._pointers[features[-1:] + 1]
            pointers = torch.cat([self._pointers[features], ends])
        here = slice(None)
        if len(pointers) < len(self._pointers):
            first, last = torch.stack([pointers[0], pointers[-1]]).cpu().tolist()
            here, pointers = slice(first, last), pointers - first
        rows = self._codes.rows[here]
        return (
            eager.bag_sum(self._scaled, rows, pointers, self._affinity[here]),
            eager.bag_sum(self._upstream, rows, pointers, self._codes.values[here]),
        )

    def _per_feature(self, values: Tensor) -> Tensor:
        return eager.sums(self._codes.cols, values, self._codes.shape[1])
