"""Texts are cut into contexts without loss, and read from anywhere."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

pytest.importorskip("transformers")

from skchoice.exceptions import StoreError
from skchoice.lm import Texts, extract_activations, texts
from skchoice.lm.contexts import PAD, Cursor, Cutting, batches, limited

DOCUMENTS = st.lists(st.text("abc ", max_size=12), min_size=1, max_size=6).filter(any)


def ids_of(contexts):
    return [context.tokens["token_id"].tolist() for context in contexts]


def cut(tokenizer, documents, length, *, across=False, start=None):
    cutting = Cutting(length, across, drop_first=True, drop_special=True)
    return list(cutting.contexts(tokenizer, documents, start))


@settings(max_examples=50, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(2, 9))
def test_apart_every_document_is_whole_and_begins_at_0(shared_gpt2, documents, length):
    _, tokenizer = shared_gpt2
    contexts = cut(tokenizer, documents, length)
    tokens = np.concatenate([context.tokens for context in contexts])
    for number, text in enumerate(documents):
        mine = tokens[tokens["document"] == number]
        assert tokenizer.decode(mine["token_id"]) == text
        # Wherever it is cut, it begins anew.
        starts = np.flatnonzero(mine["position"] == 0)
        for part in np.split(mine["position"], starts[1:]):
            assert_array_equal(part, np.arange(len(part)))
    for context in contexts[:-1]:
        assert length - 1 <= len(context.tokens) <= length
    for context in contexts:
        beginnings = context.tokens["position"] == 0
        assert beginnings[0]
        assert_array_equal(context.keep, ~beginnings)
        assert context.dropped == {"first": int(beginnings.sum()), "special": 0}


@pytest.mark.parametrize("true", [True, 1, np.bool_(True)])
def test_positions_are_dropped_whatever_is_true(shared_gpt2, true):
    _, tokenizer = shared_gpt2
    cutting = Cutting(4, False, drop_first=true, drop_special=true)
    [context] = cutting.contexts(tokenizer, ["abc"])
    assert context.keep.tolist() == [False, True, True]


def test_apart_llama_begins_each_document_as_its_tokenizer_does(llama):
    _, tokenizer = llama
    [first, second] = cut(tokenizer, ["the cat", "a dog ran on mat"], 7)
    words = tokenizer.convert_ids_to_tokens(first.tokens["token_id"].tolist())
    assert words == ["<s>", "the", "cat", "<s>", "a", "dog", "ran"]
    assert first.tokens["position"].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert first.keep.tolist() == [False, True, True, False, True, True, True]
    words = tokenizer.convert_ids_to_tokens(second.tokens["token_id"].tolist())
    assert words == ["<s>", "on", "mat"]


def test_no_document_begins_where_only_its_first_token_fits(shared_gpt2, llama):
    _, tokenizer = shared_gpt2
    contexts = cut(tokenizer, ["abc", "cde"], 4)
    assert [len(context.tokens) for context in contexts] == [3, 3]
    _, tokenizer = llama
    contexts = cut(tokenizer, ["the cat", "a dog"], 4)
    assert [len(context.tokens) for context in contexts] == [3, 3]


@settings(max_examples=60, deadline=None)
@given(
    documents=DOCUMENTS,
    length=st.integers(2, 9),
    across=st.booleans(),
    name=st.sampled_from(["gpt2", "llama"]),
    data=st.data(),
)
def test_contexts_go_on_from_any_cursor(
    shared_gpt2, shared_llama, documents, length, across, name, data
):
    _, tokenizer = shared_gpt2 if name == "gpt2" else shared_llama
    if name == "llama":
        words = {"a": "cat ", "b": "dog ", "c": "mat ", " ": ""}
        documents = ["".join(words[c] for c in text) for text in documents]
    whole = cut(tokenizer, documents, length, across=across)
    if not whole:
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    rest = cut(tokenizer, documents, length, across=across, start=whole[at].end)
    assert ids_of(rest) == ids_of(whole[at + 1 :])
    for found, expected in zip(rest, whole[at + 1 :], strict=True):
        assert_array_equal(found.tokens, expected.tokens)
        assert_array_equal(found.keep, expected.keep)
        assert found.end == expected.end
    # Other texts before that place are told apart.
    number = whole[at].end.document
    changed = documents[:]
    changed[data.draw(st.integers(0, number))] += "a"
    with pytest.raises(StoreError, match="texts are not those"):
        cut(tokenizer, changed, length, across=across, start=whole[at].end)
    with pytest.raises(StoreError, match="texts are not those"):
        cut(tokenizer, documents[:number], length, start=whole[at].end)


@given(n_rows=st.integers(0, 30), size=st.integers(1, 4))
def test_limits_and_batches(shared_gpt2, n_rows, size):
    _, tokenizer = shared_gpt2
    contexts = cut(tokenizer, ["abcdefg", "hi", "jklmnop"], 5)
    kept = list(limited(contexts, n_rows))
    total = sum(int(context.keep.sum()) for context in contexts)
    assert sum(int(context.keep.sum()) for context in kept) == min(n_rows, total)
    gathered = list(batches(contexts, size))
    rows = np.concatenate([batch.rows() for batch in gathered])
    expected = np.concatenate([c.tokens[c.keep] for c in contexts])
    assert_array_equal(rows, expected)
    for batch in gathered:
        padding = batch.tokens["document"] == PAD
        assert not batch.keep[padding].any()
        steps = np.diff(batch.tokens["position"], axis=1)
        assert (steps[padding[:, 1:]] == 1).all()
    assert gathered[-1].end == contexts[-1].end != Cursor()


# ------------------------------------------------------------------------------ sources


def test_files_strings_and_mappings(tmp_path, gpt2):
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("plain text\nof two lines")
    lines.write_text('{"text": "one"}\n\n{"text": "two", "id": 3}\n')
    assert list(Texts(plain)) == ["plain text\nof two lines"]
    assert list(Texts(lines)) == ["one", "two"]
    source = ["zero", plain, {"text": "mapping"}, lines]
    read = Texts(source)
    expected = ["zero", "plain text\nof two lines", "mapping", "one", "two"]
    assert list(read) == expected == list(read)
    assert list(Texts([{"body": "x"}], field="body")) == ["x"]
    found = extract_activations(*gpt2, lines, layer=0)
    assert "".join(found.tokens) == "newo"


@pytest.mark.parametrize("content", ["one\ntwo", '{"text": "one\\ntwo"}'])
def test_a_byte_order_mark_is_no_text(tmp_path, content):
    path = tmp_path / ("a.jsonl" if content.startswith("{") else "a.txt")
    path.write_text(content, encoding="utf-8-sig")
    assert list(Texts(path)) == ["one\ntwo"]


def test_a_long_file_is_read_in_pieces_that_end_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_FILE_CHARACTERS", 50)
    path = tmp_path / "long.txt"
    content = "".join(f"line number {i} of it\n" for i in range(100))
    path.write_text(content)
    pieces = list(Texts(path))
    assert "".join(pieces) == content
    assert all(piece.endswith("\n") and len(piece) < 80 for piece in pieces)


def test_the_share_that_was_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ä"}\n' * 10)
    read = Texts([path, path])
    shares = [read.share for _ in read]
    assert shares == sorted(shares) and read.share == 1
    assert shares[9] == pytest.approx(0.45, abs=0.06)
    read = Texts(["a", "b", "c", "d"])
    assert [read.share for _ in read] == [0, 0.25, 0.5, 0.75]
    assert [stream.share for stream in [Texts(iter("ab"))] for _ in stream] == [
        None
    ] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2 of .*jsonl is not JSON"),
        (b'{"txt": "a"}\n', r"line 1 .*no text in the field 'text'.*\['txt'\]"),
        (b'{"text": 3}\n', "line 1 .*no text in the field"),
        (b"[1]\n", "line 1 .*no JSON object"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(Texts(path))


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(TypeError, match="got a str"):
        Texts("abc")
    with pytest.raises(TypeError, match="got 3 at index 1"):
        list(Texts(["a", 3]))
    for wrong in ({"text": "a"}, b"abc", 3, None):
        with pytest.raises(TypeError, match="texts must be a list or another iterable"):
            Texts(wrong)
    for wrong in (tmp_path / "nowhere.txt", [tmp_path]):
        with pytest.raises(FileNotFoundError, match="no text file at"):
            Texts(wrong)
    with gzip.open(tmp_path / "a.txt", "wb") as file:
        file.write(b"abc")
    with pytest.raises(ValueError, match=r"a\.txt is not text in UTF-8"):
        list(Texts(tmp_path / "a.txt"))


def test_half_of_a_surrogate_pair_is_told(gpt2):
    texts = ["whole \U0001f600", "half \ud83d"]
    with pytest.raises(ValueError, match=r"document 1 .*surrogate pair at character 5"):
        extract_activations(*gpt2, texts, layer=0)


def test_data_sets_of_the_hub(tmp_path):
    pytest.importorskip("datasets", reason="the extra package datasets reads them")
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps({"body": c}) for c in "abc"))
    assert list(Texts.from_hub(str(tmp_path), field="body")) == ["a", "b", "c"]
