"""How the study judges a fit, and what it makes of figures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from study import claims, tables
from study.judge import codes_at_k, judge

X = load_digits().data.astype(np.float32)
TRAIN, NEW = X[:1400], X[1400:]


@pytest.fixture(
    params=[
        (FeatureChoiceSAE, "relative"),
        (MutualChoiceSAE, "absolute"),
        (MutualChoiceSAE, "relative"),
        (TokenChoiceSAE, "absolute"),
    ],
    ids=lambda one: f"{one[0].__name__}-{one[1]}",
    scope="module",
)
def sae(request):
    choice, importance = request.param
    return choice(
        64, 6, importance=importance, batch_size=200, max_iter=10, random_state=0
    ).fit(TRAIN)


def test_shipped_codes_are_those_of_transform(sae):
    shipped, codes = codes_at_k(sae, NEW)
    expected = sae.transform(NEW)
    # Of codes up to 36, a few last digits of a float32 may differ.
    np.testing.assert_allclose(
        shipped.toarray(), expected.toarray(), rtol=2e-7, atol=1e-5
    )
    assert metrics.l0(codes) == pytest.approx(6, abs=0.02)


def test_at_equal_l0_all_thresholds_have_one_factor(sae):
    if isinstance(sae, TokenChoiceSAE):
        pytest.skip("has none")
    codes = codes_at_k(sae, NEW)[1]
    x = NEW - sae.decoder_bias_
    relative = sae.importance == "relative"
    sizes = np.linalg.norm(x, axis=1) if relative else np.ones(len(x))
    acts = x / sizes[:, None] @ sae.encoder_weights_.T + sae.encoder_bias_
    margins = np.where(acts > 0, acts, 0) / sae.thresholds_
    kept = np.sort(margins[codes.toarray() > 0]), margins[codes.toarray() == 0]
    assert kept[0][0] >= kept[1].max() * (1 - 1e-5)


def test_silent_features_are_looked_for_in_all_rows(sae):
    found = judge(sae, TRAIN, NEW)
    rows = np.concatenate([NEW, TRAIN])
    silent = sae.transform(rows).getnnz(0) == 0
    assert (found["dead"], found["dead_rows"]) == (silent.sum(), len(rows))
    assert 0 < found["fvu"] < 1
    assert found["l0_std"] > 0 or isinstance(sae, TokenChoiceSAE)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-0.02, -0.03, -0.02], "confirmed"),
        ([0.02, 0.03, 0.02], "refuted"),
        ([-0.02, -0.03, -0.01], "undecided"),
        ([-0.02, 0.03, -0.01], "undecided"),
        ([-0.02], "undecided (one seed)"),
    ],
)
def test_a_difference_is_one_if_it_is_larger_than_its_error(differences, expected):
    assert claims.verdict(differences) == expected


def cell(group, data, label, seed, fvu):
    return {"group": group, "data": data, "label": label, "seed": seed, "fvu": fvu}


def test_the_baseline_is_the_best_learning_rate_and_seeds_are_paired():
    results = {
        str(number): cell("large", "lm", *one)
        for number, one in enumerate(
            [
                ("token, 1", 0, 0.5),
                ("token, 2", 0, 0.4),
                ("token, 2", 1, 0.2),
                ("mutual", 1, 0.1),
                ("mutual", 0, 0.3),
                ("mutual", 2, 9.0),
            ]
        )
    }
    assert tables.best_token(results, "large", "lm") == "token, 2"
    text = claims.lower("mutual", None, "large", "lm")(results, {})[1]
    assert "-37.5 ± 17.7 %, 2 seeds" in text
    assert claims.lower("mutual", None, "wide", "lm")(results, {}) is None


def test_of_equal_importance_the_baseline_is_the_best_of_the_small_table():
    results = {
        str(number): cell(*one)
        for number, one in enumerate(
            [
                ("small", "lm", "token, 1", 0, 0.5),
                ("small", "lm", "token, 2", 0, 0.4),
                ("small", "lm", "token, 2", 1, 0.4),
                ("importance", "lm", "token, relative", 0, 0.1),
                ("importance", "lm", "mutual, absolute", 0, 0.2),
                ("importance", "lm", "mutual, absolute", 1, 0.22),
            ]
        )
    }
    claim = claims.importance("mutual, absolute", None, "lm")
    assert "of token, 2, -47.5 ± 3.5 %, 2 seeds" in claim(results, {})[1]


def test_every_dead_feature_of_feature_choice_is_told():
    one = cell("large", "lm", "feature, zipf", 0, 0.1) | {
        "estimator": "feature",
        "settings": {"n_features": 8},
        "dead_rows": 100,
        "dead": 0,
    }
    other = one | {"dead": 3, "seed": 1, "dead_rows": 200}
    mutual = one | {"estimator": "mutual", "dead": 5}
    verdict, figures = claims.no_dead({"a": one, "b": other, "c": mutual}, {})
    assert verdict == "none in 1 of 2 fits"
    assert figures.endswith(
        "up to 200; dead: 3 of 8 in large lm: feature, zipf, seed 1"
    )


def test_claims_say_nothing_where_nothing_was_run():
    assert [claim({}, {}) for _, claim in claims.CLAIMS] == [None] * len(claims.CLAIMS)


# ------------------------------------------------------------- beside the tables


def test_the_claim_about_caps_takes_the_larger_size():
    recovered = {"middle": (0.9, 0.7), "small": (0.5, 0.6)}
    losses = {
        f"{group}/{label}": {"group": group, "data": "lm", "label": label, "seed": 0}
        | {"recovered": value, "interval": (value, value)}
        for group, values in recovered.items()
        for label, value in zip(
            ("feature, zipf", "feature, uniform"), values, strict=True
        )
    }
    verdict, figures = claims.uniform({}, losses)
    assert verdict == "confirmed" and figures.startswith("0.2000 more")
    losses = {name: one for name, one in losses.items() if one["group"] == "small"}
    assert claims.uniform({}, losses)[0] == "refuted in this size"
    for one in losses.values():
        one["recovered"] += 0.35
    assert claims.uniform({}, losses)[0].startswith("cannot be here")


def test_labels_know_where_a_token_is():
    pytest.importorskip("transformers")
    import probes

    tokens = np.zeros(600, [("token_id", "i4"), ("document", "i8"), ("position", "i4")])
    tokens["token_id"] = np.arange(600) % 2
    tokens["document"] = np.repeat([1, 3], [500, 100])
    tokens["position"] = np.arange(600) % 100 + 1  # position 0 of a context is no row
    kinds, sorts = np.array(["?", "code", "?", "prose"]), np.array(["even", "odd"])
    found = probes.labels_of(tokens, kinds, sorts)
    assert found["kind of text"].tolist() == ["code"] * 500 + ["prose"] * 100
    early = [name == "beginning" for name in found["part of document"]]
    assert early == [True] * 256 + [False] * 244 + [True] * 100
    expected = np.array(["odd", "even"] * 300)
    expected[99::100] = probes.UNKNOWN
    assert found["next token"].tolist() == expected.tolist()


def test_probes_are_judged_on_what_is_known():
    pytest.importorskip("transformers")
    import probes

    y = np.array(["a", "b", "c", probes.UNKNOWN] * 30)
    columns = np.float32(y[:, None] == np.array(["a", "b", "c"]))
    right, found = probes.judged(columns, y, columns[:40], y[:40])
    assert right.all() and len(right) == 30
    assert (found["accuracy"], found["n_fitted"], found["n_judged"]) == (1.0, 90, 30)
    assert found["most_frequent"] == pytest.approx(1 / 3)


def test_a_gain_has_an_interval_over_documents():
    pytest.importorskip("transformers")
    import probes

    document = np.repeat([3, 5, 8, 9], [50, 30, 20, 100])
    other = np.arange(200) % 2 == 0
    assert probes.gain(other, other, document) == [0, 0, 0]
    # Right in one document alone, which may be drawn never or four times.
    mean, low, high = probes.gain(other | (document == 9), other, document)
    assert mean == 0.25 and low == 0 and high > 0.4


def test_a_dictionary_is_like_itself(sae):
    import stability

    found = stability.alike(sae, sae)
    assert found["mean_max_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["over_0.7"] == 1 > found["to_random"] > 0
