"""Tables from the committed results of the benchmarks, whatever files there are.

    python docs/render_results.py benchmarks/results docs/_generated

A file holds numbers by name, lists of records, or both, nested as it likes: records
that have the same names become a table, single values a sentence.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What is known of a file beforehand; any other is shown under its own name.
TITLES = {
    "quickstart": "Quickstart",
    "peers": "Other libraries at equal work",
    "peers_minibatch": "scikit-learn's MiniBatchDictionaryLearning",
    "step": "A training step",
    "scaling": "A training step at other sizes",
    "hard_batches": "Batches unlike those before",
    "fit": "A whole fit",
    "transform": "Transform",
    "grid_search": "Grid search with two jobs",
    "memory": "Memory",
    "report": "The report",
    "extract": "Extraction from a language model",
    "loss_recovered": "Loss recovered",
    "defaults": "The defaults, and a search",
    "outliers": "Rows of huge norm",
    "persistence": "Files and checkpoints",
    "interop": "Files of other libraries",
}
# Of names of files that another kind of processor wrote.
AVX2, WITH_AVX2 = "_avx2", " where the processor has AVX2 alone"
# Longer tables are for the file.
MOST_RECORDS = 40


def write(results: Path, folder: Path) -> Path:
    """Write ``results.rst`` from all JSON files of a folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    known = list(TITLES)

    def order(file: Path) -> tuple[int, str]:
        name = file.stem.removesuffix(AVX2)
        return known.index(name) if name in known else len(known), file.stem

    lines: list[str] = []
    for file in sorted(results.glob("*.json"), key=order):
        name = file.stem.removesuffix(AVX2)
        title = TITLES.get(name, name.replace("_", " ").capitalize())
        title += WITH_AVX2 if name != file.stem else ""
        lines += [title, "-" * len(title), ""]
        lines += [*what_is_measured(results.parent / f"{file.stem}.py")]
        lines += [f"From ``{file.name}``.", ""]
        lines += rendered(json.loads(file.read_text(encoding="utf-8")))
    target = folder / "results.rst"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def what_is_measured(script: Path) -> Iterator[str]:
    """Yield what the head of a benchmark says of it, its usage left out."""
    if script.exists():
        head = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        for part in head.split("\n\n"):
            if not part.startswith(" "):
                yield from (part, "")


def rendered(value: Any) -> Iterator[str]:
    """Yield lines of reST for a value of JSON."""
    if isinstance(value, dict):
        flat = dict(flattened(value))
        single = {
            name.removeprefix("settings "): one
            for name, one in flat.items()
            if not is_records(one)
        }
        if single:
            pairs = [f"{n.replace('_', ' ')}: {shown(v)}" for n, v in single.items()]
            yield from ("; ".join(pairs) + ".", "")
        for name, records in flat.items():
            if is_records(records):
                if name != "results":
                    yield from (f"**{name.replace('_', ' ')}**", "")
                yield from rendered(records)
    elif is_records(value):
        tables: dict[tuple, list[dict]] = {}
        for record in value:
            flat = dict(flattened(record))
            tables.setdefault(tuple(flat), []).append(flat)
        for columns, records in tables.items():
            yield from table(columns, records)
    else:
        yield from (shown(value), "")


def flattened(record: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values, those of nested records under joined names."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def is_records(value: Any) -> bool:
    """Tell whether a value is a list of records."""
    return isinstance(value, list) and any(isinstance(one, dict) for one in value)


def table(columns: tuple, records: list[dict]) -> Iterator[str]:
    """Yield a list-table."""
    yield from (".. list-table::", "   :header-rows: 1", "")
    yield from row([name.replace("_", " ") for name in columns])
    for record in records[:MOST_RECORDS]:
        yield from row([shown(record[name]) for name in columns])
    yield ""
    if len(records) > MOST_RECORDS:
        yield from (f"The file has {len(records) - MOST_RECORDS:,} more.", "")


def row(cells: list[str]) -> Iterator[str]:
    """Yield one row of a list-table."""
    for number, cell in enumerate(cells):
        yield f"   {' ' if number else '*'} - {cell}".rstrip()


def shown(value: Any) -> str:
    """Return a value as text: numbers with four digits, text without markup."""
    if value is None:
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        few = ", ".join(shown(one) for one in value[:8])
        return f"{few}, … ({len(value)})" if len(value) > 8 else few or "\u2013"
    text = " ".join(str(value).split())
    return "".join("\\" + c if c in "\\*_`|:" else c for c in text) or "\u2013"


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path(sys.argv[2])))
