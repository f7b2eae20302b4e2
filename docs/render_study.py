"""Pages of the study from its committed results.

python docs/render_study.py benchmarks/results/study docs/_generated
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from render_results import rendered, row
from study.claims import CLAIMS
from study.tables import table

GROUPS = {
    "large": "The rules over five seeds",
    "wide": "Four times as wide",
    "small": "The small version, on three data sets",
    "variants": "Caps, auxiliary losses, and no phase before",
    "importance": "Absolute and relative importance",
    "k": "Other k, and the sweep of m",
    "length": "Longer training",
}
OTHERS = {
    "loss_by_caps": "Loss recovered by caps",
    "zipf_course": "Zipf's law as training goes on",
    "quality_peer": "BatchTopK and ReLU as dictionary_learning ships them",
    "probes": "Probes",
    "stability": "Stability over seeds",
}


def write(results: Path, folder: Path) -> Path:
    """Write ``study.rst`` from the results of the study, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: _read(results / f"{name}.json") for name in ("quality", *OTHERS)}
    lines = [*_claims(found), *_groups(found["quality"])]
    for name, title in OTHERS.items():
        if found[name]:
            lines += [*_heading(title), f"From ``{name}.json``.", ""]
            lines += rendered([_scalars(one) for one in found[name].values()])
    target = folder / "study.rst"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _heading(title: str) -> list[str]:
    return [title, "-" * len(title), ""]


def _claims(found: dict[str, dict]) -> Iterator[str]:
    yield from _heading("The paper's claims")
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 30 14 56", "")
    yield from row(["claim", "verdict", "measured"])
    for text, claim in CLAIMS:
        answer = claim(found["quality"], found["loss_by_caps"])
        yield from row([text, *(answer or ("not run", "n/a"))])
    yield ""


def _groups(results: dict[str, dict]) -> Iterator[str]:
    sizes = {}
    for cell in results.values():
        sizes.setdefault((cell["group"], cell["data"]), cell)
    for group, title in GROUPS.items():
        if any(name == group for name, _ in sizes):
            yield from _heading(title)
        for (name, data), cell in sizes.items():
            if name == group:
                yield (
                    f"``{data}``: {cell['n_train']:,} rows to train on, "
                    f"{cell['n_held_out']:,} held out; "
                    + ", ".join(f"{n} {v}" for n, v in cell["settings"].items())
                    + " where nothing else is said."
                )
                yield from ("", ".. list-table::", "   :header-rows: 1", "")
                for cells in table(results, group, data):
                    yield from row(cells)
                yield ""


def _scalars(record: dict) -> dict:
    return {name: value for name, value in record.items() if value is not None}


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path(sys.argv[2])))
