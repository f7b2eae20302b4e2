"""Damaged and forged stores: each is refused, or read as what was written.

The long runs are for `make soak`.
"""

import copy
import hashlib
import json
import re
import tracemalloc

import numpy as np
import pytest
from test_hostile_files import _SLACK, JUNK, damaged

from skchoice import CodeStore, MutualChoiceSAE, encode_store, manifest
from skchoice.exceptions import StoreError
from skchoice.store import TOKEN, ActivationStore, StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")


def activations_of(folder):
    store = ActivationStore(folder)
    arrays = [np.array(store[:]), np.array(store[[-1, 0, 70], ...]), store.tokens[:]]
    return contents(store.configuration, store.progress, store.complete, arrays)


def codes_of(folder):
    store = CodeStore(folder)
    parts = [store[:], store[65:67]]
    arrays = [part.data for part in parts]
    arrays += [part.indices for part in parts]
    arrays += [part.indptr for part in parts]
    return contents(store.configuration, store.shape, store.complete, arrays)


def contents(configuration, progress, complete, arrays):
    """Return all that a user gets of a store, to compare."""
    bits = [(a.dtype.str, a.shape, a.tobytes()) for a in arrays]
    return json.dumps([configuration, progress, complete]), bits


class Target:
    """A valid store, how to read all of it, and what it holds."""

    def __init__(self, folder, read):
        self.folder, self.read = folder, read
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.contents = read(folder)

    def attack(self, name, data):
        """Return whether a damaged file is refused; fail if it does any harm."""
        (self.folder / name).write_bytes(data)
        tracemalloc.start()
        try:
            found = self.read(self.folder)
        except StoreError:
            found = None
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            (self.folder / name).write_bytes(self.files[name])
        assert peak <= 4 * len(data) + _SLACK, f"{peak} bytes for {len(data)}"
        if found is None:
            return True
        assert found == self.contents
        return False


@pytest.fixture(params=["activations", "codes"])
def target(request, tmp_path, X):
    X = X.astype(np.float16)
    if request.param == "activations":
        writer = StoreWriter(tmp_path, X.shape[1], configuration={"layer": 8})
        for start in range(0, 600, 300):
            part = slice(start, start + 300)
            tokens = np.zeros(300, TOKEN)
            tokens["token_id"] = np.arange(300)
            writer.append(X[part], tokens, {"cursor": {"document": start}})
        writer.finish()
        return Target(tmp_path, activations_of)
    sae = MutualChoiceSAE(24, 4, max_iter=1, random_state=0).fit(X)
    encode_store(sae, X, tmp_path, shard_rows=300)
    return Target(tmp_path, codes_of)


# ------------------------------------------------------------------------------ damage


def check_damage(target, n):
    rng = np.random.default_rng(n)
    shards = sorted(set(target.files) - {manifest.MANIFEST})
    refused = 0
    for _ in range(n):
        name = manifest.MANIFEST if rng.random() < 0.4 else str(rng.choice(shards))
        data = target.files[name]
        refused += target.attack(name, damaged(data, rng, header=min(128, len(data))))
    # The rest did not matter: bytes were replaced by themselves.
    assert 0.9 * n < refused
    assert target.read(target.folder) == target.contents


def test_damage(target):
    check_damage(target, 150)


@pytest.mark.soak
def test_damage_ten_thousand_times(target):
    check_damage(target, 10_000)


def test_each_byte_of_a_manifest_counts(target):
    content = target.files[manifest.MANIFEST]
    for place in range(0, len(content), 29):
        flipped = bytearray(content)
        flipped[place] ^= 1
        assert target.attack(manifest.MANIFEST, bytes(flipped))


def large_store(folder):
    """Return a store whose edges are far from its middle, and a file of it."""
    rows = np.random.default_rng(0).normal(size=(4000, 4))
    writer = StoreWriter(folder, 4)
    writer.append(rows)
    writer.append(rows)
    return folder / "activations-00000.npy"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found_at_the_first_read(tmp_path):
    path = large_store(tmp_path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    flip(path, 16_000)
    store = ActivationStore(tmp_path)
    for read in (lambda: store[0], lambda: store[[3, 1]], lambda: np.asarray(store)):
        with pytest.raises(StoreError, match=f"activations-00000.*{expected}"):
            read()
    assert store[4000:].shape == (4000, 4)  # the other shard is whole
    with pytest.raises(StoreError, match="activations-00000"):
        store.verify()
    unchecked = ActivationStore(tmp_path, check_shards=False)
    assert np.asarray(unchecked).shape == (8000, 4)


def test_a_shard_is_compared_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = large_store(tmp_path)
    monkeypatch.setattr("skchoice.sharded._OPEN_SHARDS", 1)
    store = ActivationStore(tmp_path)
    assert store[0].shape == store[4000].shape == (4,)
    with monkeypatch.context() as patch:
        patch.setattr("skchoice.sharded.sha256_of", None)  # nothing more is hashed
        assert store[0].shape == store[4000].shape == (4,)
    flip(path, 16_000)
    with pytest.raises(StoreError, match="activations-00000"):
        store[0]


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_shard_that_goes_away_while_it_is_read(tmp_path, damage, make):
    path = large_store(tmp_path)
    store = ActivationStore(tmp_path)
    assert store[0].shape == (4,)
    if damage == "removed":
        path.unlink()
        assert store[3999].shape == (4,)
        return
    with open(path, "rb+") as file:
        file.truncate(5000)
    for read in (lambda: store[3999], lambda: make(max_iter=1).fit(store)):
        with pytest.raises(StoreError, match="now has 5000"):
            read()


# ----------------------------------------------------------------------------- forgery


def nodes(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items if isinstance(value, (dict, list)) else ():
        if isinstance(item, (dict, list)):
            yield from nodes(item, (*path, key))
        else:
            yield (*path, key)


def forged(found, rng):
    """Return a manifest with something else in a random place, and a valid sha256."""
    found = copy.deepcopy(found)
    paths = [path for path in nodes(found) if path]
    *way, last = paths[int(rng.integers(len(paths)))]
    parent = found
    for key in way:
        parent = parent[key]
    kind = rng.random()
    if kind < 0.2:
        del parent[last]
    elif kind < 0.4 and type(parent[last]) is int:
        parent[last] += int(rng.choice([-1, 1, 2**31, 2**62, -(2**62)]))
    else:
        parent[last] = copy.deepcopy(JUNK[int(rng.integers(len(JUNK)))])
    configuration = found.get("configuration", {})
    if "configuration_sha256" in found and rng.random() < 0.5:
        found["configuration_sha256"] = manifest.configuration_hash(configuration)
    return found


def check_forgeries(target, n):
    """What has a valid checksum is refused, or reads whole files of the store."""
    found = json.loads(target.files[manifest.MANIFEST])
    rng = np.random.default_rng(n)
    n_read = 0
    path = target.folder / manifest.MANIFEST
    for _ in range(n):
        path.write_bytes(manifest.sealed(forged(found, rng)))
        tracemalloc.start()
        try:
            _, bits = target.read(target.folder)
            assert bits == target.contents[1]  # the same rows, differently described
            n_read += 1
        except (StoreError, IndexError):  # of too few rows for what is read here
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= _SLACK
    assert 0 < n_read < n


def test_forgeries(target):
    check_forgeries(target, 300)


@pytest.mark.soak
def test_ten_thousand_forgeries(target):
    check_forgeries(target, 10_000)


def reseal(folder, change):
    path = folder / manifest.MANIFEST
    found = json.loads(path.read_bytes())
    change(found)
    path.write_bytes(manifest.sealed(found))


@pytest.mark.parametrize("n_columns", [0, 2**31, 2**63, 10**30])
def test_columns_that_no_index_can_name(target, n_columns):
    reseal(target.folder, lambda found: found["shape"].__setitem__(1, n_columns))
    with pytest.raises(StoreError, match=r"it has [0-9]+ columns"):
        target.read(target.folder)


def forge_file(folder, name, array):
    """Replace a file by another, and have the manifest agree."""
    np.save(folder / name, array, allow_pickle=array.dtype == object)
    content = (folder / name).read_bytes()
    edges = content[:4096] + content[-4096:]
    record = {
        "name": name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "edges": hashlib.sha256(edges).hexdigest(),
    }
    kind, number = name.removesuffix(".npy").split("-")
    reseal(folder, lambda m: m["shards"][int(number)]["files"].update({kind: record}))


@pytest.mark.parametrize("target", ["activations"], indirect=True)
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda name: f"../{name}", "has a file '../"),
        (lambda name: f"/etc/{name}", "has a file '/etc"),
        (lambda name: name.replace("0.npy", "1.npy"), "has a file"),
    ],
)
def test_no_path_leads_out_of_the_folder(target, change, message):
    def forge(found):
        record = found["shards"][0]["files"]["activations"]
        record["name"] = change(record["name"])

    reseal(target.folder, forge)
    with pytest.raises(StoreError, match=message):
        ActivationStore(target.folder)


@pytest.mark.parametrize("target", ["activations"], indirect=True)
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((300, 12), np.float32)[:150],
        np.zeros((150, 24), np.float16),
        np.zeros((12, 300), np.float16).T,
        np.zeros((300, 12), np.int16),
        np.array([print, 1], dtype=object),
    ],
    ids=["dtype", "shape", "order", "integers", "pickle"],
)
def test_other_arrays_are_refused(target, array):
    forge_file(target.folder, "activations-00000.npy", array)
    with pytest.raises(StoreError):
        ActivationStore(target.folder)[:]


@pytest.mark.parametrize("target", ["codes"], indirect=True)
@pytest.mark.parametrize("name", ["ends", "indices"])
def test_codes_never_point_outside(target, name):
    original = np.load(target.folder / f"{name}-00000.npy")
    wrong = [np.roll(original, 1), -1 - original]
    wrong += [original + 10**6, original + np.where(original == original[5], 99, 0)]
    for array in wrong[name == "indices" :]:
        array = array.astype(original.dtype)
        forge_file(target.folder, f"{name}-00000.npy", array)
        with pytest.raises(StoreError, match=r"codes 0 to 600 .* are damaged"):
            CodeStore(target.folder)[:]


def lines(values, depth=4):
    return ",\n".join(" " * depth + value for value in values)


NOTES = {
    "lists": "[\n" + lines(["[]"] * 60_000) + "\n]",
    "objects": "[\n" + lines(['{"a":0}'] * 40_000) + "\n]",
    "keys": "{\n" + lines(f'"{i:06}":0' for i in range(40_000)) + "\n}",
    "strings": "[\n" + lines(['"ab"'] * 60_000) + "\n]",
    "a wide string": '"' + "x" * 10**6 + r'\ud83d\ude00"',
    "wide characters": '"' + "x" * 10**6 + '\U0001f600"',
}


@pytest.mark.parametrize("target", ["activations"], indirect=True)
@pytest.mark.parametrize("place", ["configuration", "progress", "a shard", "a record"])
@pytest.mark.parametrize("notes", NOTES)
def test_manifests_of_many_small_values(target, notes, place):
    """Refused for their size alone: their checksums are right."""
    found = json.loads(target.files[manifest.MANIFEST])
    shard = found["shards"][0]
    where = {
        "configuration": found["configuration"],
        "progress": shard["progress"],
        "a shard": shard,
        "a record": next(iter(shard["files"].values())),
    }
    where[place]["notes"] = "NOTES"
    content = json.dumps(found | {"sha256": "0" * 64}, indent=1) + "\n"
    content = content.replace('"NOTES"', NOTES[notes]).encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    assert target.attack(manifest.MANIFEST, content.replace(b"0" * 64, digest, 1))


def many_shards(target, n, change):
    """Return a manifest of as many shards, like the first."""
    found = json.loads(target.files[manifest.MANIFEST])
    first = found["shards"][0]
    first["files"].pop("tokens", None)
    shards = []
    for number in range(n):
        shard = copy.deepcopy(first)
        for name, record in shard["files"].items():
            record["name"] = f"{name}-{number:05d}.npy"
        shards.append(change(shard))
    found["shape"][0] = sum(shard["rows"] for shard in shards)
    return manifest.sealed(found | {"shards": shards})


@pytest.mark.parametrize("values", [[], [{"a": 0}] * 9])
@pytest.mark.parametrize("spaces", [True, False])
def test_a_long_manifest_takes_no_more_than_four_times_its_size(target, values, spaces):
    def noted(shard):
        shard["progress"]["notes"] = values
        return shard

    written = content = many_shards(target, 700, noted)
    if not spaces:  # as a forger might leave them out
        content = re.sub(rb"\n {3,}", b"", content).replace(b'": ', b'":')
        content = content.replace(b'\n "shards":', b'\n "shards": ')
        digest = json.loads(content)["sha256"].encode()
        zeros = content.replace(digest, b"0" * 64)
        content = zeros.replace(b"0" * 64, hashlib.sha256(zeros).hexdigest().encode())
    (target.folder / manifest.MANIFEST).write_bytes(content)
    kind = "codes" if "matches" in json.loads(content)["shards"][0] else "activations"
    tracemalloc.start()
    read = manifest.Manifest.read(target.folder, kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 4 * len(content)
    assert read.to_json() == written


@pytest.mark.parametrize("place", ["a shard", "a record"])
def test_no_more_entries_than_are_written(target, place):
    def change(found):
        shard = found["shards"][0]
        record = next(iter(shard["files"].values()))
        {"a shard": shard, "a record": record}[place]["more"] = 1

    reseal(target.folder, change)
    with pytest.raises(StoreError, match="has the entries"):
        target.read(target.folder)


@pytest.mark.parametrize("target", ["activations"], indirect=True)
def test_notes_that_could_not_be_read_are_not_written(target, tmp_path):
    long = {"notes": list(range(20_000))}
    with pytest.raises(ValueError, match="configuration is too long"):
        StoreWriter(tmp_path / "new", 3, configuration=long)
    assert not (tmp_path / "new").exists()
    most = {"notes": list(range(6000))}  # both at once
    writer = StoreWriter(tmp_path / "new", 3, configuration=most)
    writer.append(np.zeros((1, 3)), progress=most)
    assert ActivationStore(tmp_path / "new").progress == most
    writer = StoreWriter(target.folder, 12, configuration={"layer": 8})
    tokens = np.zeros(1, TOKEN)
    for call in (
        lambda: writer.append(np.zeros((1, 12)), tokens, long),
        lambda: writer.finish(long),
    ):
        with pytest.raises(ValueError, match="progress is too long"):
            call()
    assert target.read(target.folder) == target.contents


def test_a_sparse_manifest_larger_than_memory(target):
    with open(target.folder / manifest.MANIFEST, "rb+") as file:
        file.truncate(2**42)
    with pytest.raises(StoreError, match="no manifest needs as many"):
        target.read(target.folder)


def test_manifests_made_by_hand(target):
    content = target.files[manifest.MANIFEST]
    bombs = [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": "skchoice store"}',
        b'{"format": "skchoice store", "version": 1}',
        b'{"format": "skchoice store", "version": true, "shape": [1, 1]}',
        b"\xff\xfe{}",
        content[:-2] + b', "kind": "activations"}\n',
        content.replace(b'"version": 2', b'"version": 1'),
        content.replace(b'"version": 2', b'"version": 0'),
    ]
    for bomb in bombs:
        assert target.attack(manifest.MANIFEST, bomb)
