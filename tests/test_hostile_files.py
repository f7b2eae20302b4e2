"""Damaged and forged files: each is refused, or is what was written.

The long runs are for `make soak`.
"""

import copy
import json
import re
import tracemalloc
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from test_checkpoints import files, stopped

import skchoice
from skchoice import FeatureChoiceSAE, saving, tensorfile, tree
from skchoice.checkpoints import Checkpoints
from skchoice.exceptions import FileRefusedError
from skchoice.loading import load

pytestmark = pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")

_SLACK = 2 << 20  # bytes that reading any file may take: messages, modules, caches


# ------------------------------------------------------------------- what is attacked


class Target:
    """A valid file, how to read it, and what it holds."""

    def __init__(self, path, read):
        self.path, self._read = path, read
        self.data = path.read_bytes()
        self.contents = contents(read(path))

    def attack(self, data):
        """Return whether damaged bytes are refused; fail if they do any harm."""
        self.path.write_bytes(data)
        found = self._read_if_whole()
        if found is None:
            return True
        assert contents(found) == self.contents
        return False

    def forge(self, arrays, document):
        """Return what a file with a valid digest holds, and whether it is refused."""
        tensorfile.write(self.path, arrays, document)
        found = self._read_if_whole()
        return found, found is None

    def _read_if_whole(self):
        tracemalloc.start()
        try:
            return self._read(self.path)
        except FileRefusedError:
            return None
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            size = self.path.stat().st_size
            assert peak <= 4 * size + _SLACK, f"{peak} bytes for {size}"


def contents(value):
    """Return all that a model or a progress holds, to compare."""
    arrays = {}
    values = {name: each for name, each in vars(value).items() if each is not None}
    classes = saving.CLASSES | {"Tally": type(getattr(value, "tally", None))}
    document = {n: tree.encode(v, n, arrays, classes) for n, v in values.items()}
    bits = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}
    return json.dumps(document, sort_keys=True), bits


@pytest.fixture(params=["model", "checkpoint"])
def target(request, tmp_path, X):
    sae = FeatureChoiceSAE(
        48, 4, batch_size=100, max_iter=2, dead_after=150, random_state=0
    )
    if request.param == "model":
        sae.set_params(n_calibration=30, caps="learned", random_state=3)
        sae.partial_fit(X).partial_fit(X[:77]).save(tmp_path / "model")
        return Target(tmp_path / "model", load)
    sae.set_params(checkpoint_dir=tmp_path, checkpoint_interval=0)
    stopped(sae, X, 9)
    older, path = files(tmp_path)
    older.unlink()
    identity = tensorfile.read(path)[1]["identity"]

    def read(path):
        with Checkpoints(tmp_path, 0, identity) as checkpoints:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                progress = checkpoints.newest(48, 12)
            if progress is None:
                raise FileRefusedError(str(caught[-1].message))
        return progress

    return Target(path, read)


# ------------------------------------------------------------------------- damage


def damaged(data, rng, header=None):
    """Return the bytes after an accident of a random kind."""
    data = bytearray(data)
    n = len(data)
    if header is None:
        header = 8 + int.from_bytes(data[:8], "little")
    # Half of the accidents happen to the header, where they can do more.
    place = int(rng.integers(header if rng.random() < 0.5 else n))
    length = int(rng.integers(1, 65))
    kind = rng.integers(9)
    if kind == 0:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[place] = int(rng.integers(256))
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        del data[place : place + length]
    elif kind == 4:
        data[place:place] = rng.bytes(length)
    elif kind == 5:
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == 6:
        other = int(rng.integers(n))
        data[place : place + length] = data[other : other + length]
    elif kind == 7:
        data += rng.bytes(length)
    else:  # a digit of a number, or a letter of a word
        words = b"0123456789[]{},:\"'\\-.eEtfn"
        data[place] = words[int(rng.integers(len(words)))]
    return bytes(data)


def check_damage(target, n):
    rng = np.random.default_rng(n)
    refused = sum(target.attack(damaged(target.data, rng)) for _ in range(n))
    # The rest did not matter: bytes replaced by themselves, or spaces in the header.
    assert refused > 0.9 * n
    assert not target.attack(target.data)


def test_damage(target):
    check_damage(target, 150)


@pytest.mark.soak
def test_damage_ten_thousand_times(target):
    check_damage(target, 10_000)


def test_every_length_is_refused(target):
    for length in {*range(0, 200, 7), *range(0, len(target.data), 997)}:
        assert target.attack(target.data[:length])


# ------------------------------------------------------------------------- forgery


JUNK = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    float("nan"),
    float("inf"),
    -0.5,
    "",
    "components_",
    "__class__",
    [],
    [[]],
    {},
    {"tuple": []},
    {"dict": {}},
    {"array": "components_"},
    {"tensor": "components_"},
    {"array": "none"},
    {"device": "cuda:77"},
    {"device": "nonsense"},
    {"generator": {"bit_generator": "PCG64"}},
    {"random_state": {"dict": {}}},
    {"records": {"step": {"array": "thresholds_"}}},
    {"strings": ["a", "b"]},
    {"object": "TrainingState", "vars": {}},
    {"object": "Popen", "vars": {"args": "true"}},
    {"object": "Adam", "vars": {"update": 1, "__class__": 2}},
    {"levels": ["a"], "index": {"array": "thresholds_"}},
]


def forged(arrays, document, rng):
    """Return contents with something else in a random place."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    document = copy.deepcopy(document)
    if rng.random() < 0.4:
        name = str(rng.choice(sorted(arrays)))
        arrays[name] = forged_array(arrays[name], rng)
        if arrays[name] is None:
            del arrays[name]
        return arrays, document
    node, parent, key = document, None, None
    while (
        isinstance(node, (dict, list))
        and node
        and (parent is None or rng.random() < 0.85)
    ):
        parent = node
        key = (
            list(node)[int(rng.integers(len(node)))]
            if isinstance(node, dict)
            else int(rng.integers(len(node)))
        )
        node = node[key]
    if rng.random() < 0.2:
        del parent[key]
    elif rng.random() < 0.1 and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    else:
        parent[key] = copy.deepcopy(JUNK[int(rng.integers(len(JUNK)))])
    return arrays, document


def forged_array(array, rng):
    kind = rng.integers(6)
    if kind == 0:
        return None
    if kind == 1:
        return array[..., :-1] if array.ndim else array.reshape(1)
    if kind == 2:
        return np.stack([array, array])
    if kind == 3:
        return np.zeros_like(array, dtype=rng.choice(["f2", "f4", "f8", "i4", "i8"]))
    if array.size:
        values = [np.nan, -1.0, np.inf, -np.inf, 2.0**40, 1e38]
        if array.dtype.kind != "f":
            values = np.array([-1, 1, 77, 2**40]).astype(array.dtype)
        array.reshape(-1)[int(rng.integers(array.size))] = rng.choice(values)
    return array


def check_forgeries(target, X, n):
    """What has a valid digest is refused, or is a model that works."""
    arrays, document = tensorfile.read(target.path)
    rng = np.random.default_rng(n)
    refused = 0
    for _ in range(n):
        found, was_refused = target.forge(*forged(arrays, document, rng))
        refused += was_refused
        if isinstance(found, skchoice.FeatureChoiceSAE):
            assert_consistent(found, X)
    assert 0.2 * n < refused < n


def assert_consistent(sae, X):
    n_features, n_columns = sae.components_.shape
    assert sae.encoder_weights_.shape == (n_features, n_columns)
    for name in ("components_", "encoder_weights_", "encoder_bias_", "decoder_bias_"):
        assert np.isfinite(getattr(sae, name)).all(), name
    assert (sae.thresholds_ >= 0).all()
    assert callable(sae.transform) and callable(sae.fit)
    sae.set_params(sparse_output=True, device="cpu").set_output(transform="default")
    assert sae.transform(X).shape == (len(X), n_features)


def test_forgeries(target, X_new):
    check_forgeries(target, X_new, 200)


@pytest.mark.soak
def test_ten_thousand_forgeries(target, X_new):
    check_forgeries(target, X_new, 10_000)


# ------------------------------------------------------------------ files made by hand


def safetensors_bytes(header, body=b""):
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + body


def entry(shape, stop, dtype="F32", start=0):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


META = {"__metadata__": {"skchoice": "{}", "sha256": "0" * 64}}
DEEP = b"[" * 100_000
BOMBS = {
    "empty": b"",
    "short": b"\x00" * 9,
    "header past the end": (2**40).to_bytes(8, "little") + b"{}",
    "header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "huge shape": safetensors_bytes(META | {"a": entry([2**40], 2**42)}),
    "huge product": safetensors_bytes(META | {"a": entry([2**33, 2**33], 4)}, b"1234"),
    "negative shape": safetensors_bytes(META | {"a": entry([-1], 4)}, b"1234"),
    "offsets backwards": safetensors_bytes(
        META | {"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}, b"1" * 8
    ),
    "overlap": safetensors_bytes(
        META | {"a": entry([2], 8), "b": entry([2], 8)}, b"1" * 8
    ),
    "hole": safetensors_bytes(
        META | {"a": entry([1], 4), "b": entry([1], 12, start=8)}, b"1" * 12
    ),
    "another dtype": safetensors_bytes(META | {"a": entry([1], 2, "BF16")}, b"12"),
    "unknown dtype": safetensors_bytes(META | {"a": entry([1], 2, "Q7")}, b"12"),
    "deep header": safetensors_bytes(DEEP),
    "deep object": safetensors_bytes(b'{"a":' * 100_000),
    "deep document": safetensors_bytes(
        {"__metadata__": {"skchoice": DEEP.decode(), "sha256": "0" * 64}}
    ),
    "many tensors": safetensors_bytes(
        META | {f"t{i}": entry([0], 0) for i in range(100_000)}
    ),
    "many escaped tensors": safetensors_bytes(
        b"{"
        + b",".join(
            b'"%d":{"d\\u0074ype":"F32","shape":[0],"data_offsets":[0,0]}' % i
            for i in range(100_000)
        )
        + b"}"
    ),
    "many values": safetensors_bytes(
        {"__metadata__": {"skchoice": "[" + "[]," * 10**6 + "1]", "sha256": "0" * 64}}
    ),
    "wide characters": safetensors_bytes(
        f'{{"a": "{"x" * 10**6}\U0001f600"}}'.encode()
    ),
    "an escape": safetensors_bytes(
        {"__metadata__": {"skchoice": "x" * 10**6 + "\U0001f600", "sha256": ""}}
    ),
    "keys": safetensors_bytes({f"{i:07}": 0 for i in range(10**5)}),
    "no metadata": safetensors_bytes({"a": entry([1], 4)}, b"1234"),
    "metadata of numbers": safetensors_bytes(
        {"__metadata__": {"skchoice": 1, "sha256": 2}}
    ),
    "a list": safetensors_bytes(b"[1, 2, 3]"),
    "bad UTF-8": safetensors_bytes(b'{"\xff\xfe": 1}'),
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(tmp_path, bomb):
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[bomb])
    tracemalloc.start()
    with pytest.raises(FileRefusedError):
        skchoice.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 4 * len(BOMBS[bomb]) + _SLACK


DOCUMENTS = {
    "lists": "[" + "[]," * 150_000 + "[]]",
    "objects": "[" + '{"a":0},' * 50_000 + "{}]",
    "keys": "{" + ",".join(f'"{i:07}":0' for i in range(50_000)) + "}",
    "strings": "[" + '"ab",' * 150_000 + "0]",
    "a wide string": '"' + "x" * 10**6 + r'\ud83d\ude00"',
}


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_of_many_small_values(tmp_path, monkeypatch, document, escaped):
    """The digest is right, so that only their size can be held against them."""
    text = f'{{"notes":{DOCUMENTS[document]}}}'

    def packed(arrays, text, digest):
        quoted = json.dumps(text)
        if escaped:  # of brackets and commas nothing is to be seen
            quoted = re.sub(r"[\[\]{},:]", lambda m: rf"\u{ord(m[0]):04x}", quoted)
        header = f'{{"__metadata__":{{"skchoice":{quoted},"sha256":"{digest}"}}}}'
        return len(header).to_bytes(8, "little") + header.encode()

    monkeypatch.setattr(tensorfile, "_packed_header", packed)
    monkeypatch.setattr(tensorfile, "_check_readable", lambda *_: None)
    tensorfile._write_text(tmp_path / "bomb", {}, text)
    size = (tmp_path / "bomb").stat().st_size
    tracemalloc.start()
    with pytest.raises(FileRefusedError, match=r"up to [0-9,]+ values"):
        skchoice.load(tmp_path / "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 4 * size + _SLACK


def test_a_sparse_file_larger_than_memory(tmp_path):
    path = tmp_path / "huge"
    with open(path, "wb") as file:
        file.write(safetensors_bytes(META))
        file.truncate(2**42)
    with pytest.raises(FileRefusedError):
        skchoice.load(path)


def test_duplicate_keys_are_refused(target):
    arrays, document = tensorfile.read(target.path)
    text = json.dumps(document)
    tensorfile._write_text(target.path, arrays, text)
    assert not target.attack(target.path.read_bytes())
    tensorfile._write_text(target.path, arrays, text[:-1] + ', "format": 1}')
    assert target.attack(target.path.read_bytes())
    twice = target.data.replace(b'{"__metadata__"', b'{"a":1,"a":2,"__metadata__"')
    assert target.attack(twice)


def test_bools_of_other_bytes_are_refused(target):
    flags = np.zeros(48, dtype=np.uint8)
    flags[5] = 2
    arrays, document = tensorfile.read(target.path)
    arrays["flags"] = flags.view(np.bool_)
    _, refused = target.forge(arrays, document)
    assert refused


@pytest.mark.parametrize("target", ["model"], indirect=True)
def test_tables_are_no_longer_than_their_file(target):
    """A table takes eight bytes of the file for a number, and each is read once."""
    arrays, document = tensorfile.read(target.path)

    def peak(table, columns, refused=True):
        document["fitted"]["notes_"] = {"records": table}
        tensorfile.write(target.path, arrays | columns, document)
        tracemalloc.start()
        with pytest.raises(FileRefusedError) if refused else nullcontext():
            load(target.path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return (peak - _SLACK) / target.path.stat().st_size

    def table(array, n):
        names = [f"c{i}" for i in range(n)]
        columns = {name: array for name in names}
        return {name: {"array": name} for name in names}, columns

    zeros = {"zeros": np.zeros(50_000)}
    assert peak({f"c{i}": {"array": "zeros"} for i in range(100)}, zeros) <= 4
    assert peak(*table(np.zeros(60_000), 7)) <= 4
    assert peak(*table(np.zeros(60_000, np.uint8), 8)) <= 4
    assert peak(*table(np.zeros((6000, *[1] * 30)), 8)) <= 4
    levels = {"levels": ["a"], "index": {"array": "zeros"}}
    index = {"zeros": np.zeros(60_000, np.int32)}
    assert peak({f"c{i}": levels for i in range(8)}, index) <= 4
    # An honest one takes what its records take: twice the bound, and no more.
    assert 4 < peak(*table(np.zeros(30_000), 8), refused=False) <= 8


def test_a_model_is_no_checkpoint(target, tmp_path):
    """Nor the other way round: a whole file of another kind is refused by name."""
    arrays, document = tensorfile.read(target.path)
    other = {"model": "checkpoint", "checkpoint": "model"}[document["kind"]]
    _, refused = target.forge(arrays, document | {"kind": other})
    assert refused


def test_objects_are_those_of_the_library_alone():
    with pytest.raises(KeyError):
        tree.decode({"object": "Popen", "vars": {}}, {}, saving.CLASSES)
    with pytest.raises(ValueError, match="no kind"):
        tree.decode({"_dict__": 1}, {}, saving.CLASSES)
    assert all(
        cls.__module__.startswith("skchoice.") for cls in saving.CLASSES.values()
    )
