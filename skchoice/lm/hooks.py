"""Reading a model at its hook points, and writing there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skchoice.lm.sites import Site, entering, leaving, vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Reached(Exception):
    """Ends a forward pass when all sites have been read."""


@torch.no_grad()
def capture(
    model: PreTrainedModel,
    sites: Sequence[Site],
    ids: NDArray,
    position: NDArray,
    keep: NDArray[np.bool_],
) -> list[Tensor]:
    """Run contexts as far as the deepest site, and return some rows at each.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    sites : sequence of Site
    ids, position : int arrays of shape (n_contexts, length)
    keep : bool array of shape (n_contexts, length)

    Returns
    -------
    rows : list of Tensors of shape (n_kept, d)
        One for each site, on the device of the model; copies.
    """
    mask = torch.from_numpy(keep)
    found: dict[Site, Tensor] = {}

    def note(site: Site, hidden: Tensor) -> None:
        # Copied at once: the model may go on writing to its own.
        found[site] = hidden[mask.to(hidden.device)]
        if len(found) == len(set(sites)):
            raise _Reached

    def hook(site: Site) -> torch.utils.hooks.RemovableHandle:
        if site.is_input:
            return site.module.register_forward_pre_hook(
                lambda _, args, kwargs: note(site, entering(args, kwargs)),
                with_kwargs=True,
            )
        return site.module.register_forward_hook(
            lambda _, args, output: note(site, leaving(output))
        )

    handles = [hook(site) for site in set(sites)]
    try:
        forward(model, ids, position)
    except _Reached:
        return [found[site] for site in sites]
    finally:
        for handle in handles:
            handle.remove()
    missed = sorted(site.name for site in set(sites) - found.keys())
    raise RuntimeError(f"the forward pass of the model never came to {missed}.")


@torch.no_grad()
def forward(model: PreTrainedModel, ids: NDArray, position: NDArray) -> Any:
    """Run contexts; those that start anew in the middle hold several documents.

    Raises
    ------
    ValueError
        If the model has no such token.
    """
    largest, n_tokens = int(ids.max()), vocabulary_size(model)
    if largest >= n_tokens:
        raise ValueError(
            f"the texts have token id {largest}, and {type(model).__name__} knows the "
            f"ids from 0 to {n_tokens - 1}: give the tokenizer of this model."
        )
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64)).to(model.device)}
    if holds_several(position):
        # transformers keeps tokens apart between which the positions start anew.
        positions = torch.from_numpy(position.astype(np.int64))
        inputs["position_ids"] = positions.to(model.device)
    return model(**inputs, use_cache=False)


def holds_several(position: NDArray) -> bool:
    """Whether a context holds more than one document, each from position 0 on."""
    return bool((np.diff(position, axis=1) != 1).any())


def keeps_documents_apart(model: PreTrainedModel, site: Site) -> bool:
    """Try whether a document in the middle of a context is as it is alone."""
    window = getattr(model.config, "max_position_embeddings", None) or 7
    length = min(window, 7)
    first = length // 2  # tokens of another document
    ids = np.array([[3, 5, 4, 1, 2, 3, 4]])[:, :length] % vocabulary_size(model)
    position = np.concatenate([np.arange(first), np.arange(length - first)])[None]
    keep = np.arange(length)[None] >= first
    try:
        [packed] = capture(model, [site], ids, position, keep)
    except TypeError:  # takes no position_ids
        return False
    alone = slice(first, None)
    [expected] = capture(
        model, [site], ids[:, alone], position[:, alone], keep[:, alone]
    )
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    difference = (packed - expected).float().norm(dim=1)
    return bool((difference <= tolerance * expected.float().norm(dim=1)).all())


@contextmanager
def spliced(site: Site, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the model go on from ``replace(hidden)`` at a site, inside the context.

    At resid_mid, which goes two ways, the difference is put on what attention adds.
    """
    if site.addend is not None:
        stream: list[Tensor] = []

        def enter(block: nn.Module, args: tuple, kwargs: dict) -> None:
            stream[:] = [entering(args, kwargs)]

        def leave(module: nn.Module, args: tuple, output: Any) -> Any:
            addend = leaving(output)
            middle = stream[0] + addend
            return _returned(output, addend + (replace(middle) - middle))

        handles = [
            site.block.register_forward_pre_hook(enter, with_kwargs=True),
            site.addend.register_forward_hook(leave),
        ]
    elif site.is_input:

        def change(module: nn.Module, args: tuple, kwargs: dict) -> Any:
            hidden = replace(entering(args, kwargs))
            if args:
                return (hidden, *args[1:]), kwargs
            return args, kwargs | {"hidden_states": hidden}

        handles = [site.module.register_forward_pre_hook(change, with_kwargs=True)]
    else:

        def change_output(module: nn.Module, args: tuple, output: Any) -> Any:
            return _returned(output, replace(leaving(output)))

        handles = [site.module.register_forward_hook(change_output)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _returned(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
