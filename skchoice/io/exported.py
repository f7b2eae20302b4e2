"""What other libraries get of an estimator."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skchoice import tensorfile
from skchoice.base import ChoiceSAE
from skchoice.exceptions import InexactExportError
from skchoice.fitted import check_autoencoder
from skchoice.io.imported import Weights

# A feature that never fires gets a threshold that no affinity passes.
_LARGEST = torch.finfo(torch.float32).max


def weights_of(sae: ChoiceSAE, library: str) -> Weights:
    """Return the arrays of an estimator that the formula of other libraries fits."""
    check_autoencoder(sae)
    if sae._importance != "absolute":
        raise InexactExportError(
            f"This model compares affinities relative to norm(x - decoder_bias_), and "
            f"{library} has no norm that is taken after centring: its codes would not "
            "be these. Fit with importance='absolute' to export, or take this model "
            "along as sae.to_torch() or sae.save(path)."
        )
    thresholds = torch.from_numpy(sae.thresholds_).clamp(max=_LARGEST)
    return Weights(
        torch.from_numpy(sae.encoder_weights_),
        torch.from_numpy(sae.encoder_bias_),
        torch.from_numpy(sae.components_),
        torch.from_numpy(sae.decoder_bias_).float(),
        None if sae._module_k() is not None else thresholds,
    )


def jump_arrays(weights: Weights) -> dict[str, Tensor]:
    """Return arrays of the names and shapes in `skchoice.io.imported.JUMP`."""
    arrays = {
        "W_enc": weights.encoder.T,
        "b_enc": weights.encoder_bias,
        "W_dec": weights.decoder,
        "b_dec": weights.decoder_bias,
    }
    if weights.thresholds is not None:
        arrays["threshold"] = weights.thresholds
    return arrays


def contiguous(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies, each with memory of its own."""
    return {
        name: array.detach().clone(memory_format=torch.contiguous_format)
        for name, array in arrays.items()
    }


def write_folder(
    folder: str | PathLike,
    names: tuple[str, str],
    weights: bytes,
    config: dict[str, Any],
    overwrite: bool,
) -> None:
    """Write a file of weights and one of JSON, each whole or not at all.

    The JSON is there only where it fits the weights: readers refuse what is between.

    Raises
    ------
    FileExistsError
        If a model is in the folder, and is not to be replaced.
    """
    folder = Path(folder)
    held = [name for name in names if (folder / name).exists()]
    if held and not overwrite:
        raise FileExistsError(
            f"{folder} already has {' and '.join(held)}. Give another folder, or "
            "overwrite=True to replace that model."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[1]).unlink(missing_ok=True)
    with tensorfile.replacing(folder / names[0]) as file:
        file.write(weights)
    with tensorfile.replacing(folder / names[1]) as file:
        file.write(json.dumps(config, indent=2).encode())
