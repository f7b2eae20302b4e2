"""The comparison with other libraries, from the committed results of its benchmark.

python docs/render_peers.py    # brings the table of README.md up to date
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
WITHOUT_BFLOAT16 = RESULTS.with_name("peers_avx2.json")
BEGIN, END = "<!-- peers: python docs/render_peers.py -->\n", "<!-- end of peers -->"
NONE = "\u2013"
RULES = {"mutual": "BatchTopK", "token": "TopK", "feature": "Feature Choice"}
OURS = {
    "mutual": "MutualChoiceSAE",
    "token": "TokenChoiceSAE",
    "feature": "FeatureChoiceSAE",
}


def name(record: dict) -> str:
    """Return what a record is of, without its variant."""
    if record["package"] == "skchoice":
        return OURS[record["rule"]]
    return f"{record['package']}, {RULES[record['rule']]}"


def read(path: Path) -> list[dict]:
    """Return the records of a file of results."""
    return json.loads(path.read_text(encoding="utf-8"))["results"]


def table(results: list[dict], without_bfloat16: list[dict]) -> str:
    """Return the table of the README, in Markdown.

    Of each peer the best of its variants in float32, in each column by itself; of ours
    the variant that does the same work, without an auxiliary loss.
    """
    lines = [
        "| | ours is faster by | with AVX2 alone | FVU at L0 = k |",
        "|---|---|---|---|",
    ]
    with_it, without_it = _timed(results), _timed(without_bfloat16)
    for rule in ("mutual", "feature", "token"):
        group = [one for one in with_it if one["rule"] == rule]
        for label in dict.fromkeys(map(name, group)):
            own = [one for one in group if name(one) == label]
            other = [one for one in without_it if name(one) == label]
            ours = own[0]["package"] == "skchoice"
            if ours:
                own = [one for one in own if one["variant"] == "no auxiliary"]
            factors = [NONE, NONE] if ours else [_factor(own), _factor(other)]
            errors = [one["fvu_at_k"] for one in own if "fvu_at_k" in one]
            fvu = f"{min(errors):.3f}" if errors else NONE
            cells = [f"**{label}**" if ours else label, *factors, fvu]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _timed(results: list[dict]) -> list[dict]:
    """Return the records with times of variants in float32."""
    return [
        one for one in results if "bfloat16" not in one["variant"] and "step_ms" in one
    ]


def _factor(variants: list[dict]) -> str:
    """Return the time of the best variant in steps of ours."""
    return f"{min(one['times_ours'] for one in variants):.1f}\u00d7"


def readme(text: str, results: list[dict], without_bfloat16: list[dict]) -> str:
    """Return the README with the table between its marks made anew."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    made = table(results, without_bfloat16)
    return before + BEGIN + "\n" + made + "\n" + END + after


def plot(results: list[dict], path: Path) -> None:
    """Draw the time of each variant of each library, over the product's."""
    from matplotlib.figure import Figure

    timed = [one for one in results if "step_ms" in one]
    timed.sort(key=lambda one: (one["rule"] == "token", one["ratio"]))
    figure = Figure(figsize=(7, 0.3 * len(timed) + 1), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(timed):
        ratio = one["ratio"]
        spread = [[ratio - one["ratio_low"]], [one["ratio_high"] - ratio]]
        colour = "C1" if one["package"] == "skchoice" else "C0"
        axes.barh(place, ratio, color=colour, xerr=spread, ecolor="0.4")
    labels = [f"{name(one)} ({one['variant']})" for one in timed]
    axes.set_yticks(range(len(timed)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, color="0.4", linewidth=0.8)
    axes.set_xlabel("time of a step over that of its one encoder product")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    target = ROOT / "README.md"
    text = target.read_text(encoding="utf-8")
    made = readme(text, read(RESULTS), read(WITHOUT_BFLOAT16))
    target.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
