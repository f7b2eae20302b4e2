"""What a fitted estimator can do: encode, decode, score, allocate."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import check_array
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from skchoice import saving
from skchoice.allocation import allocate
from skchoice.hyperparameters import ConfiguredSAE, usable_device
from skchoice.inference import (
    CSRBuilder,
    Encoder,
    ErrorSums,
    ThresholdEncoder,
    decode_rows,
    token_chunks,
)
from skchoice.inputs import Rows, as_array
from skchoice.model import Parameters
from skchoice.module import SAEModule
from skchoice.rules import Rule
from skchoice.tiles import EncoderAffinities

# Rows decoded at a time.
_DECODE_ROWS = 4096


class FittedSAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ConfiguredSAE):
    """Inference with the fitted arrays, the same for all rules."""

    def transform(self, X: Any) -> sp.csr_matrix | NDArray:
        """Return the codes of the rows of X.

        Each row is encoded on its own: a feature fires where its affinity is above its
        threshold (Token Choice: where it is among the row's ``k`` largest).

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
            As for :meth:`fit`.

        Returns
        -------
        CSR matrix or array of shape (n_rows, n_features)
            In the units of X; float64 if X is, else float32. Dense if
            ``sparse_output=False``.
        """
        if not self.sparse_output:
            return self._encode_dense(X)
        container = _get_output_config("transform", estimator=self)["dense"]
        if container != "default":
            raise ValueError(
                f"{container.capitalize()} output does not support sparse data. Set "
                f"sparse_output=False to output {container} dataframes, or disable "
                f"{container.capitalize()} output with "
                "set_output(transform='default')."
            )
        return self._encode_sparse(X)

    def _encode_sparse(self, X: Any) -> sp.csr_matrix:
        rows, encode, shape, dtype = self._encoding(X)
        builder = CSRBuilder(shape, dtype)
        for chunk in rows.chunks():
            builder.append(encode(chunk).to_scipy())
        return _csr(builder.finish(), shape)

    def _encode_dense(self, X: Any) -> NDArray:
        rows, encode, shape, dtype = self._encoding(X)
        dense = np.zeros(shape, dtype=dtype)
        start = 0
        for chunk in rows.chunks():
            stop = start + len(chunk)
            encode(chunk).to_scipy().toarray(out=dense[start:stop])
            start = stop
        return dense

    def _encoding(self, X: Any) -> tuple[Rows, Encoder, tuple[int, int], np.dtype]:
        """Return rows, their encoder, and the shape and dtype of the codes."""
        check_is_fitted(self)
        rows, _ = self._open(X, reset=False)
        shape = (rows.shape[0], self._n_features_out)
        dtype = torch.empty(0, dtype=rows.dtype).numpy().dtype
        return rows, self._encoder(self._parameters(rows)), shape, dtype

    def inverse_transform(self, X: Any) -> NDArray:
        """Return the reconstruction of each row of codes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_features)
            Codes.

        Returns
        -------
        array of shape (n_rows, n_columns)
            ``codes @ components_ + decoder_bias_``.
        """
        check_is_fitted(self)
        codes = check_array(
            as_array(X),
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            input_name="X",
        )
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {codes.shape[1]} features, but {type(self).__name__} is "
                f"expecting {self._n_features_out} codes for each row, as transform "
                "returns them."
            )
        codes = sp.csr_matrix(codes)
        dtype = torch.float64 if codes.dtype == np.float64 else torch.float32
        parameters = self._public_parameters().to(self._device(), dtype)
        out = np.empty((codes.shape[0], self.n_features_in_), dtype=codes.dtype)
        for start in range(0, len(out), _DECODE_ROWS):
            stop = start + _DECODE_ROWS
            out[start:stop] = decode_rows(codes[start:stop], parameters).cpu().numpy()
        return out

    def score(self, X: Any, y: Any = None) -> float:
        """Return the explained variance of the reconstruction of X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
            As for :meth:`fit`.
        y : None
            Ignored.

        Returns
        -------
        float
            ``1 - FVU``, where FVU is the squared error over the variance of X, both
            pooled over all rows and columns. At most 1; of constant rows 1 if they are
            exact, else 0.
        """
        check_is_fitted(self)
        rows, _ = self._open(X, reset=False)
        sums = ErrorSums(self._parameters(rows).decoder_bias)
        for chunk, _, x_hat in self._reconstructed(rows):
            sums.add(chunk, x_hat)
        return 1.0 - sums.fvu()

    def _reconstructed(
        self, rows: Rows
    ) -> Iterator[tuple[Tensor, sp.csr_matrix, Tensor]]:
        """Yield chunks of rows, their codes and their reconstructions."""
        parameters = self._parameters(rows)
        encode = self._encoder(parameters)
        for chunk in rows.chunks():
            codes = encode(chunk).to_scipy()
            yield chunk, codes, decode_rows(codes, parameters)

    def allocate(self, X: Any) -> sp.csr_matrix:
        """Return the exact allocation of X as one batch, under the rule of training.

        Unlike :meth:`transform`, which gates each row on its own, this spends the
        budget ``round(k * n_rows)`` on the rows of X together (Ayonrinde 2024, sections
        3.1 and 3.2).

        Parameters
        ----------
        X : array-like of shape (n_rows, n_columns)
            As for :meth:`fit`.

        Returns
        -------
        CSR matrix of shape (n_rows, n_features)
            Codes. The budget and each cap hold exactly, as upper bounds: only positive
            affinities match.
        """
        check_is_fitted(self)
        rows, _ = self._open(X, reset=False)
        parameters = self._parameters(rows)
        affinities = EncoderAffinities(
            parameters, lambda: token_chunks(rows.chunks(), parameters), rows.shape[0]
        )
        rule = self._allocation_rule(rows.shape[0])
        matches = allocate(affinities, rule, self._start_thresholds(affinities)).matches
        if parameters.relative:
            chunks = token_chunks(rows.chunks(), parameters)
            norms = [tokens.norms for tokens in chunks if tokens.norms is not None]
            sizes = torch.cat(norms)[matches.rows]
            matches = matches.with_values(matches.values * sizes)
        codes = matches.to_scipy()
        return _csr((codes.data, codes.indices, codes.indptr), codes.shape)

    def save(self, path: str | PathLike, *, training_state: bool = True) -> None:
        """Write the fitted estimator to one file, which :func:`skchoice.load` reads.

        Parameters
        ----------
        path : str or path-like
            A safetensors file: any reader of that format opens the arrays, and the
            rest is JSON in its header. What was there is replaced once the new file
            is whole and on the disk.
        training_state : bool, default=True
            Whether to keep what goes on from after ``partial_fit`` or with
            ``warm_start=True``: the optimizer's state and, after ``partial_fit``, the
            sample of rows of X that thresholds are calibrated on. Without it the file
            is smaller and holds no data, and going on starts with a fresh optimizer,
            as it does after a ``fit``.

        Raises
        ------
        NotFittedError
        ValueError
            If a parameter or attribute was set to what no working model has.
        TypeError
            If a parameter or attribute is of a kind that no file can hold.
        OSError
            If the file cannot be written; what was there is then as it was.
        """
        check_is_fitted(self)
        saving.save(self, path, training_state)

    def to_torch(self, device: str | torch.device = "cpu") -> SAEModule:
        """Return the fitted model as a torch module.

        Parameters
        ----------
        device : str or torch.device, default="cpu"
            Where its arrays lie.

        Returns
        -------
        SAEModule
            With differentiable ``encode`` and ``decode`` from Tensors to Tensors,
            dense, for steering and patching. Its arrays are copies.
        """
        check_is_fitted(self)
        device = usable_device(device)
        parameters = copy.deepcopy(self._public_parameters()).to(device, torch.float32)
        thresholds = torch.tensor(self.thresholds_, device=device)
        return SAEModule(parameters, thresholds, self._module_k())

    def _allocation_rule(self, n_rows: int) -> Rule:
        """Return the rule of :meth:`allocate` for a batch of ``n_rows``."""
        raise NotImplementedError

    def _module_k(self) -> int | None:
        return None

    def _encoder(self, parameters: Parameters) -> Encoder:
        thresholds = torch.from_numpy(self.thresholds_)
        return ThresholdEncoder(parameters, thresholds.to(parameters.encoder))

    def _start_thresholds(self, affinities: EncoderAffinities) -> Tensor:
        """Return where :meth:`allocate` starts to look: a little below the gates."""
        return 0.9 * torch.from_numpy(self.thresholds_).to(
            affinities.parameters.encoder
        )

    def _parameters(self, rows: Rows) -> Parameters:
        return self._public_parameters().to(rows.device, rows.dtype)

    def _public_parameters(self) -> Parameters:
        return Parameters(
            torch.from_numpy(self.encoder_weights_),
            torch.from_numpy(self.encoder_bias_),
            torch.from_numpy(self.components_),
            torch.from_numpy(self.decoder_bias_),
            relative=self._importance == "relative",
        )

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _open(self, X: Any, reset: bool) -> tuple[Rows, dict[str, Any]]:
        """Check X, and return its rows and the attributes that describe its columns."""
        device = self._device(X)
        rows = Rows(X, self, device)
        checked = clone(self) if reset else self
        stand_in = X if hasattr(X, "columns") else np.broadcast_to(0.0, rows.shape)
        validate_data(checked, stand_in, reset=reset, skip_check_array=True)
        if not rows.streamed:
            rows.check_finite()
        names = ("n_features_in_", "feature_names_in_")
        return rows, {
            name: getattr(checked, name) for name in names if hasattr(checked, name)
        }


def check_autoencoder(sae: Any) -> None:
    """Raise TypeError for what is none of ours, NotFittedError for one not fitted."""
    if not isinstance(sae, FittedSAE):
        raise TypeError(
            f"sae must be a fitted autoencoder of skchoice, got {type(sae).__name__}. "
            "Of a Pipeline give that step, and the rows as they come to it."
        )
    check_is_fitted(sae)


def _csr(
    arrays: tuple[NDArray, NDArray, NDArray], shape: tuple[int, int]
) -> sp.csr_matrix | sp.csr_array:
    """Return a CSR matrix or array, as scikit-learn is set up to return."""
    if get_config().get("sparse_interface", "spmatrix") == "sparray":
        return sp.csr_array(arrays, shape=shape)
    return sp.csr_matrix(arrays, shape=shape)
