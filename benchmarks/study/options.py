"""What every experiment of the study is asked for on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results" / "study"


def parser(doc: str, name: str) -> argparse.ArgumentParser:
    """Return the parser of an experiment whose results go by a name."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--folder", type=Path, default=Path("activations"))
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    made.add_argument("--small", action="store_true")
    return made
