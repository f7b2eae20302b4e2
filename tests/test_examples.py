"""The examples run, at a small size."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")
def test_gpt2_layer8(folders, tmp_path, monkeypatch, capsys):
    sizes = "--layer 1 --n-features 64 --k 4 --tokens 1500 --held-out-tokens 300"
    arguments = f"--model {folders['gpt2']} {sizes} --max-iter 2 --out {tmp_path}"
    path = str(EXAMPLES / "gpt2_layer8.py")
    monkeypatch.setattr(sys, "argv", [path, *arguments.split()])
    runpy.run_path(path, run_name="__main__")
    shown = capsys.readouterr().out
    assert "shape=(1500, 16)" in shown
    assert "loss recovered" in shown and "explained variance" in shown
    assert len([line for line in shown.splitlines() if line.startswith("  ")]) > 50
