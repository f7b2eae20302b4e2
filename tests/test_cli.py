"""The command line does what the library does, and explains what went wrong."""

import errno
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import skchoice
from skchoice import ActivationStore, CodeStore, tensorfile
from skchoice.cli import main
from skchoice.exceptions import StoreError
from skchoice.store import StoreWriter

TEXT = "the cat sat on the mat\n" * 20


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def store(X, tmp_path):
    StoreWriter(tmp_path / "X", X.shape[1]).append(X)
    return tmp_path / "X"


def extract(folders, text, out, *more):
    source, goal = [str(folders["gpt2"]), str(text)], ["--out", str(out)]
    return main(["extract", *source, *goal, "--layers", "1", "--device", "cpu", *more])


def fitted(folders, text, tmp_path):
    """Extract and fit on the command line; return what the store and the fit are in."""
    assert extract(folders, text, tmp_path / "out", "--context-length", "16") == 0
    store, sae = str(tmp_path / "out" / "layer1-resid_post"), str(tmp_path / "sae")
    common = [store, "--k", "4", "--rule", "mutual", "--n-features", "24"]
    assert main(["fit", *common, "--out", sae]) == 0
    return store, sae


def test_extract(folders, text, tmp_path, capsys, gpt2):
    from skchoice.lm import extract_activations

    out = tmp_path / "out"
    options = ["--context-length", "16", "--hooks", "mlp_out", "resid_pre"]
    assert extract(folders, text, out, *options) == 0
    shown = capsys.readouterr()
    assert "layer1-mlp_out" in shown.out and "dropped" in shown.out
    assert "tokens/s" in shown.err
    found = extract_activations(
        *gpt2, [TEXT], layer=1, hook="mlp_out", context_length=16
    )
    assert_array_equal(ActivationStore(out / "layer1-mlp_out"), found.activations)
    assert extract(folders, text, out, *options, "--quiet") == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layers", "7"], "layer must be an integer from 0 to 2, got 7"),
        (["--context-length", "9999"], "context_length must be"),
        (["--dataset", "x"], "give files of text, or a data set"),
    ],
)
def test_errors_are_explained(folders, text, tmp_path, capsys, more, message):
    assert extract(folders, text, tmp_path / "out", *more) == 1
    shown = capsys.readouterr().err
    assert "skchoice extract: " in shown and message in shown
    assert "Traceback" not in shown


def test_interruptions_and_full_disks(folders, text, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("skchoice.lm.storing.captured", interrupted)
        assert extract(folders, text, tmp_path / "out") == 130
    assert "the same command goes on" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("skchoice.shards._write_array", full)
        assert extract(folders, text, tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert "No space left" in shown and "run again to go on" in shown
    assert extract(folders, text, tmp_path / "out") == 0


def test_an_interrupted_fit_promises_no_shards(store, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("skchoice.FeatureChoiceSAE.fit", interrupted)
    assert main(["fit", str(store), "--out", str(tmp_path / "sae")]) == 130
    shown = capsys.readouterr().err
    assert "--checkpoints" in shown and "shards" not in shown


def fit_arguments(store, out):
    return [
        *("fit", str(store), "--out", str(out)),
        *("--k", "4", "--n-features", "24", "--max-iter", "1", "--quiet"),
    ]


def test_a_disk_without_room_is_told_before_the_fit(
    store, tmp_path, capsys, monkeypatch
):
    disk = SimpleNamespace(total=10**9, free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: disk)
    monkeypatch.setattr("skchoice.FeatureChoiceSAE.fit", None)
    assert main(fit_arguments(store, tmp_path / "sae")) == 1
    assert "MB left, and the model will take" in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_no_fit(store, tmp_path, capsys, monkeypatch):
    write = tensorfile.write

    def full(path, *content):
        if path.parent == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *content)

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(tensorfile, "write", full)
    assert main(fit_arguments(store, tmp_path / "sae")) == 1
    shown = capsys.readouterr().err
    (saved,) = (tmp_path / "elsewhere").glob("*/sae")
    assert "No space left" in shown and f"saved as {saved} instead" in shown
    assert skchoice.load(saved).n_features == 24
    assert not (tmp_path / "sae").exists()


def test_the_folder_of_a_fit_is_made_before_the_fit(store, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    fit = ["fit", str(store), "--k", "4", "--n-features", "24", "--max-iter", "1"]
    assert main([*fit, "--out", str(tmp_path / "file" / "sae")]) == 1
    shown = capsys.readouterr().err
    assert "FeatureChoiceSAE" not in shown and "[Errno" not in shown
    assert str(tmp_path / "file") in shown
    assert main([*fit, "--out", str(tmp_path / "new" / "folder" / "sae")]) == 0
    assert (tmp_path / "new" / "folder" / "sae").is_file()


def test_a_fit_takes_a_learning_rate_and_checkpoints(store, tmp_path, capsys):
    sae, kept = tmp_path / "sae", tmp_path / "checkpoints"
    fit = ["fit", str(store), "--k", "4", "--n-features", "24", "--max-iter", "1"]
    more = ["--learning-rate", "0.002", "--checkpoints", str(kept)]
    assert main([*fit, *more, "--out", str(sae)]) == 0
    fitted = skchoice.load(sae)
    assert fitted.learning_rate == 0.002 and fitted.checkpoint_dir == str(kept)
    assert main([*fit, "--learning-rate", "-1", "--out", str(tmp_path / "b")]) == 1
    assert "'learning_rate'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*fit, "--learning-rate", "fast", "--out", str(tmp_path / "b")])
    assert "must be a number or auto, got 'fast'" in capsys.readouterr().err


def test_a_fit_takes_a_fraction_of_a_match(store, tmp_path, capsys):
    fit = ["fit", str(store), "--n-features", "24", "--max-iter", "1"]
    assert main([*fit, "--k", "2.5", "--out", str(tmp_path / "a")]) == 0
    assert skchoice.load(tmp_path / "a").k == 2.5
    with pytest.raises(SystemExit):
        main([*fit, "--k", "few", "--out", str(tmp_path / "b")])
    assert "must be a number, got 'few'" in capsys.readouterr().err
    token = [*fit, "--k", "2.5", "--rule", "token", "--out", str(tmp_path / "c")]
    assert main(token) == 1
    assert "'k' parameter" in capsys.readouterr().err


def test_a_folder_of_stores_names_them(store, tmp_path, capsys):
    fit = ["fit", str(store.parent), "--out", str(tmp_path / "sae")]
    assert main(fit) == 1
    assert f"Stores in it: {store}" in capsys.readouterr().err


def test_warnings_are_told_in_one_line(store, tmp_path, capsys):
    fit = ["fit", str(store), "--k", "4", "--max-iter", "1", "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*fit, "--n-features", "9999", "--out", str(tmp_path / "s")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("skchoice fit: warning: There are") for line in lines)
    assert all(line.startswith("skchoice fit: warning: ") for line in lines)


def test_hooks_are_those_of_the_library():
    from skchoice.cli import extract
    from skchoice.lm.sites import HOOKS

    assert extract.HOOKS == HOOKS


def test_fit_encode_and_evaluate(store, X, tmp_path, capsys):
    sae, codes = str(tmp_path / "sae"), str(tmp_path / "codes")
    assert (
        main(["fit", str(store), "--n-features", "32", "--k", "4", "--out", sae]) == 0
    )
    assert "FeatureChoiceSAE, 32 features" in capsys.readouterr().out
    assert main(["encode", sae, str(store), "--out", codes]) == 0
    fitted = skchoice.load(Path(sae))
    expected = fitted.transform(X.astype(np.float16))
    assert (CodeStore(codes)[:] != expected).nnz == 0
    capsys.readouterr()
    assert main(["evaluate", sae, str(store)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["l0"] == pytest.approx(expected.nnz / len(X))
    assert main(["fit", str(store), "--out", sae]) == 1
    assert "exists" in capsys.readouterr().err


def test_outliers_are_left_out_where_they_are_warned_about(X, tmp_path, capsys):
    loud, store = X.copy(), tmp_path / "loud"
    loud[:6] *= 1000
    StoreWriter(store, X.shape[1], dtype="float32").append(loud)
    StoreWriter(tmp_path / "quiet", X.shape[1], dtype="float32").append(loud[6:])

    def fit_and_evaluate(rows, name, *more):
        sae = str(tmp_path / name)
        common = ["--n-features", "32", "--k", "4", "--max-iter", "1", "--quiet"]
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            assert main(["fit", str(rows), "--out", sae, *common, *more]) == 0
        err = capsys.readouterr().err
        assert main(["evaluate", sae, str(rows), *more]) == 0
        return err, json.loads(capsys.readouterr().out)

    err, _ = fit_and_evaluate(store, "all")
    assert "of the variance" in err and "--without-outliers" in err
    err, results = fit_and_evaluate(store, "without", "--without-outliers")
    assert "of the variance" not in err and results["n_rows"] == len(X) - 6
    assert results == fit_and_evaluate(tmp_path / "quiet", "of quiet")[1]


def test_evaluate_the_loss(folders, text, tmp_path, capsys):
    store, sae = fitted(folders, text, tmp_path)
    capsys.readouterr()
    evaluate = ["evaluate", sae, store, "--model", str(folders["gpt2"])]
    assert main([*evaluate, "--text", str(text), "--device", "cpu"]) == 0
    loss = json.loads(capsys.readouterr().out)["loss"]
    assert loss["n_tokens"] > 300 and loss["clean"] > 0
    assert main(evaluate) == 1
    assert "both, --model and --text" in capsys.readouterr().err


def test_another_model_than_that_of_the_store_is_told(folders, text, tmp_path, capsys):
    store, sae = fitted(folders, text, tmp_path)
    page = tmp_path / "page.html"
    report = ["report", sae, store, "--out", str(page), "--device", "cpu"]
    evaluate = ["evaluate", sae, store, "--text", str(text), "--device", "cpu"]
    for command in (report, evaluate):
        capsys.readouterr()
        assert main([*command, "--model", str(folders["llama"])]) == 1
        shown = capsys.readouterr()
        assert "GPT2LMHeadModel" in shown.err and "LlamaForCausalLM" in shown.err
        assert "store is of another model" in shown.err and not shown.out
        half = ["--model", str(folders["gpt2"]), "--model-dtype", "bfloat16"]
        assert main([*command, *half]) == 1
        assert "weights of the same dtype" in capsys.readouterr().err
    assert not page.exists()


def test_another_tokenizer_than_that_of_the_store_is_told(gpt2, llama):
    from skchoice.lm.models import check_same_model, describe

    made = describe(*gpt2)
    check_same_model(*gpt2, made)
    check_same_model(*gpt2, {})
    with pytest.raises(StoreError, match="another tokenizer"):
        check_same_model(gpt2[0], llama[1], made)


def test_evaluations_of_one_context_are_json(folders, text, tmp_path, capsys):
    assert extract(folders, text, tmp_path / "out") == 0
    store, sae = str(tmp_path / "out" / "layer1-resid_post"), str(tmp_path / "sae")
    common = [store, "--k", "4", "--n-features", "24", "--max-iter", "1", "--quiet"]
    assert main(["fit", *common, "--out", sae]) == 0
    capsys.readouterr()
    one = ["--text", str(text), "--max-tokens", "9", "--quiet", "--device", "cpu"]
    assert main(["evaluate", sae, store, "--model", str(folders["gpt2"]), *one]) == 0
    shown = capsys.readouterr()

    def refuse(constant):
        raise AssertionError(constant)

    loss = json.loads(shown.out, parse_constant=refuse)["loss"]
    assert loss["n_sequences"] == 1 and loss["interval"] == [None, None]
    assert not shown.err


@pytest.mark.parametrize("with_model", [True, False])
def test_report(folders, text, tmp_path, capsys, gpt2, with_model):
    from skchoice.lm import extract_activations

    assert extract(folders, text, tmp_path / "out", "--context-length", "16") == 0
    store, sae = str(tmp_path / "out" / "layer1-resid_post"), str(tmp_path / "sae")
    fit = ["fit", store, "--k", "4", "--rule", "mutual", "--n-features", "24"]
    assert main([*fit, "--out", sae]) == 0
    capsys.readouterr()
    page, expected = tmp_path / "page.html", tmp_path / "expected.html"
    named = ["--model", str(folders["gpt2"]), "--device", "cpu"] if with_model else []
    assert main(["report", sae, store, "--out", str(page), "--quiet", *named]) == 0
    assert "24 features on" in capsys.readouterr().out
    # The same page as of the rows in memory, which know their text.
    model, tokenizer = gpt2
    found = extract_activations(model, tokenizer, [TEXT], layer=1, context_length=16)
    told = {"tokens": [f"<{number}>" for number in found.token_ids]}
    if with_model:
        head = model.get_output_embeddings().weight
        texts = [tokenizer.decode([i]).replace("\0", "␀") for i in range(len(head))]
        told = {
            "tokens": found.tokens,
            "unembedding": head.T,
            "vocabulary": texts,
        }
    skchoice.report(
        skchoice.load(sae),
        found.activations,
        path=expected,
        document=found.document,
        position=found.position,
        **told,
    )
    assert page.read_bytes() == expected.read_bytes()


def test_report_of_a_store_of_no_model(fitted, store, folders, tmp_path, capsys):
    fitted.save(tmp_path / "sae")
    options = [str(tmp_path / "sae"), str(store), "--model", str(folders["gpt2"])]
    assert main(["report", *options, "--out", str(tmp_path / "page.html")]) == 1
    assert "is not of a language model" in capsys.readouterr().err


def test_report_without_a_folder(fitted, store, tmp_path, capsys):
    fitted.save(tmp_path / "sae")
    out = str(tmp_path / "none" / "page.html")
    assert main(["report", str(tmp_path / "sae"), str(store), "--out", out]) == 1
    assert "skchoice report: There is no folder" in capsys.readouterr().err
    out = str(tmp_path)
    assert main(["report", str(tmp_path / "sae"), str(store), "--out", out]) == 1
    assert "is a folder: give the name" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["extract", "fit", "encode", "evaluate", "report"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert "usage: skchoice " + command in capsys.readouterr().out


def test_as_a_module():
    root = Path(skchoice.__file__).parents[1]
    command = [sys.executable, "-m", "skchoice", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == skchoice.__version__
