"""Reading files that other libraries wrote: strictly, and without running any code."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from skchoice import strict_json
from skchoice.exceptions import FileRefusedError
from skchoice.model import all_finite

# What torch.load raises on bytes that make no sense.
_OF_NONSENSE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


# What reads the folders in which such a file lies.
_READERS = {
    "sae_weights.safetensors": "skchoice.io.from_saelens",
    "ae.pt": "skchoice.io.from_dictionary_learning",
    "sae.safetensors": "skchoice.io.from_sparsify",
    "manifest.json": "skchoice.ActivationStore or CodeStore",
}


def files(folder: str | PathLike, library: str, names: Sequence[str]) -> list[Path]:
    """Return the files of a model that a library wrote into a folder."""
    missing = [name for name in names if not Path(folder, name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}: expected a folder that "
            f"{library} wrote.{hint(folder)}"
        )
    return [Path(folder, name) for name in names]


def hint(folder: str | PathLike) -> str:
    """Return what reads a folder, as a sentence, if one knows it by its files."""
    for name, reader in _READERS.items():
        if Path(folder, name).is_file():
            return f" It has {name}, which {reader} reads."
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    try:
        return strict_json.parse(path.read_bytes())
    except ValueError as error:
        raise FileRefusedError(f"{path} is no object in JSON: {error}.") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return parse_safetensors(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FileRefusedError(
            f"{path} is no safetensors file, or it is damaged: {error}."
        ) from error


def read_pickled(path: str | PathLike) -> dict[str, Any]:
    """Return the dict in a file of torch.save; anything but plain values is refused."""
    data = io.BytesIO(Path(path).read_bytes())
    try:
        found = torch.load(data, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileRefusedError(
            f"{path} holds more than tensors and plain values, or it is damaged: "
            f"{str(error)[:200]}"
        ) from error
    except _OF_NONSENSE as error:
        raise FileRefusedError(
            f"{path} is no file of torch.save, or it is damaged: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    if not isinstance(found, dict):
        raise FileRefusedError(f"{path} holds a {type(found).__name__}, not a dict.")
    return found


def setting(path: Path, config: dict[str, Any], name: str) -> Any:
    """Return an entry of a configuration that must be there."""
    if name not in config:
        raise FileRefusedError(f"{path} does not say {name!r}.")
    return config[name]


def require(path: Path, config: dict[str, Any], name: str, value: Any) -> None:
    """Refuse a configuration that says anything but the one value handled here."""
    found = setting(path, config, name)
    if found != value or type(found) is not type(value):
        raise FileRefusedError(
            f"{path} says {name}={found!r}; only {value!r} can be read exactly."
        )


def permit(path: Path, config: dict[str, Any], name: str, value: Any) -> None:
    """As :func:`require`, of a configuration that need not say it."""
    if name in config:
        require(path, config, name, value)


def tensors(
    path: str | PathLike, found: dict[str, Any], shapes: dict[str, str]
) -> dict[str, Tensor]:
    """Return the named tensors in float32, if they are all there is and they agree.

    Parameters
    ----------
    path : str or path-like
    found : dict
    shapes : dict of str to str
        Shape of each tensor in letters: equal letters are equal sizes.
    """
    missing, more = sorted(shapes.keys() - found), sorted(found.keys() - shapes)
    if missing or more:
        raise FileRefusedError(
            f"{path} lacks the tensors {missing} and has {more} besides: it is of "
            "another kind of model."
        )
    sizes: dict[str, int] = {}
    for name, letters in shapes.items():
        tensor = found[name]
        if not isinstance(tensor, Tensor) or tensor.ndim != len(letters):
            raise FileRefusedError(f"{path}: {name} is no tensor of {letters!r}.")
        for letter, size in zip(letters, tensor.shape, strict=True):
            if sizes.setdefault(letter, size) != size or size == 0:
                raise FileRefusedError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, which does not "
                    f"fit the sizes of the others, {sizes}."
                )
        if not all_finite(tensor):
            raise FileRefusedError(f"{path}: {name} holds a number that is not finite.")
    return {name: found[name].detach().float() for name in shapes}
