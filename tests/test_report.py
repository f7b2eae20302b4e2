"""What a report measures, against plain definitions; and what its file holds."""

import base64
import gzip
import json
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

import skchoice
from skchoice import metrics
from skchoice.pages import neighbours, text
from skchoice.pages.features import N_BANDS, N_BINS, feature_matches
from skchoice.pages.overview import Totals, underused
from skchoice.pages.spool import Spool
from skchoice.pages.text import Windows, legible
from skchoice.store import TOKEN, ActivationStore, StoreWriter


def made_up_codes(n_rows, n_features, seed=0):
    """Codes of varied density; the last feature is silent, and many values tie."""
    rng = np.random.default_rng(seed)
    density = np.append(0.7 / np.arange(1, n_features), 0.0)
    matches = rng.random((n_rows, n_features)) < density
    return (matches * rng.integers(1, 9, matches.shape)).astype(np.float32)


def packed_in(page):
    """Return the data of a page, and the details of all its features."""
    source = page.read_text(encoding="utf-8")

    def unpacked(text):
        return json.loads(gzip.decompress(base64.b64decode(text)))

    found = re.findall(
        r'<script type="text/plain" id="([\w-]+)">(.*?)</script>', source
    )
    packs = {name: unpacked(text) for name, text in found}
    data = packs.pop("data")
    ordered = [packs[f"pack-{number}"] for number in range(len(packs))]
    return data, [details for pack in ordered for details in pack]


# -------------------------------------------------------------------------- the spool


@given(
    n_rows=st.integers(1, 40),
    n_features=st.integers(2, 12),
    chunk=st.integers(1, 15),
    limit=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_the_spool_gives_back_what_came(
    tmp_path_factory, n_rows, n_features, chunk, limit, seed
):
    codes = made_up_codes(n_rows, n_features, seed)
    with Spool(n_features, tmp_path_factory.getbasetemp(), limit) as spool:
        for first in range(0, n_rows, chunk):
            spool.append(sp.csr_matrix(codes[first : first + chunk]))
        spool.flush()
        assert spool.n_rows == n_rows
        assert_array_equal(spool.counts, (codes != 0).sum(0))
        blocks = list(spool.blocks())
        for first, stop in blocks:
            block = spool.read(first, stop)
            assert_array_equal(block.toarray(), codes[:, first:stop])
            assert block.has_sorted_indices
            assert block.nnz <= limit or stop == first + 1
            pairs = list(spool.segments(first, stop))
            for part, columns in ((0, slice(None)), (1, slice(first, stop))):
                whole = sp.vstack([pair[part] for pair in pairs]).toarray()
                assert_array_equal(whole, codes[:, columns])
        edges = [first for first, _ in blocks] + [n_features]
        assert blocks == list(pairwise(edges))


# ----------------------------------------------------------------------- the overview


def test_totals_are_the_metrics_of_all_rows_and_of_each_class(X, tmp_path):
    rng = np.random.default_rng(0)
    x = X.astype(np.float32) + 100.0  # far from zero, where squares cancel
    x_hat = x + rng.normal(size=x.shape).astype(np.float32)
    codes = sp.csr_matrix(made_up_codes(len(x), 30))
    labels = rng.choice(["b", "a", "c"], len(x), p=[0.7, 0.2, 0.1])
    totals = Totals(x[0], labels)
    for part in np.array_split(np.arange(len(x)), 7):
        totals.add(x[part], codes[part], x_hat[part])
    found = totals.overview()

    assert found.n_rows == len(x)
    expected = metrics.explained_variance(x, x_hat)
    assert found.explained_variance == pytest.approx(expected, abs=1e-9)
    l0 = metrics.l0_per_token(codes)
    assert found.l0 == pytest.approx(l0.mean())
    assert_array_equal(found.l0_counts, np.bincount(l0))
    mean = x.mean(0, dtype=np.float64)
    assert [one.name for one in found.classes] == ["a", "b", "c"]
    for one in found.classes:
        here = labels == one.name
        error = np.square(x[here] - x_hat[here].astype(float)).sum()
        variance = np.square(x[here] - mean).sum()
        assert one.n_rows == here.sum()
        assert one.explained_variance == pytest.approx(1 - error / variance, abs=1e-9)
        assert one.l0 == pytest.approx(l0[here].mean())


def test_rare_classes_are_one(X):
    labels = np.concatenate([np.repeat(np.arange(15), 30), np.arange(100, 250)])
    totals = Totals(X.mean(0), labels)
    codes = sp.csr_matrix(np.ones((600, 2)))
    totals.add(X, codes, X)
    classes = totals.overview().classes
    assert [one.name for one in classes] == [str(n) for n in range(15)] + ["others"]
    assert classes[-1].n_rows == 150
    assert all(one.explained_variance == 1.0 for one in classes)


def test_underused_features_fall_far_below_the_law():
    density = 0.5 / np.arange(1, 1001)
    density[[700, 800]] *= 0.05
    density[900] = 0.0
    mask = underused(density, n_rows=1_000_000)
    assert_array_equal(np.flatnonzero(mask), [700, 800])
    # On few rows a tenth of the target is less than a match: nothing can be said.
    assert not underused(density, n_rows=10_000).any()
    assert not underused(np.zeros(5), n_rows=10).any()


# --------------------------------------------------------------------------- features


@given(
    n_rows=st.integers(1, 60),
    width=st.integers(0, 4),
    n_contexts=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_contexts_are_those_of_the_definition(n_rows, width, n_contexts, seed):
    codes = made_up_codes(n_rows, 5, seed)
    rng = np.random.default_rng(seed)
    document = np.sort(rng.integers(0, 4, n_rows))
    position = np.arange(n_rows) + (rng.random(n_rows) < 0.1).cumsum()
    windows = Windows(n_rows, width, document, position)

    def window(row):
        first = stop = row
        while first > 0 and row - first < width and together(first - 1, first):
            first -= 1
        while stop < n_rows - 1 and stop - row < width and together(stop, stop + 1):
            stop += 1
        return first, stop + 1

    def together(one, other):
        same = document[one] == document[other]
        return same and position[other] == position[one] + 1

    found = list(feature_matches(sp.csc_array(codes), windows, n_contexts))
    for column, matches in zip(codes.T, found, strict=True):
        rows = np.flatnonzero(column)
        assert matches.count == len(rows)
        if not len(rows):
            assert matches.top == matches.bands == [] and matches.largest == 0.0
            continue
        values = column[rows]
        assert matches.largest == values.max()
        assert matches.mean == pytest.approx(values.mean())
        edges = np.linspace(0, values.max(), N_BINS + 1)
        assert_array_equal(matches.histogram, np.histogram(values, edges)[0])
        expected, covered = [], set()
        for row in sorted(rows, key=lambda row: (-column[row], row)):
            if len(expected) < n_contexts and row not in covered:
                expected.append(row)
                covered |= set(range(*window(row)))
        assert [context.row for context in matches.top] == expected
        assert (matches.bands == []) == (set(rows) <= covered)
        for context in [*matches.top, *(c for band in matches.bands for c in band)]:
            first, stop = window(context.row)
            assert context.first == first
            assert_array_equal(context.values, column[first:stop])
            assert context.activation == column[context.row]


def test_bands_walk_down_all_matches():
    values = np.arange(1, 101, dtype=np.float32)
    np.random.default_rng(0).shuffle(values)
    (found,) = feature_matches(sp.csc_array(values[:, None]), Windows(100, 2), 10)
    shown = [[context.activation for context in band] for band in found.bands]
    assert shown == [[95, 85], [75, 65], [55, 45], [35, 25], [15, 5]]
    assert len(shown) == N_BANDS
    few = sp.csc_array(values[:3, None])
    assert next(feature_matches(few, Windows(3, 0), 10)).bands == []


# ------------------------------------------------------------------------- neighbours


def ranked_reference(scores, n):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_neighbours_are_those_of_the_dense_definition(tmp_path, monkeypatch, block):
    monkeypatch.setattr(neighbours, "_BLOCK_ENTRIES", block * 12)
    rng = np.random.default_rng(0)
    components = rng.normal(size=(12, 6)).astype(np.float32)
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    cosines = components @ components.T
    np.fill_diagonal(cosines, -np.inf)
    found = neighbours.nearest_by_cosine(components, 4)
    assert_allclose(found.score, ranked_reference(cosines, 4), atol=1e-6)
    assert_allclose(np.take_along_axis(cosines, found.which, 1), found.score, atol=1e-6)

    codes = made_up_codes(90, 12)
    fires = codes != 0
    both = fires.T.astype(int) @ fires
    either = fires.sum(0)[:, None] + fires.sum(0) - both
    jaccard = both / np.maximum(either, 1)
    np.fill_diagonal(jaccard, -1)
    with Spool(12, tmp_path, segment_matches=50) as spool:
        for part in np.array_split(codes, 5):
            spool.append(sp.csr_matrix(part))
        spool.flush()
        found = neighbours.nearest_by_cofiring(spool, 4)
    assert_allclose(found.score, ranked_reference(jaccard, 4), atol=1e-6)
    assert_allclose(np.take_along_axis(jaccard, found.which, 1), found.score, atol=1e-6)

    unembedding = rng.normal(size=(6, 30))
    boosted, suppressed = neighbours.boosted_and_suppressed(components, unembedding, 3)
    logits = components @ unembedding
    assert_allclose(boosted.score, ranked_reference(logits, 3), atol=1e-5)
    assert_allclose(suppressed.score, -ranked_reference(-logits, 3), atol=1e-5)
    assert_allclose(
        np.take_along_axis(logits, suppressed.which, 1), suppressed.score, atol=1e-5
    )


@pytest.mark.parametrize("n_rows", [1, 9000])
def test_a_full_disk_is_told(tmp_path, no_file_over, n_rows):
    codes = sp.csr_matrix(made_up_codes(n_rows, 12))
    with (
        no_file_over(0),
        pytest.raises(OSError, match="too large"),
        Spool(12, tmp_path) as spool,
    ):
        spool.append(codes)
        spool.flush()


# ------------------------------------------------------------------------------- text

HOSTILE = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "</script><script>window.hacked = 1</script>",
    "<!--",
    "${window.hacked=1}",
    "&lt;b&gt;",
    "\u202eevil\u202c",
    "\u2066isolate",
    "\x00\x1b[31m",
    "x" * 10_000,
    b"\xff\xfe invalid",
    "\udcff lone",
    "\u0301" * 500,
    "",
    "\n",
    "__proto__",
]


@given(st.text() | st.binary() | st.sampled_from(HOSTILE))
def test_what_is_shown_is_visible_and_bounded(token):
    shown = legible(token)
    assert 1 <= len(shown) < 600
    assert not {unicodedata.category(c) for c in shown} & text._UNSEEN
    assert not unicodedata.category(shown[0]).startswith("M")
    shown.encode("utf-8")


def test_plain_tokens_are_shown_as_they_are():
    for token in (" the", "naïve", "漢字", "שלום", "🙂", "<b>", "a b"):
        assert legible(token) == token
    assert legible("x" * 10_000) == "x" * 48 + "… (10,000 characters)"
    assert legible("\u202eevil") == "\\u202eevil"
    assert legible("\udcff") == "\\udcff"
    assert legible("a" + "\u0301" * 500).count("\u0301") == 2
    assert legible(b"caf\xc3\xa9 \xff") == "café \\xff"
    assert legible(12) == "12"


# --------------------------------------------------------------------- the whole page


@pytest.fixture(scope="module")
def told(X):
    """Return words for the rows of X, where they are from, and an unembedding."""
    rng = np.random.default_rng(0)
    return dict(
        tokens=[f" w{n}" for n in rng.integers(0, 40, len(X))],
        document=np.arange(len(X)) // 50,
        position=np.arange(len(X)) % 50,
        unembedding=rng.normal(size=(X.shape[1], 20)),
        vocabulary=[f" out{n}" for n in range(20)],
    )


def test_the_page_holds_what_transform_gives(fitted, X, told, tmp_path):
    page = skchoice.report(fitted, X, path=tmp_path / "a.html", **told, n_contexts=5)
    data, details = packed_in(page)
    codes = fitted.transform(X).toarray()
    counts = (codes > 0).sum(0)
    all_rows = data["overview"]

    assert data["table"]["count"] == counts.tolist()
    assert all_rows["n_rows"] == len(X) and all_rows["n_features"] == len(counts)
    assert all_rows["explained_variance"] == pytest.approx(fitted.score(X), abs=1e-6)
    assert all_rows["l0"] == pytest.approx((codes > 0).sum(1).mean())
    assert all_rows["n_dead"] == (counts == 0).sum()
    assert {one["name"] for one in all_rows["classes"]} == {"word, after a space"}
    assert len(details) == len(counts)
    logits = fitted.components_ @ told["unembedding"]
    for feature, shown in enumerate(details):
        assert len(shown["cosine"]) == 8
        best = int(logits[feature].argmax())
        assert shown["boosted"][0][0] == told["vocabulary"][best]
        assert shown["suppressed"][0][1] == pytest.approx(
            logits[feature].min(), rel=1e-2
        )
        if not counts[feature]:
            assert shown["top"] == []
            continue
        first = shown["top"][0]
        row = int(codes[:, feature].argmax())
        assert (first["row"], first["document"]) == (row, row // 50)
        assert first["tokens"][first["at"]] == told["tokens"][row]
        window = slice(row - first["at"], row - first["at"] + len(first["values"]))
        assert_allclose(first["values"], codes[window, feature], rtol=1e-2)
        assert first["tokens"] == told["tokens"][window]
        assert {row // 50} == set(
            range(window.start // 50, (window.stop - 1) // 50 + 1)
        )


def test_a_stream_that_knows_its_rows_gives_the_same_page(
    fitted, X, told, Lazy, tmp_path
):
    shown = {name: told[name] for name in ("tokens", "document", "position")}
    expected = skchoice.report(fitted, X, path=tmp_path / "a.html", **shown)
    lazy = Lazy(X)
    for name, values in shown.items():
        setattr(lazy, name, values)
    found = skchoice.report(fitted, lazy, path=tmp_path / "b.html")
    assert found.read_bytes() == expected.read_bytes()

    ids = Lazy(X)
    ids.token_ids = np.arange(len(X)) % 20
    named = skchoice.report(
        fitted, ids, path=tmp_path / "c.html", vocabulary=told["vocabulary"]
    )
    tokens = packed_in(named)[1][0]["top"][0]["tokens"]
    assert all(token.startswith(" out") for token in tokens)


def test_images_and_classes(fitted, X, tmp_path):
    classes = np.arange(len(X)) % 3
    page = skchoice.report(
        fitted, X, path=tmp_path / "a.html", image_shape=(3, 4), classes=classes
    )
    data, details = packed_in(page)
    assert data["image"] == [3, 4]
    direction = np.frombuffer(base64.b64decode(data["directions"][1]), np.uint8)
    component = fitted.components_[1] / np.abs(fitted.components_[1]).max()
    assert_allclose((direction - 128.0) / 127, component, atol=0.01)
    context = next(shown["top"][0] for shown in details if shown["top"])
    drawn = np.frombuffer(base64.b64decode(context["picture"]), np.uint8)
    scaled = (X[context["row"]] - X.min()) / (X.max() - X.min())
    assert_allclose(drawn / 255, scaled, atol=0.01)
    assert context["class"] == str(context["row"] % 3)
    assert [one["name"] for one in data["overview"]["classes"]] == ["0", "1", "2"]


def test_hostile_tokens_are_nowhere_in_the_source(fitted, X, tmp_path):
    tokens = [HOSTILE[row % len(HOSTILE)] for row in range(len(X))]
    page = skchoice.report(
        fitted,
        X,
        path=tmp_path / "a.html",
        tokens=tokens,
        title="</title><script>window.hacked = 1</script>\udcff",
        unembedding=np.eye(X.shape[1], len(HOSTILE)),
        vocabulary=HOSTILE,
    )
    source = page.read_text(encoding="utf-8")
    assert "hacked" in source and "<script>window.hacked" not in source
    assert source.count("<script>") == 1  # the page's own
    assert "onerror" not in source
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", source)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert len(source) < 300_000  # ten thousand characters are not repeated


def test_tokens_and_vocabulary_count_by_position(fitted, X, tmp_path):
    rng = np.random.default_rng(0)
    ids, vocabulary = rng.integers(0, 7, len(X)), list("abcdefg")
    tokens = np.array(vocabulary)[ids]
    unembedding = rng.standard_normal((X.shape[1], 7))
    shuffled = pd.Series(tokens, rng.permutation(len(X)))
    letters = pd.Series(vocabulary, rng.permutation(7))

    def shown(tokens, vocabulary):
        page = skchoice.report(
            fitted,
            X,
            tokens=tokens,
            vocabulary=vocabulary,
            unembedding=unembedding,
            path=tmp_path / "page.html",
        )
        return packed_in(page)

    expected = shown(tokens.tolist(), vocabulary)
    assert shown(shuffled, letters) == expected
    for numbers in (ids, ids.tolist(), torch.from_numpy(ids)):
        assert shown(numbers, vocabulary) == expected
    with pytest.raises(ValueError, match="ids of tokens go from 0 to 6, outside a voc"):
        skchoice.report(fitted, X, tokens=ids, vocabulary=["a"])
    with pytest.raises(ValueError, match="index i, got a mapping"):
        shown(tokens, {"a": 0})


def test_without_tokens_rows_are_numbers(fitted, X, tmp_path):
    data, details = packed_in(skchoice.report(fitted, X, path=tmp_path / "a.html"))
    top = next(shown["top"] for shown in details if shown["top"])
    assert set(top[0]) == {"row", "at", "values"} and len(top[0]["values"]) == 1
    assert data["overview"]["classes"] == []


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(tokens=["a"]), "tokens must have one entry for each of the 600 rows"),
        (dict(document=np.arange(5)), "document must have one entry"),
        (dict(classes=np.arange(5)), "classes must have one entry"),
        (dict(unembedding=np.ones((12, 3))), "unembedding needs vocabulary"),
        (
            dict(unembedding=np.ones((3, 12)), vocabulary=["a"] * 3),
            r"must have shape \(12, 3\)",
        ),
        (dict(image_shape=(5, 5)), "product is the number of columns"),
        (dict(image_shape=144), "product is the number of columns"),
        (dict(image_shape=(2.4, 5)), "product is the number of columns"),
        (dict(position=[np.nan] * 600), "position must be integers"),
        (dict(position=["a"] * 600), "position must be integers"),
        (dict(document=np.zeros((600, 1))), "document must have one dimension"),
        (
            dict(unembedding=np.full((12, 1), np.nan), vocabulary=["a"]),
            "must be finite numbers",
        ),
        (dict(n_contexts=0), "n_contexts must be an integer at least 1"),
        (dict(context_width=-1), "context_width must be an integer at least 0"),
        (dict(title=5), "title must be a string or None, got 5"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(
    fitted, Lazy, X, tmp_path, wrong, message
):
    lazy = Lazy(X)
    with pytest.raises(ValueError, match=message):
        skchoice.report(fitted, lazy, path=tmp_path / "a.html", **wrong)
    assert lazy.reads == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tokens", "document", "classes", "vocabulary"])
@pytest.mark.parametrize("wrong", ["a" * 600, iter("ab"), {"a"}, 5])
def test_what_is_no_sequence_is_refused(fitted, X, tmp_path, name, wrong):
    with pytest.raises(TypeError, match=f"{name} must be a list or an array, got"):
        skchoice.report(fitted, X, path=tmp_path / "a.html", **{name: wrong})


def test_classes_need_no_common_order(fitted, X, tmp_path):
    classes = ["a", None, 3] * 200
    page = skchoice.report(fitted, X, classes=classes, path=tmp_path / "a.html")
    shown = packed_in(page)[0]["overview"]["classes"]
    assert [of_class["name"] for of_class in shown] == ["3", "None", "a"]


def test_token_ids_outside_the_vocabulary(fitted, Lazy, X, tmp_path):
    lazy = Lazy(X)
    lazy.token_ids = np.arange(len(X))
    with pytest.raises(ValueError, match="from 0 to 599, outside"):
        skchoice.report(fitted, lazy, path=tmp_path / "a.html", vocabulary=["a"])


def test_not_fitted_and_no_folder(make, fitted, X, tmp_path):
    with pytest.raises(NotFittedError):
        skchoice.report(make(), X, path=tmp_path / "a.html")
    with pytest.raises(TypeError, match=r"got Pipeline. Of a Pipeline give"):
        skchoice.report(make_pipeline(fitted), X, path=tmp_path / "a.html")
    with pytest.raises(ValueError, match="no folder"):
        skchoice.report(fitted, X, path=tmp_path / "none" / "a.html")


def test_a_report_that_fails_leaves_the_old_page(fitted, Lazy, X, tmp_path):
    page = tmp_path / "a.html"
    page.write_text("old")
    with pytest.raises(OSError, match="the disk is gone"):
        skchoice.report(fitted, Lazy(X, fail_at_read=1), path=page)
    bad = X.copy()
    bad[17, 3] = np.nan
    with pytest.raises(ValueError, match="row 17"):
        skchoice.report(fitted, Lazy(bad), path=page)
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]


def test_a_view_of_a_store_has_its_tokens(fitted, X, tmp_path):
    tokens = np.zeros(len(X), TOKEN)
    tokens["token_id"] = np.arange(len(X)) % 7
    tokens["position"] = np.arange(len(X))
    values = X.astype(np.float32)
    values[5] *= 1e4
    StoreWriter(tmp_path / "X", X.shape[1], dtype="float32").append(values, tokens)
    view = ActivationStore(tmp_path / "X").without_outliers()
    assert len(view) == len(X) - 1
    found = skchoice.report(fitted, view, path=tmp_path / "view.html")
    kept = np.delete(tokens, 5)
    expected = skchoice.report(
        fitted,
        np.delete(values, 5, axis=0),
        tokens=[f"<{number}>" for number in kept["token_id"]],
        document=kept["document"],
        position=kept["position"],
        path=tmp_path / "rows.html",
    )
    assert found.read_bytes() == expected.read_bytes()
