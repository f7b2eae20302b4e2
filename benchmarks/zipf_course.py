"""How well Zipf's law fits the densities of features as training goes on.

    python benchmarks/zipf_course.py --folder activations
    python benchmarks/zipf_course.py --folder activations --small   # some minutes

Mutual Choice, which leaves the densities free, gets its rows in parts of growing size;
after each, densities are those of rows held out.
"""

from __future__ import annotations

from results_file import add, read
from study.cells import ESTIMATORS, MIDDLE, SMALL
from study.judge import codes_at_k, zipf
from study.options import parser
from study.rows import load

from skchoice import metrics

FIRST = 5_000  # rows of the first part; each part doubles what came before


def main() -> None:
    """Fit the parts one after the other; a course is run whole or not at all."""
    options = parser(__doc__, "zipf_course").parse_args()
    group, size = ("small", SMALL["lm"]) if options.small else ("middle", MIDDLE)
    if any(one["group"] == group for one in read(options.out).values()):
        return
    rows = load("lm", options.folder)
    names = ("n_features", "k", "batch_size", "learning_rate")
    sae = ESTIMATORS["mutual"](**{n: size[n] for n in names}, random_state=0)
    found, start, stop = {}, 0, FIRST
    while start < size["tokens"]:
        sae.partial_fit(rows.train[start:stop])
        codes = codes_at_k(sae, rows.held_out)[1]
        found[f"{group}/{stop}"] = {
            "group": group,
            "n_tokens": stop,
            "fvu": metrics.fvu(rows.held_out, sae.inverse_transform(codes)),
            **zipf(metrics.density(codes)),
        }
        print(found[f"{group}/{stop}"], flush=True)
        start, stop = stop, min(2 * stop, size["tokens"])
    for key, one in found.items():
        add(options.out, key, one)


if __name__ == "__main__":
    main()
