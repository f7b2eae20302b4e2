"""What the paper says, and what the results say to it.

Each claim is a function of the results that returns a verdict and the figures for it,
or None where the cells it needs have not been run. A difference counts as one if its
mean over seeds is more than twice its standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import mean, stdev

from study.tables import Cells, best_token, of, percent, relative, spread

Verdict = tuple[str, str]
ZIPF, LEARNED = "feature, zipf", "feature, learned"


def verdict(differences: list[float]) -> str:
    """Say whether a difference, which the claim has below zero, is there."""
    if len(differences) < 2:
        return "undecided (one seed)"
    error = stdev(differences) / sqrt(len(differences))
    if mean(differences) < -2.0 * error:
        return "confirmed"
    return "refuted" if mean(differences) > 2.0 * error else "undecided"


def lower(ours: str, others: str | None, group: str, data: str) -> Callable:
    """Return the claim that one row of a table has a lower FVU than another."""

    def claim(results: Cells, losses: Cells) -> Verdict | None:
        name = others or best_token(results, group, data)
        found = of(results, group, data, ours), of(results, group, data, name)
        differences = relative(*found)
        if not differences:
            return None
        fvus = " against ".join(spread(c["fvu"] for c in one.values()) for one in found)
        return (
            verdict(differences),
            f"{group} {data}: {ours} {fvus} of {name}, {percent(differences)}, "
            f"{len(differences)} seeds",
        )

    return claim


def no_dead(group: str, data: str, *rows: str) -> Callable:
    """Return the claim that no feature is dead."""

    def claim(results: Cells, losses: Cells) -> Verdict | None:
        cells = [c for row in rows for c in of(results, group, data, row).values()]
        if not cells:
            return None
        dead, least = max(c["dead"] for c in cells), min(c["dead_rows"] for c in cells)
        width = cells[0]["settings"]["n_features"]
        return (
            "refuted" if dead else "confirmed",
            f"at most {dead} of {width:,} without a nonzero code in {least:,} rows or "
            f"more, {len(cells)} fits",
        )

    return claim


def zipf(results: Cells, losses: Cells) -> Verdict | None:
    """The densities of Mutual Choice follow Zipf's law."""
    cells = of(results, "large", "lm", "mutual").values()
    if not cells:
        return None
    middle = [c["zipf_r2_middle"] for c in cells]
    return (
        "confirmed in the middle" if mean(middle) > 0.98 else "refuted",
        f"R² {spread((c['zipf_r2'] for c in cells), 3)} over all ranks, "
        f"{spread(middle, 3)} over the middle ones",
    )


def uniform(results: Cells, losses: Cells) -> Verdict | None:
    """Zipf caps recover over 10% more of the loss than uniform ones."""
    for group in ("middle", "small"):  # the larger, where it was run
        arms = {
            name: of(losses, group, "lm", name)
            for name in ("feature, zipf", "feature, uniform")
        }
        zipf, flat = arms.values()
        seeds = sorted(zipf.keys() & flat.keys())
        if seeds:
            break
    else:
        return None
    gains = [zipf[s]["recovered"] - flat[s]["recovered"] for s in seeds]
    intervals = ", ".join(
        f"{name} {one[seeds[0]]['recovered']:.4f} "
        f"[{one[seeds[0]]['interval'][0]:.4f}, {one[seeds[0]]['interval'][1]:.4f}]"
        for name, one in arms.items()
    )
    kept = [
        (1 - flat[s]["recovered"]) / (1 - zipf[s]["recovered"]) - 1.0 for s in seeds
    ]
    return (
        "confirmed" if min(gains) > 0.10 else "refuted in this size",
        f"{spread(gains, 4)} more of the loss recovered ({intervals} of the first "
        f"seed); uniform caps lose {percent(kept)} more",
    )


def overfits(results: Cells, losses: Cells) -> Verdict | None:
    """Mutual Choice overfits more than Token Choice."""
    token = best_token(results, "large", "lm")
    rows = [of(results, "large", "lm", name) for name in ("mutual", token)]
    seeds = sorted(rows[0].keys() & rows[1].keys())
    if not seeds:
        return None
    gaps = [[one[s]["fvu"] / one[s]["fvu_train"] - 1 for s in seeds] for one in rows]
    more = [theirs - ours for ours, theirs in zip(*gaps, strict=True)]
    return (
        verdict(more),
        f"held-out FVU over that of training rows: Mutual {percent(gaps[0])}, "
        f"Token {percent(gaps[1])}",
    )


CLAIMS: list[tuple[str, Callable[[Cells, Cells], Verdict | None]]] = [
    (
        "Mutual Choice reconstructs better than Token Choice at equal L0",
        lower("mutual", None, "large", "lm"),
    ),
    (
        "Feature Choice (Zipf) reconstructs better than Token Choice",
        lower(ZIPF, None, "large", "lm"),
    ),
    (
        "Feature Choice (Zipf) reconstructs better than Mutual Choice",
        lower(ZIPF, "mutual", "large", "lm"),
    ),
    (
        "Feature Choice (learned caps) reconstructs better than Mutual Choice",
        lower(LEARNED, "mutual", "large", "lm"),
    ),
    (
        "Feature Choice (Zipf) is better than Mutual Choice at four times the width",
        lower(ZIPF, "mutual", "wide", "lm"),
    ),
    ("Feature Choice has no dead features", no_dead("large", "lm", ZIPF, LEARNED)),
    (
        "Nor has it at four times the width",
        no_dead("wide", "lm", "feature, zipf"),
    ),
    ("Feature densities follow Zipf's law (R² 0.982 and 0.996)", zipf),
    ("Zipf caps recover over 10% more of the loss than uniform ones", uniform),
    ("Mutual Choice risks overfitting", overfits),
    (
        "Mutual Choice first is better than Feature Choice from the start",
        lambda results, losses: lower(
            "feature, zipf", "feature, direct", "variants", "lm"
        )(_with_small(results), losses),
    ),
]


def _with_small(results: Cells) -> Cells:
    """Return the small cells of the language model as variants, too."""
    more = {
        f"variants {key}": {**cell, "group": "variants"}
        for key, cell in results.items()
        if (cell["group"], cell["data"]) == ("small", "lm")
    }
    return results | more
