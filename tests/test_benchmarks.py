"""Every benchmark of speed runs at toy size, and the README tells its results."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    """Return a function that runs a benchmark's main with arguments."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)

    def run(name, *arguments):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        module.main()
        return module

    yield run
    for name in set(sys.modules) - before:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "X.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.exponential(size=(700, 30)) @ rng.normal(size=(30, 16)))
    return path


TOY = {
    "step": "--activations {rows} --features 64 --k 4 --batch-size 64 --blocks 2 "
    "--rules mutual",
    "transform": "--activations {rows} --features 64 --k 4 --rows 128 --blocks 2",
    "fit": "--activations {rows} --features 64 --k 4 --batch-size 64 --max-iter 1 "
    "--repetitions 1 --rules feature",
    "scaling": "--rows 700 --sizes 64,16,64,4,2 --blocks 1 --rules mutual",
    "hard_batches": "--activations {rows} --features 64 --k 4 --batch-size 64 "
    "--blocks 2",
    "grid_search": "--activations {rows} --features 64 --max-iter 1 --repetitions 1 "
    "--rules token",
}


# Starting the processes of a search takes longer than all others together.
SLOW = {"grid_search": [pytest.mark.soak]}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW.get(name, [])) for name in TOY]
)
def test_times(script, rows, tmp_path, name, capsys):
    out = tmp_path / "out.json"
    script(name, *TOY[name].format(rows=rows).split(), "--out", out)
    document = json.loads(out.read_text())
    assert document["hardware"] and document["torch"] == torch.__version__
    for one in document["results"]:
        assert 0 < one["ratio_low"] <= one["ratio"] <= one["ratio_high"]
        assert one["n_features"] == 64


def test_gpu(script, tmp_path, capsys):
    """On the CPU, where nothing is to be learned from its times."""
    out = tmp_path / "gpu.json"
    size = "--sizes 64,16,128,4 --rows 1024 --blocks 1"
    script("gpu", "--device", "cpu", *size.split(), "--out", out)
    document = json.loads(out.read_text())
    assert document["hardware"] and "accelerator" not in document
    assert set(document["errors"]) == {"bag_sum", "pair_dots", "find_hits"}
    fits = [one for one in document["results"] if one["what"] == "fit"]
    assert all(one["fvu_over_cpu"] == one["l0_over_cpu"] == 1.0 for one in fits)
    timed = [one for one in document["results"] if one["what"] != "fit"]
    assert len(fits) == 3 and len(timed) == 9
    assert all(one["ratio"] > 0 and one["rows_per_second"] > 0 for one in timed)
    assert capsys.readouterr().out.count("\n") == 12


def test_gpu_scale(script, tmp_path, capsys):
    out = tmp_path / "scale.json"
    size = "--features 256 512 --columns 16 --rows 2048 --batch-size 256 --tokens 6000"
    script("gpu_scale", "--device", "cpu", *size.split(), "--out", out)
    few, many = json.loads(out.read_text())["results"]
    assert (few["n_features"], many["n_features"]) == (256, 512)
    for one in (few, many):
        assert one["n_tokens"] >= 6000 and one["tokens_per_second"] > 0
        assert one["finite"] and one["peak_gb"] is None
        assert 0 < one["expected_20_matches"] <= one["n_features"]
        assert one["of_these_never_matched"] <= one["never_matched"]
        assert one["most_owed"] > 0


SIZE = "--features 64 --k 4 --batch-size 64 --blocks 2 --max-iter 1 --peers torch"


def test_peers(script, rows, tmp_path, monkeypatch, capsys):
    """The arm in plain torch needs nothing installed; the others have its form."""
    out = tmp_path / "peers.json"
    arguments = ["--activations", rows, *SIZE.split(), "--out", out]
    monkeypatch.setattr(importlib.import_module("peers"), "OUR_STEPS", 12)
    script("peers", "time", *arguments)
    module = script("peers", "quality", *arguments)
    document = json.loads(out.read_text())
    records = {(r["package"], r["rule"], r["variant"]): r for r in document["results"]}
    assert len(records) == len(document["results"]) == 7
    assert document["packages"] == {"torch": torch.__version__}
    for (package, _, variant), one in records.items():
        # Both runs are in one record of each arm. Fit sets a tenth of the rows aside.
        assert one["ratio"] > 0 and one["times_ours"] > 0 and one["steps"] == 9
        assert 0 < one["fvu_at_k"] < 1.5 and one["tokens"] == 9 * 64
        if package == "torch":
            assert one["l0_training"] == 4
            assert variant.endswith("bfloat16") or one["error_difference"] < 1e-4
    with pytest.raises(SystemExit, match="other settings"):
        script("peers", "time", *arguments, "--k", 5)
    out.write_text(json.dumps(document | {"hardware": "another"}))
    with pytest.raises(SystemExit, match="has times of another, and this is"):
        script("peers", "time", *arguments)
    missing = [module.Entry("no-such-package", "mutual", "dense", "as shipped")]
    with pytest.raises(SystemExit, match="no-such-package is not installed"):
        module.installed(missing)


def test_gate_refuses_another_rule(script, rows, monkeypatch, capsys):
    """An arm that keeps k of each row is not one that keeps k n of the batch."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    dense = importlib.import_module("arms.dense")

    def by_row(self, affinities):
        values, places = affinities.topk(self._k, dim=1)
        return torch.zeros_like(affinities).scatter(1, places, values), values.min()

    monkeypatch.setattr(dense.Dense, "_kept", by_row)
    monkeypatch.setattr(importlib.import_module("peers"), "OUR_STEPS", 12)
    with pytest.raises(AssertionError, match="computes something else"):
        script("peers", "time", "--activations", rows, *SIZE.split())


def test_turns_are_taken_in_order(script, monkeypatch):
    timing = importlib.import_module("timing")
    log = []
    arms = {name: (lambda name=name: log.append(name)) for name in "ab"}
    times = timing.take_turns(arms, lambda: log.append("gemm") or 2.0, 3, least=0.0)
    one_block = ["gemm", "a", "gemm", "b"]
    assert log == ["a"] * 3 + ["b"] * 3 + one_block * 3
    times["a"].taken = [1.0, 3.0, 2.0]
    summary = times["a"].summary()
    assert summary["step_ms"] == 2000 and summary["ratio"] == 1.0
    assert summary["gemm_ms"] == 2000 and summary["ratio_high"] == pytest.approx(1.4)


# ------------------------------------------------------------------- what is told


@pytest.fixture
def render_peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("render_peers")


def test_readme_has_the_committed_numbers(render_peers):
    files = render_peers.RESULTS, render_peers.WITHOUT_BFLOAT16
    results = [render_peers.read(path) for path in files]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert render_peers.readme(text, *results) == text, "python docs/render_peers.py"
    peers = {one["package"] for one in results[0] if "step_ms" in one} - {"skchoice"}
    table = render_peers.table(*results)
    assert peers and all(f"| {peer}, " in table for peer in peers)


def test_table_has_the_fastest_variant(render_peers, tmp_path):
    common = {"rule": "token", "step_ms": 1.0, "ratio_low": 1.0, "ratio_high": 9.0}
    results = [
        common | {"package": "skchoice", "variant": v, "ratio": r, "times_ours": 1.0}
        for v, r in (("as shipped", 2.0), ("no auxiliary", 1.5))
    ] + [
        common | {"package": "peer", "variant": v, "ratio": r, "times_ours": t}
        for v, r, t in (
            ("as shipped", 9.0, 6.0),
            ("fused", 7.5, 5.0),
            ("fused, bfloat16", 3.0, 2.0),
        )
    ]
    results[2]["fvu_at_k"], results[4]["fvu_at_k"] = 0.25, 0.1
    others = [one | {"times_ours": one["times_ours"] / 2} for one in results]
    rows = render_peers.table(results, others).splitlines()[2:]
    assert rows == [
        "| **TokenChoiceSAE** | \u2013 | \u2013 | \u2013 |",
        "| peer, TopK | 5.0\u00d7 | 2.5\u00d7 | 0.250 |",
    ]
    pytest.importorskip("matplotlib")
    render_peers.plot(results, tmp_path / "new" / "peers.png")
    assert (tmp_path / "new" / "peers.png").stat().st_size > 1000
