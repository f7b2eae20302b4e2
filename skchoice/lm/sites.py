"""Where in a decoder the hook points are.

A block reads the residual stream and adds to it. Which of its modules gives what
attention adds, and which what the MLP adds, is found by adding up: whatever a module
is called, and wherever the block normalises, the sums must hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from skchoice.arguments import check_integer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HOOKS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


@dataclass(frozen=True)
class Site:
    """A hook point: what goes into a module, or what comes out of it.

    Parameters
    ----------
    layer : int
    hook : str
    module : nn.Module
    is_input : bool
    block : nn.Module
        The block that has it.
    addend : nn.Module or None
        Of resid_mid: the module whose output, added to the block's input, gives it.
    """

    layer: int
    hook: str
    module: nn.Module
    is_input: bool
    block: nn.Module
    addend: nn.Module | None = None

    @property
    def name(self) -> str:
        """For people and for folders."""
        return f"layer{self.layer}-{self.hook}"


def find_sites(
    model: PreTrainedModel, layers: list[int], hooks: list[str]
) -> list[Site]:
    """Find hook points, layer by layer.

    Raises
    ------
    ValueError
        If the model has no such layer, or the layer no such hook; the message lists
        those there are.
    """
    blocks = decoder_blocks(model)
    for layer in layers:
        check_integer("layer", layer, 0, len(blocks) - 1)
    layers = [int(layer) for layer in layers]
    for hook in hooks:
        if hook not in HOOKS:
            raise ValueError(f"hook must be one of {HOOKS}, got {hook!r}.")
    inner = any(hook not in ("resid_pre", "resid_post") for hook in hooks)
    traces = _trace(model, [blocks[layer] for layer in layers]) if inner else []
    found = []
    for number, layer in enumerate(layers):
        block = blocks[layer]
        sites = {
            "resid_pre": Site(layer, "resid_pre", block, True, block),
            "resid_post": Site(layer, "resid_post", block, False, block),
        }
        if inner:
            sites |= _inner_sites(layer, block, traces[number])
        for hook in hooks:
            if hook not in sites:
                there = tuple(name for name in HOOKS if name in sites)
                raise ValueError(
                    f"layer {layer} of {type(model).__name__} has no hook {hook!r}: "
                    f"it must be one of {there}."
                )
            found.append(sites[hook])
    return found


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's blocks: its longest list of modules inside no other list.

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


class _Call(NamedTuple):
    module: nn.Module
    entered: Tensor
    left: Tensor


class _TracedEnough(Exception):
    """Ends the forward pass of a trace."""


@torch.no_grad()
def _trace(model: PreTrainedModel, blocks: list[nn.Module]) -> list[list[_Call]]:
    """Note what enters and leaves each block and its modules, on a few tokens.

    Returns
    -------
    traces : list of lists of _Call
        Of each block its modules in the order in which they end, the block last.
    """
    calls: dict[nn.Module, _Call] = {}

    def note(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        entered, left = entering(args, kwargs), leaving(output)
        if isinstance(entered, Tensor) and isinstance(left, Tensor):
            calls.setdefault(module, _Call(module, entered.clone(), left.clone()))
        if all(block in calls for block in blocks):
            raise _TracedEnough

    modules = [part for block in blocks for part in (*block.children(), block)]
    handles = [
        module.register_forward_hook(note, with_kwargs=True) for module in set(modules)
    ]
    length = min(5, getattr(model.config, "max_position_embeddings", None) or 5)
    ids = torch.arange(length, device=model.device)[None] % vocabulary_size(model)
    try:
        model(input_ids=ids, use_cache=False)
    except _TracedEnough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    order = list(calls)  # the order in which they ended
    return [
        [
            calls[module]
            for module in sorted(
                {*block.children(), block} & calls.keys(), key=order.index
            )
        ]
        for block in blocks
    ]


def entering(args: tuple, kwargs: dict) -> Any:
    """Return the hidden states among the arguments of a module."""
    return args[0] if args else kwargs.get("hidden_states")


def leaving(output: Any) -> Any:
    """Return the hidden states in what a module gives: alone, or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _inner_sites(layer: int, block: nn.Module, trace: list[_Call]) -> dict[str, Site]:
    """Find what attention and the MLP add, by what the sums must be."""
    *parts, whole = trace
    if whole.module is not block:
        return {}
    before, after = whole.entered, whole.left
    parts = [call for call in parts if call.left.shape == before.shape]

    def site(hook: str, call: _Call, *, is_input: bool = False, **more: Any) -> Site:
        return Site(layer, hook, call.module, is_input, block, **more)

    pairs = [(a, m) for i, a in enumerate(parts) for m in parts[i + 1 :]]
    for attention, mlp in pairs:
        for reader in parts:  # of the stream between the two: a norm, or the MLP
            if (
                reader.entered.shape == before.shape
                and _adds_up(before, attention.left, reader.entered)
                and _adds_up(reader.entered, mlp.left, after)
            ):
                middle = site(
                    "resid_mid", reader, is_input=True, addend=attention.module
                )
                return {
                    "attn_out": site("attn_out", attention),
                    "resid_mid": middle,
                    "mlp_out": site("mlp_out", mlp),
                }
    for attention, mlp in pairs:  # both read the same stream
        if _adds_up(before, attention.left, after, mlp.left):
            return {
                "attn_out": site("attn_out", attention),
                "mlp_out": site("mlp_out", mlp),
            }
    return {}


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return the number of tokens that the model can read."""
    return len(cast(Tensor, model.get_input_embeddings().weight))


def _adds_up(start: Tensor, addend: Tensor, total: Tensor, other: Any = 0.0) -> bool:
    """Whether ``start + addend + other`` is the total, up to rounding."""
    terms = [torch.as_tensor(term).double().cpu() for term in (start, addend, other)]
    rounding = 4 * torch.finfo(total.dtype).eps * sum(term.abs() for term in terms)
    error = (sum(terms) - total.double().cpu()).abs()
    return bool((error <= rounding).all())
