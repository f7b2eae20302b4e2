"""A device that is not the CPU, for machines without one.

Its tensors lie in the CPU's memory, under torch's name of a device that has none,
"meta". What code for a GPU does wrong goes wrong here too: tensors of both places in
one operation, numpy on a tensor of the device. What the host waits for is counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")

_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
# Their results have a size that depends on values, or are values: on a GPU the host has
# to wait for these.
_WAITED_FOR = {
    _aten.unique_consecutive.default,
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten.repeat_interleave.Tensor,
    _aten._unique2.default,
}


class _OnDevice(Tensor):
    """A tensor of the device, with the CPU's that holds its values."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> _OnDevice:
        new = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        new.values = values
        return new

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} of a tensor that is on no device any more")


class OtherDevice(TorchDispatchMode):
    """A context in which the device is there.

    Attributes
    ----------
    launches, waits : Counter
        Operations on the device by name, and those that the host waits for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, _OnDevice)]
        asked = kwargs.get("device")
        to_device = bool(there) if asked is None else torch.device(asked) == DEVICE
        if not there and not to_device:
            return func(*args, **kwargs)
        # Numbers, tensors without an axis, may be of the CPU everywhere.
        elsewhere = [x for x in tensors if not isinstance(x, _OnDevice) and x.dim()]
        if there and elsewhere and func not in _COPIES:
            raise RuntimeError(f"{func} of tensors that are on two devices")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        name = str(func).removeprefix("aten.")
        self.launches[name] += 1
        self.waits[name] += _waited_for(func, args, to_device)
        own_args, own_kwargs = tree_map(_values, (args, kwargs))
        result = func(*own_args, **own_kwargs)
        if not to_device:
            return result
        wrapped = tree_map(_on_device, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _values(x: Any) -> Any:
    return x.values if isinstance(x, _OnDevice) else x


def _on_device(x: Any) -> Any:
    return _OnDevice(x) if isinstance(x, Tensor) else x


def _waited_for(func: Any, args: tuple, to_device: bool) -> bool:
    if func in _WAITED_FOR:
        return True
    if func is _aten._to_copy.default:
        return isinstance(args[0], _OnDevice) and not to_device
    if func is _aten.copy_.default:
        return not isinstance(args[0], _OnDevice)
    if func in (_aten.index.Tensor, _aten.index_put_.default):
        # A mask is searched for where it is true.
        return any(x is not None and x.dtype == torch.bool for x in args[1])
    return False
