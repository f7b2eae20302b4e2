"""Plain values, arrays and a few known objects, as JSON and named arrays.

=====================  ==============================================
value                  JSON
=====================  ==============================================
None, bool, int,       itself
float, str, list
tuple                  ``{"tuple": [...]}``
dict                   ``{"dict": {...}}``
numpy array            ``{"array": name}``
torch Tensor           ``{"tensor": name}``
array of str           ``{"strings": [...]}``
list of alike, wide    ``{"records": {key: column, ...}}``
dicts
numpy Generator        ``{"generator": state}``
numpy RandomState      ``{"random_state": state}``
torch.device           ``{"device": name}``
known object           ``{"object": class name, "vars": {...}}``
=====================  ==============================================

An array that stands in several places is written once and read as one.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What decoding, and looking at what was decoded, raises on a forged document.
MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,  # of torch; too deep a recursion is one, too
    TypeError,
    ValueError,
)

_PLAIN = (bool, int, float, str, type(None))
# A row is a dict, which takes ten times as much as one number, but little more than
# this many: lists of narrower dicts are no tables.
_LEAST_COLUMNS = 8
_TAGS = frozenset(
    "tuple dict array tensor strings records generator random_state device".split()
)


def encode(
    value: Any, name: str, arrays: dict[str, NDArray], classes: dict[str, type]
) -> Any:
    """Return the JSON of a value, and add its arrays to ``arrays``.

    Parameters
    ----------
    value : object
    name : str
        Where the value stands: its arrays are called so, or ``name.part``.
    arrays : dict
    classes : dict of str to type
        The objects that may be written.

    Raises
    ------
    TypeError
        If the value is none of those in the table above.
    """
    return _Encoder(arrays, classes).encode(value, name)


def decode(json: Any, arrays: dict[str, NDArray], classes: dict[str, type]) -> Any:
    """Return the value of what :func:`encode` returned.

    The arrays of tables are taken out of ``arrays``: no forged table is longer than
    its file.

    Raises
    ------
    One of MALFORMED
        If it is not of that form.
    """
    return _Decoder(arrays, classes).decode(json)


class _Encoder:
    def __init__(self, arrays: dict[str, NDArray], classes: dict[str, type]):
        self._arrays, self._classes = arrays, classes
        self._tensors: dict[int, tuple[Tensor, str]] = {}

    def encode(self, value: Any, name: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        kind = type(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, (str, PathLike)):
            return fspath(value)
        if kind is tuple:
            return {"tuple": self._list(value, name)}
        if kind is list:
            if _is_table(value):
                return {"records": self._columns(value, name)}
            return self._list(value, name)
        if kind is dict:
            return {"dict": self._dict(value, name)}
        if isinstance(value, Tensor):
            return {"tensor": self._store_tensor(value, name)}
        if isinstance(value, np.ndarray):
            if value.dtype == object or value.dtype.kind == "U":
                return {"strings": [_string(item, name) for item in value]}
            return {"array": self._store(value, name)}
        if kind is np.random.Generator:
            return {"generator": value.bit_generator.state}
        if kind is np.random.RandomState:
            return {"random_state": self.encode(value.get_state(legacy=False), name)}
        if kind is torch.device:
            return {"device": str(value)}
        if self._classes.get(kind.__name__) is kind:
            return {"object": kind.__name__, "vars": self._dict(vars(value), name)}
        if hasattr(value, "__array__"):  # a pandas Series as a parameter
            return self.encode(np.asarray(value), name)
        raise TypeError(f"{name} is a {kind.__name__}, which cannot be written.")

    def _list(self, values: list | tuple, name: str) -> list:
        return [
            self.encode(value, f"{name}.{place}") for place, value in enumerate(values)
        ]

    def _dict(self, values: dict, name: str) -> dict[str, Any]:
        return {
            _string(key, name): self.encode(value, f"{name}.{key}")
            for key, value in values.items()
        }

    def _columns(self, records: list[dict], name: str) -> dict[str, Any]:
        columns = {}
        for key in records[0]:
            column = [record[key] for record in records]
            types = {type(value) for value in column}
            if types == {int} or types == {float}:
                columns[key] = self.encode(np.array(column), f"{name}.{key}")
                continue
            # By type and text, because 1, 1.0 and True are one key of a dict.
            texts = [(type(value), str(value)) for value in column]
            places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
            levels = [column[texts.index(text)] for text in places]
            index = np.array([places[text] for text in texts])
            columns[key] = {
                "levels": levels,
                "index": self.encode(index, f"{name}.{key}"),
            }
        return columns

    def _store(self, value: NDArray, name: str) -> str:
        self._arrays[name] = value
        return name

    def _store_tensor(self, value: Tensor, name: str) -> str:
        if id(value) not in self._tensors:
            # Held on to, so that no other comes to have its id.
            self._tensors[id(value)] = value, name
            self._store(value.detach().cpu().numpy(), name)
        return self._tensors[id(value)][1]


def _is_table(values: list) -> bool:
    """Return whether a list holds dicts of the same, many keys and of plain values."""
    return bool(values) and all(
        type(value) is dict
        and len(value) >= _LEAST_COLUMNS
        and value.keys() == values[0].keys()
        and all(type(key) is str for key in value)
        and all(type(item) in _PLAIN for item in value.values())
        for value in values
    )


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} has {value!r} where a str is expected.")
    return str(value)


class _Decoder:
    def __init__(self, arrays: dict[str, NDArray], classes: dict[str, type]):
        self._arrays, self._classes = arrays, classes
        self._tensors: dict[str, Tensor] = {}

    def decode(self, json: Any) -> Any:
        if type(json) in _PLAIN:
            return json
        if type(json) is list:
            return [self.decode(value) for value in json]
        if set(json) == {"object", "vars"}:
            made: Any = object.__new__(self._classes[json["object"]])
            vars(made).update(self._dict(json["vars"]))
            return made
        ((tag, value),) = json.items()
        if tag not in _TAGS:
            raise ValueError(f"{tag!r} is no kind of value")
        return getattr(self, f"_{tag}")(value)

    def _tuple(self, value: list) -> tuple:
        return tuple(map(self.decode, value))

    def _dict(self, value: dict) -> dict[str, Any]:
        return {key: self.decode(item) for key, item in value.items()}

    def _array(self, name: str) -> NDArray:
        return self._arrays[name]

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            self._tensors[name] = torch.from_numpy(self._arrays[name])
        return self._tensors[name]

    def _strings(self, value: list) -> NDArray:
        strings = np.empty(len(value), dtype=object)
        strings[:] = [_string(item, "an array of str") for item in value]
        return strings

    def _records(self, columns: dict) -> list[dict]:
        if len(columns) < _LEAST_COLUMNS:
            raise ValueError(f"a table has only {len(columns)} columns")
        lists = {key: self._column(column) for key, column in columns.items()}
        return [
            dict(zip(lists, row, strict=True))
            for row in zip(*lists.values(), strict=True)
        ]

    def _column(self, json: dict) -> list:
        if set(json) == {"levels", "index"}:
            levels = self.decode(json["levels"])
            index = self._numbers(json["index"]["array"])
            if len(index) and not 0 <= index.min() <= index.max() < len(levels):
                raise ValueError("a record points past its levels")
            return [levels[place] for place in index]
        return self._numbers(json["array"]).tolist()

    def _numbers(self, name: str) -> NDArray:
        """Return an array for the only time, if it has eight bytes for each row."""
        array = self._arrays.pop(name)
        if array.ndim != 1 or array.itemsize != 8:
            raise ValueError(f"{name} is no column of a table")
        return array

    def _generator(self, state: dict) -> np.random.Generator:
        generator = np.random.default_rng(0)
        generator.bit_generator.state = state
        return generator

    def _random_state(self, json: dict) -> np.random.RandomState:
        made = np.random.RandomState(0)
        made.set_state(self.decode(json))
        return made

    def _device(self, name: str) -> torch.device:
        return torch.device(name)
