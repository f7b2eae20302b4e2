"""The claims of Ayonrinde 2024 (arXiv 2411.02124), and what was measured.

    python examples/reproduce_paper.py          # from the committed results
    python examples/reproduce_paper.py --run    # measure the small version again

The cells, the claims and how a fit is judged are in ``benchmarks/study``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from study.claims import CLAIMS


def main() -> None:
    """Print each claim, the verdict and its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="under two hours on 2 cores")
    parser.add_argument("--folder", default="activations", help="made there once")
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results/study")
    options = parser.parse_args()
    if options.run:
        script = BENCHMARKS / "quality.py"
        command = [sys.executable, script, "--small", "--folder", options.folder]
        out = options.results / "quality.json"
        subprocess.run([*command, "--out", out], check=True)
    quality, losses = (
        json.loads(path.read_text()) if path.exists() else {}
        for path in (options.results / f"{n}.json" for n in ("quality", "loss_by_caps"))
    )
    for text, claim in CLAIMS:
        answer = claim(quality, losses)
        verdict, figures = answer or ("not run", "")
        print(f"{text}\n    {verdict}. {figures}")


if __name__ == "__main__":
    main()
