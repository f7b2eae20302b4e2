"""What the paper says, and what the results say to it.

Each claim is a function of the results that returns a verdict and the figures for it,
or None where the cells it needs have not been run. A difference counts as one if the
95% interval of its mean over seeds leaves out zero.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import mean, stdev

from scipy.stats import t

from study.tables import Cells, best_token, of, percent, relative, spread

Verdict = tuple[str, str]
ZIPF, LEARNED = "feature, zipf", "feature, learned"
_PAPER_R2 = 0.982, 0.996  # over all ranks, and the middle ones


def verdict(differences: list[float]) -> str:
    """Say whether a difference, which the claim has below zero, is there."""
    if len(differences) < 2:
        return "undecided (one seed)"
    n = len(differences)
    interval = t.ppf(0.975, n - 1) * stdev(differences) / sqrt(n)
    if mean(differences) < -interval:
        return "confirmed"
    return "refuted" if mean(differences) > interval else "undecided"


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


def no_dead(results: Cells, losses: Cells) -> Verdict | None:
    """No feature of Feature Choice is dead, whatever the data and the settings."""
    cells = [c for c in results.values() if c["estimator"] == "feature"]
    if not cells:
        return None
    dead = [c for c in cells if c["dead"]]
    where = ", ".join(
        f"{c['dead']} of {c['settings']['n_features']:,} in {c['group']} {c['data']}: "
        f"{c['label']}, seed {c['seed']}"
        for c in dead
    )
    rows, widest = (
        max(one)
        for one in zip(
            *((c["dead_rows"], c["settings"]["n_features"]) for c in cells), strict=True
        )
    )
    return (
        f"none in {len(cells) - len(dead)} of {len(cells)} fits",
        f"of up to {widest:,} features, in all rows there are, up to {rows:,}"
        + (f"; dead: {where}" if dead else ""),
    )


def zipf(results: Cells, losses: Cells) -> Verdict | None:
    """The densities of Mutual Choice follow Zipf's law as well as in the paper."""
    cells = of(results, "large", "lm", "mutual").values()
    if not cells:
        return None
    found = [[c[name] for c in cells] for name in ("zipf_r2", "zipf_r2_middle")]
    as_well = [mean(r2) >= paper for r2, paper in zip(found, _PAPER_R2, strict=True)]
    return (
        "confirmed" if all(as_well) else "less so here",
        f"R² {spread(found[0], 3)} over all ranks, {spread(found[1], 3)} over the "
        "middle ones",
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
    room = 1 - min(flat[s]["recovered"] for s in seeds)
    found = "confirmed" if min(gains) > 0.10 else "refuted in this size"
    return (
        found if room > 0.10 else "cannot be here: uniform caps lose too little",
        f"{spread(gains, 4)} more of the loss recovered ({intervals} of the first "
        f"seed); uniform caps lose {percent(kept)} more",
    )


def overfits(results: Cells, losses: Cells) -> Verdict | None:
    """Mutual Choice overfits more than Token Choice, in several passes."""
    rows = [
        of(results, "length", "lm", f"{name}, 3 passes") for name in ("mutual", "token")
    ]
    seeds = sorted(rows[0].keys() & rows[1].keys())
    if not seeds:
        return None
    gaps = [[one[s]["fvu"] / one[s]["fvu_train"] - 1 for s in seeds] for one in rows]
    more = [theirs - ours for ours, theirs in zip(*gaps, strict=True)]
    return (
        verdict(more),
        f"held-out FVU over that of training rows, after three passes: Mutual "
        f"{percent(gaps[0])}, Token {percent(gaps[1])}, {len(seeds)} seeds",
    )


def joined(groups: dict[str, str], claim: Callable) -> Callable:
    """Return the claim with the cells of some groups added to another."""

    def of_both(results: Cells, losses: Cells) -> Verdict | None:
        more = {
            f"{groups[cell['group']]} {key}": {**cell, "group": groups[cell["group"]]}
            for key, cell in results.items()
            if cell["group"] in groups
        }
        return claim(results | more, losses)

    return of_both


def importance(ours: str, others: str | None, data: str) -> Callable:
    """Return the claim of two rows, of which one may be in the tables of importance.

    Without the other it is Token Choice as published, at its best learning rate.
    """

    def claim(results: Cells, losses: Cells) -> Verdict | None:
        name = others or best_token(results, "small", data)
        both = joined({"small": "importance"}, lower(ours, name, "importance", data))
        return both(results, losses)

    return claim


_BETTER = "reconstructs better than"
CLAIMS: list[tuple[str, Callable[[Cells, Cells], Verdict | None]]] = [
    *(
        (f"{name} {_BETTER} Token Choice at equal L0", lower(row, None, group, data))
        for name, row in (("Mutual Choice", "mutual"), ("Feature Choice (Zipf)", ZIPF))
        for group, data in (("large", "lm"), ("small", "minilm"), ("small", "digits"))
    ),
    *(
        (
            f"{name} {_BETTER} Token Choice, both with absolute importance",
            importance(f"{row}, absolute", None, data),
        )
        for name, row in (("Mutual Choice", "mutual"), ("Feature Choice", "feature"))
        for data in ("lm", "minilm", "digits")
    ),
    *(
        (
            f"{name} {_BETTER} Token Choice, both with relative importance",
            importance(row, "token, relative", data),
        )
        for name, row in (("Mutual Choice", "mutual"), ("Feature Choice", ZIPF))
        for data in ("lm", "minilm", "digits")
    ),
    *(
        (f"Feature Choice ({caps}) {_BETTER} Mutual Choice", lower(row, *others))
        for caps, row in (("Zipf", ZIPF), ("learned caps", LEARNED))
        for others in (
            ("mutual", "large", "lm"),
            ("mutual", "wide", "lm"),
            ("mutual", "small", "minilm"),
            ("mutual", "small", "digits"),
        )
    ),
    ("Feature Choice has no dead features", no_dead),
    ("Feature densities follow Zipf's law (R² 0.982 and 0.996)", zipf),
    ("Zipf caps recover over 10% more of the loss than uniform ones", uniform),
    ("Mutual Choice risks overfitting", overfits),
    (
        "Mutual Choice first is better than Feature Choice from the start",
        joined({"small": "variants"}, lower(ZIPF, "feature, direct", "variants", "lm")),
    ),
]
