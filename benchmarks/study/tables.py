"""Results of many seeds as tables: mean and standard deviation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import mean, stdev

Cells = dict[str, dict]


def of(results: Cells, group: str, data: str, label: str) -> dict[int, dict]:
    """Return the cells of one row of a table, by seed."""
    return {
        cell["seed"]: cell
        for cell in results.values()
        if (cell["group"], cell["data"], cell["label"]) == (group, data, label)
    }


def labels(results: Cells, group: str, data: str) -> list[str]:
    """Return the rows of a table, in the order of the results."""
    found = (c for c in results.values() if (c["group"], c["data"]) == (group, data))
    return list(dict.fromkeys(cell["label"] for cell in found))


def best_token(results: Cells, group: str, data: str) -> str | None:
    """Return the row of Token Choice with the best learning rate of the first seed."""
    found = {
        label: of(results, group, data, label).get(0)
        for label in labels(results, group, data)
        if label.startswith("token")
    }
    found = {label: cell["fvu"] for label, cell in found.items() if cell}
    return min(found, key=found.__getitem__) if found else None


def relative(ours: dict[int, dict], others: dict[int, dict]) -> list[float]:
    """Return by how much our FVU is above the others', seed by seed."""
    return [
        ours[seed]["fvu"] / others[seed]["fvu"] - 1.0
        for seed in sorted(ours.keys() & others.keys())
    ]


def spread(values: Iterable[float], digits: int = 4, scale: float = 1.0) -> str:
    """Return mean and standard deviation as text."""
    values = [scale * value for value in values]
    if not values:
        return "n/a"
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def percent(values: Iterable[float]) -> str:
    """Return mean and standard deviation in percent."""
    text = spread(values, 1, 100.0)
    return text if text == "n/a" else f"{text} %"


COLUMNS = (
    ("seeds", lambda cells: str(len(cells))),
    ("FVU at L0 = k", lambda cells: spread(c["fvu"] for c in cells)),
    ("FVU, shipped", lambda cells: spread(c["fvu_shipped"] for c in cells)),
    ("L0, shipped", lambda cells: spread((c["l0_shipped"] for c in cells), 2)),
    ("FVU, train", lambda cells: spread(c["fvu_train"] for c in cells)),
    ("dead", lambda cells: spread((c["dead"] for c in cells), 1)),
    ("in rows", lambda cells: f"{min(c['dead_rows'] for c in cells):,}"),
    ("underused", lambda cells: spread((last(c, "n_underused") for c in cells), 0)),
    ("Zipf R², all", lambda cells: spread((c["zipf_r2"] for c in cells), 3)),
    ("middle", lambda cells: spread((c["zipf_r2_middle"] for c in cells), 3)),
    ("spread of L0", lambda cells: spread((c["l0_std"] for c in cells), 1)),
    ("L0 ~ error", lambda cells: spread((c["l0_of_difficulty"] for c in cells), 2)),
    ("bits", lambda cells: spread((bits(c) for c in cells), 0)),
)


def bits(cell: dict) -> float:
    """Return the bits per row of the whole description."""
    return sum(cell[f"bits_{part}"] for part in ("features", "values", "error"))


def last(cell: dict, name: str) -> float:
    """Return what the last record of training says."""
    return cell["history"][-1][name]


def table(results: Cells, group: str, data: str) -> Iterator[list[str]]:
    """Yield the rows of a table, the first its heading."""
    yield ["", *(name for name, _ in COLUMNS)]
    for label in labels(results, group, data):
        cells = list(of(results, group, data, label).values())
        yield [label, *(column(cells) for _, column in COLUMNS)]
