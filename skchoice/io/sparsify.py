"""EleutherAI's sparsify: a folder with ``cfg.json`` and ``sae.safetensors``."""

from __future__ import annotations

from os import PathLike

from skchoice.base import ChoiceSAE
from skchoice.exceptions import FileRefusedError
from skchoice.io import foreign, imported

_SHAPES = {"encoder.weight": "Fd", "encoder.bias": "F", "W_dec": "Fd", "b_dec": "d"}


def from_sparsify(folder: str | PathLike) -> ChoiceSAE:
    """Read a TopK autoencoder of sparsify.

    Parameters
    ----------
    folder : str or path-like
        With ``cfg.json`` and ``sae.safetensors``; no transcoder, no skip connection.

    Returns
    -------
    TokenChoiceSAE
        Only what inference needs is fitted; with ``warm_start=True`` or
        ``partial_fit`` training goes on from there.

    Raises
    ------
    FileNotFoundError
        If the folder lacks one of these files.
    FileRefusedError
        If a file is damaged, or its codes could not be the same here.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from safetensors.torch import save_file
    >>> from skchoice import io
    >>> arrays = {  # of 4 features in 3 columns
    ...     "encoder.weight": torch.eye(4, 3),
    ...     "encoder.bias": torch.zeros(4),
    ...     "W_dec": torch.full((4, 3), 3**-0.5),
    ...     "b_dec": torch.zeros(3),
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file(arrays, f"{folder}/sae.safetensors")
    ...     config = {"activation": "topk", "k": 1, "d_in": 3, "num_latents": 4}
    ...     _ = Path(folder, "cfg.json").write_text(json.dumps(config))
    ...     sae = io.from_sparsify(folder)
    >>> sae.transform([[2.0, 1.0, 0.0]]).toarray()
    array([[2., 0., 0., 0.]])
    """
    file, path = foreign.files(folder, "sparsify", ("sae.safetensors", "cfg.json"))
    config = foreign.read_json(path)
    foreign.permit(path, config, "activation", "topk")
    for name in ("transcode", "skip_connection", "embed_skip", "gram_lookup"):
        if config.get(name):
            raise FileRefusedError(
                f"{path} says {name}={config[name]!r}; only plain autoencoders, which "
                "reconstruct their own input, can be read."
            )
    arrays = foreign.tensors(file, foreign.read_safetensors(file), _SHAPES)
    n_features, n_columns = arrays["W_dec"].shape
    foreign.permit(path, config, "d_in", n_columns)
    if config.get("num_latents"):  # 0 stands for expansion_factor * d_in
        foreign.require(path, config, "num_latents", n_features)
    weights = imported.Weights(
        arrays["encoder.weight"],
        arrays["encoder.bias"],
        arrays["W_dec"],
        arrays["b_dec"],
        None,
    )
    k = foreign.setting(path, config, "k")
    provenance = {"imported_from": "sparsify", "config": config}
    return imported.estimator(folder, weights, k, provenance)
