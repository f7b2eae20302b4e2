"""SAELens: a folder with ``cfg.json`` and ``sae_weights.safetensors``.

Read from SAELens 6 (``saes/sae.py``, ``saes/jumprelu_sae.py``, ``saes/topk_sae.py``)::

    jumprelu   f = relu(pre) * (pre > threshold)      pre = (x - b_dec) W_enc + b_enc
    topk       f = relu(pre) of the k largest pre
"""

from __future__ import annotations

from os import PathLike

from safetensors.torch import save as safetensors_bytes

from skchoice.base import ChoiceSAE
from skchoice.exceptions import FileRefusedError
from skchoice.io import foreign, imported
from skchoice.io.exported import contiguous, jump_arrays, weights_of, write_folder

_FILES = ("sae_weights.safetensors", "cfg.json")
# The oldest version whose files need no migration when SAELens reads them.
_VERSION = "6.0.0"


def to_saelens(
    sae: ChoiceSAE,
    folder: str | PathLike,
    *,
    model_name: str | None = None,
    hook_name: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write an estimator for SAELens.

    Parameters
    ----------
    sae : estimator, fitted with ``importance="absolute"``
        MutualChoiceSAE and FeatureChoiceSAE become a JumpReLU SAE, TokenChoiceSAE a
        TopK SAE.
    folder : str or path-like
        Made if need be; ``SAE.load_from_disk(folder)`` reads it.
    model_name, hook_name : str, optional
        Where the rows are from, as SAELens names it: ``"gpt2"``,
        ``"blocks.8.hook_resid_pre"``.
    overwrite : bool, default=False
        Whether to replace a model that is in the folder.

    Raises
    ------
    FileExistsError
        If a model is in the folder.
    InexactExportError
        If SAELens would give other codes.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import FeatureChoiceSAE, io
    >>> X = load_digits().data
    >>> sae = FeatureChoiceSAE(
    ...     64, k=8, max_iter=2, importance="absolute", random_state=0
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     io.to_saelens(sae.fit(X), folder, hook_name="blocks.8.hook_resid_post")
    ...     again = io.from_saelens(folder)
    >>> again.provenance_["metadata"]["hook_name"]
    'blocks.8.hook_resid_post'
    """
    weights = weights_of(sae, "SAELens")
    n_features, n_columns = weights.decoder.shape
    metadata = {"sae_lens_version": _VERSION, "k": sae._k}
    if model_name is not None:
        metadata["model_name"] = model_name
    if hook_name is not None:
        metadata["hook_name"] = hook_name
    config = {
        "architecture": "topk" if weights.thresholds is None else "jumprelu",
        "d_in": n_columns,
        "d_sae": n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if weights.thresholds is None:
        config["k"] = sae._k
        config["rescale_acts_by_decoder_norm"] = False
    packed = safetensors_bytes(contiguous(jump_arrays(weights)))
    write_folder(folder, _FILES, packed, config, overwrite)


def from_saelens(folder: str | PathLike, *, k: float | None = None) -> ChoiceSAE:
    """Read a SAE of SAELens.

    Parameters
    ----------
    folder : str or path-like
        With ``cfg.json`` and ``sae_weights.safetensors``, architecture "jumprelu" or
        "topk", without normalisation of its input.
    k : float, optional
        Matches per token, for a JumpReLU SAE that was not written by this library.

    Returns
    -------
    TokenChoiceSAE, MutualChoiceSAE or FeatureChoiceSAE
        Of TopK; of JumpReLU with one threshold; with one for each feature. Only what
        inference needs is fitted; ``caps_`` and densities are not known.

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
    ...     io.to_saelens(sae.fit(X), folder)
    ...     io.from_saelens(folder).transform(X).shape
    (1797, 64)
    """
    file, path = foreign.files(folder, "SAELens", _FILES)
    config = foreign.read_json(path)
    architecture = foreign.setting(path, config, "architecture")
    if architecture not in ("jumprelu", "topk"):
        raise FileRefusedError(
            f"{path} says architecture={architecture!r}; 'jumprelu' and 'topk' can be "
            "read. Save a BatchTopK SAE for inference, which makes it 'jumprelu'."
        )
    foreign.require(path, config, "normalize_activations", "none")
    foreign.permit(path, config, "reshape_activations", "none")
    if config.get("finetuning_scaling_factor"):
        foreign.require(path, config, "finetuning_scaling_factor", False)
    centred = foreign.setting(path, config, "apply_b_dec_to_input")
    if not isinstance(centred, bool):
        raise FileRefusedError(f"{path} says apply_b_dec_to_input={centred!r}.")

    shapes = imported.JUMP | ({"threshold": "F"} if architecture == "jumprelu" else {})
    arrays = foreign.tensors(file, foreign.read_safetensors(file), shapes)
    n_features, n_columns = arrays["W_dec"].shape
    foreign.require(path, config, "d_sae", n_features)
    foreign.require(path, config, "d_in", n_columns)

    metadata = config.get("metadata", {})
    if not isinstance(metadata, dict):
        raise FileRefusedError(f"{path} has metadata that is no object.")
    weights = imported.jump_weights(arrays)
    if not centred:
        weights = imported.recentred(weights, 1)
    if architecture == "topk":
        k = foreign.setting(path, config, "k")
        if config.get("rescale_acts_by_decoder_norm", False):
            weights = imported.with_unit_norm(weights)
    else:
        k = metadata.get("k") if k is None else k
    provenance = {"imported_from": "SAELens", "metadata": metadata}
    return imported.estimator(folder, weights, k, provenance)
