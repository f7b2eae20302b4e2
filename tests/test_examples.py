"""Every example of the gallery runs, and every piece of code in the documentation."""

import doctest
import importlib.util
import json
import runpy
import sys
import warnings
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt

from skchoice.exceptions import SAEWarning

plt.switch_backend("Agg")
ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
PAGES = [
    page
    for page in sorted((ROOT / "docs").glob("**/*.rst"))
    if not {"_build", "_generated", "_templates", "auto_examples", "generated"}
    & set(page.relative_to(ROOT).parts)
]


def test_there_are_some():
    assert len(EXAMPLES) >= 4 and len(PAGES) >= 10


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SAEWarning)
        runpy.run_path(str(path))
    assert plt.get_fignums(), "an example of the gallery draws something"
    plt.close("all")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_gpt2_layer8(folders, tmp_path, monkeypatch, capsys):
    sizes = "--layer 1 --n-features 64 --k 4 --tokens 1500 --held-out-tokens 300"
    arguments = f"--model {folders['gpt2']} {sizes} --max-iter 2 --out {tmp_path}"
    path = str(ROOT / "examples" / "gpt2_layer8.py")
    monkeypatch.setattr(sys, "argv", [path, *arguments.split()])
    runpy.run_path(path, run_name="__main__")
    shown = capsys.readouterr().out
    assert "shape=(1500, 16)" in shown
    assert "loss recovered" in shown and "explained variance" in shown
    assert len([line for line in shown.splitlines() if line.startswith("  ")]) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testfile(
        str(page), module_relative=False, optionflags=flags, encoding="utf-8"
    )
    plt.close("all")
    assert failed == 0


# --------------------------------------------------------- tables of committed results


@pytest.fixture(scope="module")
def render_results():
    path = ROOT / "docs" / "render_results.py"
    spec = importlib.util.spec_from_file_location("render_results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_results_are_rendered(render_results, tmp_path):
    results = ROOT / "benchmarks" / "results"
    text = render_results.write(results, tmp_path).read_text(encoding="utf-8")
    for file in results.glob("*.json"):
        assert f"``{file.name}``" in text
    step = json.loads((results / "step.json").read_text())
    assert step["hardware"] in text
    assert text.count(f"{step['results'][0]['ratio']:.4g}") >= 1
    assert "Time of a training step over the time of its one encoder GEMM." in text
    assert "python benchmarks" not in text


def test_results_of_any_shape_are_rendered(render_results, tmp_path):
    odd = {
        "note": "a|b *c*",
        "nested": {"deep": {"number": 1234567, "none": None, "yes": True}},
        "results": [
            {"a": 1, "b": {"c": 0.123456}},
            {"a": 2},
            {"a": 3, "b": {"c": 9e9}},
        ],
        "seeds": list(range(20)),
        "long": [{"run": run} for run in range(100)],
        "other": [{"x": []}],
        "empty": [],
    }
    (tmp_path / "later_one.json").write_text(json.dumps(odd))
    (tmp_path / "step.json").write_text("[1.5, 2]")
    text = render_results.write(tmp_path, tmp_path / "out").read_text(encoding="utf-8")
    # What is known comes first, under its title.
    assert text.index("A training step") < text.index("Later one")
    assert r"a\|b \*c\*" in text and "; nested deep number: 1,234,567; " in text
    assert "   * - a\n     - b c\n   * - 1\n     - 0.1235\n" in text
    assert "     - 39\n" in text.replace("* -", "  -") and "     - 40\n" not in text
    assert "The file has 60 more." in text
    assert "9,000,000,000" in text and "0, 1, 2, 3, 4, 5, 6, 7, … (20)" in text
    docutils = pytest.importorskip("docutils.core")
    docutils.publish_doctree(
        text, settings_overrides={"halt_level": 2, "report_level": 2}
    )
