"""Files of other libraries, against each library's formula written out here."""

import json
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import skchoice
from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, tensorfile
from skchoice import io as skio
from skchoice.exceptions import FileRefusedError, InexactExportError

pytestmark = pytest.mark.filterwarnings("ignore::skchoice.exceptions.SAEWarning")

F, D = 20, 6


@pytest.fixture
def arrays():
    """W (F, d), b (F,), D (F, d), c (d,) and t (F,): encoder, decoder, thresholds."""
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(2, F, D, generator=draw)
    arrays = types.SimpleNamespace(
        W=normal[0],
        b=torch.randn(F, generator=draw) * 0.1,
        D=torch.nn.functional.normalize(normal[1], dim=1),
        c=torch.randn(D, generator=draw) * 3,
        t=torch.rand(F, generator=draw),
    )
    arrays.X = torch.randn(300, D, generator=draw) + arrays.c
    return arrays


def write_saelens(folder, arrays, **changes):
    config = {
        "architecture": "jumprelu",
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "model_name": "gpt2"},
    } | changes
    tensors = {
        "W_enc": arrays.W.T.contiguous(),
        "b_enc": arrays.b,
        "W_dec": arrays.D,
        "b_dec": arrays.c,
    }
    if config["architecture"] == "jumprelu":
        tensors["threshold"] = arrays.t
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(tensors, folder / "sae_weights.safetensors")


def write_dictionary(folder, kind, arrays, **changes):
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": F} | changes
    if kind == "JumpReluAutoEncoder":
        state = {
            "W_enc": arrays.W.T,
            "b_enc": arrays.b,
            "W_dec": arrays.D,
            "b_dec": arrays.c,
            "threshold": arrays.t,
        }
    else:
        trainer = {"k": 3} | trainer
        state = {
            "k": torch.tensor(3, dtype=torch.int32),
            "threshold": torch.tensor(0.4 if kind == "BatchTopKSAE" else -1.0),
            "decoder.weight": arrays.D.T,
            "encoder.weight": arrays.W,
            "encoder.bias": arrays.b,
            "b_dec": arrays.c,
        }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    torch.save(state, folder / "ae.pt")
    return state


def write_sparsify(folder, arrays, **changes):
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": F,
        "k": 3,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
    } | changes
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    tensors = {
        "encoder.weight": arrays.W,
        "encoder.bias": arrays.b,
        "W_dec": arrays.D,
        "b_dec": arrays.c,
    }
    save_file(tensors, folder / "sae.safetensors")


def write_openai(path, arrays, **changes):
    state = {
        "pre_bias": arrays.c,
        "latent_bias": arrays.b,
        "stats_last_nonzero": torch.zeros(F, dtype=torch.int64),
        "encoder.weight": arrays.W,
        "decoder.weight": arrays.D.T,
        "activation": "TopK",
        "activation_state_dict": {"k": 3, "postact_fn": "ReLU"},
    }
    torch.save(state | changes, path)


# What the libraries compute, in double precision.


def preactivations(arrays, centred=True):
    X = arrays.X.double()
    if centred:
        X = X - arrays.c.double()
    return X @ arrays.W.double().T + arrays.b.double()


def jump(arrays, threshold, centred=True):
    before = preactivations(arrays, centred)
    return before.relu() * (before > threshold)


def top(arrays, k=3, scale=1.0):
    before = preactivations(arrays) * scale
    values, places = before.topk(k)
    return torch.zeros_like(before).scatter(1, places, values.relu())


def assert_codes(sae, X, expected, atol=1e-5):
    codes = sae.transform(X).toarray()
    assert codes.any()
    np.testing.assert_array_equal(codes > 0, (expected > 0).numpy())
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=atol)


def assert_whole(sae, arrays, expected, tmp_path):
    """Decodes, goes through a file, and goes on training."""
    decoded = expected @ arrays.D.double() + arrays.c.double()
    norms = arrays.D.norm(dim=1)
    scaled = sae.inverse_transform(sae.transform(arrays.X))
    np.testing.assert_allclose(scaled, decoded, rtol=1e-4, atol=1e-4)
    if norms.min() > 0:
        np.testing.assert_allclose(
            np.linalg.norm(sae.components_, axis=1), 1, rtol=1e-5
        )
    sae.save(tmp_path / "model")
    again = skchoice.load(tmp_path / "model")
    assert (again.transform(arrays.X) != sae.transform(arrays.X)).nnz == 0
    again.partial_fit(arrays.X)
    assert np.isfinite(again.score(arrays.X))


# ------------------------------------------------------------------------- SAELens


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("one", [True, False])
def test_from_saelens_jumprelu(tmp_path, arrays, centred, one):
    if one:
        arrays.t[:] = 0.5
    write_saelens(tmp_path / "sae", arrays, apply_b_dec_to_input=centred)
    sae = skio.from_saelens(tmp_path / "sae", k=3)
    assert type(sae) is (MutualChoiceSAE if one else FeatureChoiceSAE)
    assert sae.get_params()["importance"] == "absolute"
    assert sae.provenance_["metadata"]["model_name"] == "gpt2"
    expected = jump(arrays, arrays.t, centred)
    assert_codes(sae, arrays.X, expected)
    assert_whole(sae, arrays, expected, tmp_path)


def test_rows_of_any_norm_are_scaled(tmp_path, arrays):
    norms = torch.linspace(0.1, 7, F)
    arrays.D = arrays.D * norms[:, None]
    write_saelens(tmp_path / "sae", arrays)
    sae = skio.from_saelens(tmp_path / "sae", k=3)
    expected = jump(arrays, arrays.t)
    assert_codes(sae, arrays.X, expected * norms)
    assert_whole(sae, arrays, expected, tmp_path)


def test_a_feature_without_direction_stays(tmp_path, arrays):
    arrays.D[4] = 0
    write_saelens(tmp_path / "sae", arrays)
    sae = skio.from_saelens(tmp_path / "sae", k=3)
    assert_codes(sae, arrays.X, jump(arrays, arrays.t))


def test_negative_thresholds_are_as_good_as_zero(tmp_path, arrays):
    arrays.t[:5] = -1.0
    write_saelens(tmp_path / "sae", arrays)
    sae = skio.from_saelens(tmp_path / "sae", k=3)
    assert sae.thresholds_.min() == 0
    assert_codes(sae, arrays.X, jump(arrays, arrays.t))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path, arrays, dtype):
    for name, array in vars(arrays).items():
        if name != "X":
            setattr(arrays, name, array.to(dtype))
    write_saelens(tmp_path / "sae", arrays)
    sae = skio.from_saelens(tmp_path / "sae", k=3)
    assert sae.encoder_weights_.dtype == np.float32
    norms = arrays.D.double().norm(dim=1)
    assert_codes(sae, arrays.X, jump(arrays, arrays.t) * norms)


def test_from_saelens_topk(tmp_path, arrays):
    write_saelens(tmp_path / "sae", arrays, architecture="topk", k=3)
    sae = skio.from_saelens(tmp_path / "sae")
    assert type(sae) is TokenChoiceSAE and sae.k == 3
    assert_codes(sae, arrays.X, top(arrays))
    assert_whole(sae, arrays, top(arrays), tmp_path)


def test_from_saelens_topk_of_rows_of_any_norm(tmp_path, arrays):
    norms = torch.linspace(0.1, 7, F)
    arrays.D = arrays.D * norms[:, None]
    write_saelens(tmp_path / "sae", arrays, architecture="topk", k=3)
    with pytest.raises(FileRefusedError, match=r"norms from 0.1 to 7.*normalise"):
        skio.from_saelens(tmp_path / "sae")
    scaled = {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True}
    write_saelens(tmp_path / "sae", arrays, **scaled)
    sae = skio.from_saelens(tmp_path / "sae")
    expected = top(arrays, scale=norms)
    assert_codes(sae, arrays.X, expected)
    assert_whole(sae, arrays, expected / norms, tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architecture": "gated"}, "architecture='gated'"),
        ({"architecture": ["jumprelu"]}, "architecture"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ({"normalize_activations": "constant_norm_rescale"}, "normalize_activations"),
        ({"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ({"apply_b_dec_to_input": None}, "apply_b_dec_to_input"),
        ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input"),
        ({"d_in": 7}, "d_in=7"),
        ({"d_sae": 19}, "d_sae=19"),
        ({"metadata": "none"}, "metadata"),
        ({"metadata": {"k": 21}}, "k=21 of 20"),
        ({"metadata": {"k": "3"}}, "k='3'"),
        ({"metadata": {}}, "pass it as k"),
        ({"architecture": "topk"}, "lacks.*threshold|'threshold'|k"),
    ],
)
def test_saelens_settings_that_would_change_the_codes(
    tmp_path, arrays, changes, message
):
    write_saelens(tmp_path / "sae", arrays, **changes)
    with pytest.raises(FileRefusedError, match=message):
        skio.from_saelens(tmp_path / "sae")


@pytest.mark.parametrize("name", ["architecture", "normalize_activations", "d_in"])
def test_saelens_settings_that_are_missing(tmp_path, arrays, name):
    write_saelens(tmp_path / "sae", arrays)
    path = tmp_path / "sae" / "cfg.json"
    config = json.loads(path.read_text())
    del config[name]
    path.write_text(json.dumps(config))
    with pytest.raises(FileRefusedError, match=f"does not say '{name}'"):
        skio.from_saelens(tmp_path / "sae", k=3)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda t: t.pop("b_enc"), r"lacks the tensors \['b_enc'\]"),
        (lambda t: t.update(scaling_factor=torch.ones(F)), "scaling_factor.*besides"),
        (lambda t: t.update(b_enc=torch.zeros(F + 1)), "b_enc has shape.*21"),
        (lambda t: t.update(b_enc=torch.zeros(F, 1)), "b_enc is no tensor"),
        (lambda t: t.update(W_dec=t["W_enc"]), "W_dec has shape"),
        (lambda t: t["W_enc"].fill_(torch.nan), "W_enc.*not finite"),
        (lambda t: t["threshold"].fill_(torch.inf), "threshold.*not finite"),
    ],
)
def test_partial_and_mismatched_weights(tmp_path, arrays, spoil, message):
    write_saelens(tmp_path / "sae", arrays)
    path = tmp_path / "sae" / "sae_weights.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    spoil(tensors)
    save_file({n: t.clone() for n, t in tensors.items()}, path)
    with pytest.raises(FileRefusedError, match=message):
        skio.from_saelens(tmp_path / "sae", k=3)


@pytest.fixture
def models(X):
    """One of each kind, for export."""
    settings = dict(importance="absolute", max_iter=3, random_state=0, batch_size=100)
    return [
        estimator(48, 4, **settings).fit(X)
        for estimator in (TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE)
    ]


def test_to_saelens(models, X_new, tmp_path):
    X32 = X_new.astype(np.float32)
    for sae in models:
        where = {"model_name": "gpt2", "hook_name": "blocks.8"}
        skio.to_saelens(sae, tmp_path, **where, overwrite=True)
        config = json.loads((tmp_path / "cfg.json").read_text())
        token = isinstance(sae, TokenChoiceSAE)
        assert config.pop("metadata") == {
            "sae_lens_version": "6.0.0",
            "k": 4,
            "model_name": "gpt2",
            "hook_name": "blocks.8",
        }
        more = {"k": 4, "rescale_acts_by_decoder_norm": False} if token else {}
        assert config == more | {
            "architecture": "topk" if token else "jumprelu",
            "d_in": 12,
            "d_sae": 48,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
        }
        w = load_file(tmp_path / "sae_weights.safetensors")
        assert all(tensor.dtype == torch.float32 for tensor in w.values())
        before = (torch.tensor(X32) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        if token:
            values, places = before.topk(4)
            expected = torch.zeros_like(before).scatter(1, places, values.relu())
        else:
            expected = before.relu() * (before > w["threshold"])
        assert_codes(sae, X32, expected)
        decoded = expected @ w["W_dec"] + w["b_dec"]
        ours = sae.inverse_transform(sae.transform(X32))
        np.testing.assert_allclose(ours, decoded, atol=1e-4)
        again = skio.from_saelens(tmp_path)
        assert type(again) is type(sae) and again.k == 4
        assert (abs(again.transform(X32) - sae.transform(X32)) > 1e-6).nnz == 0


def test_to_dictionary_learning(models, X_new, tmp_path):
    X32 = X_new.astype(np.float32)
    kinds = ["AutoEncoderTopK", "BatchTopKSAE", "JumpReluAutoEncoder"]
    for sae, kind in zip(models, kinds, strict=True):
        where = {"lm_name": "gpt2", "layer": 8}
        skio.to_dictionary_learning(sae, tmp_path, **where, overwrite=True)
        trainer = json.loads((tmp_path / "config.json").read_text())["trainer"]
        assert (trainer["dict_class"], trainer["lm_name"]) == (kind, "gpt2")
        w = torch.load(tmp_path / "ae.pt", weights_only=True)
        x = torch.tensor(X32)
        if kind == "JumpReluAutoEncoder":
            before = x @ w["W_enc"] + w["b_enc"]
            expected = torch.relu(before * (before > w["threshold"]))
            decoded = expected @ w["W_dec"] + w["b_dec"]
        else:
            assert trainer["k"] == w["k"].item() == 4
            assert (w["k"].dtype, w["threshold"].shape) == (torch.int32, ())
            acts = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
            acts = acts.relu()
            expected = acts * (acts > w["threshold"])
            if kind == "AutoEncoderTopK":
                values, places = acts.topk(4)
                expected = torch.zeros_like(acts).scatter(1, places, values)
            decoded = expected @ w["decoder.weight"].T + w["b_dec"]
        assert_codes(sae, X32, expected)
        ours = sae.inverse_transform(sae.transform(X32))
        np.testing.assert_allclose(ours, decoded, atol=1e-4)
        again = skio.from_dictionary_learning(tmp_path)
        assert type(again) is type(sae) and again.k == 4
        assert (abs(again.transform(X32) - sae.transform(X32)) > 1e-5).nnz == 0


@pytest.mark.parametrize(
    "export, read",
    [
        (skio.to_saelens, skio.from_saelens),
        (skio.to_dictionary_learning, skio.from_dictionary_learning),
    ],
)
def test_a_model_is_replaced_only_if_asked_for(
    models, tmp_path, export, read, monkeypatch
):
    one, other = models[0], models[1]
    export(one, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"already has .*overwrite=True"):
        export(other, tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    export(other, tmp_path, overwrite=True)
    assert type(read(tmp_path)) is type(other)

    # Broken off between its files, it is no model: neither the old one nor a mix.
    written = []

    def breaking(path):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        return original(path)

    original = tensorfile.replacing
    monkeypatch.setattr(tensorfile, "replacing", breaking)
    with pytest.raises(KeyboardInterrupt):
        export(one, tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"has no c.*json: expected"):
        read(tmp_path)


def test_the_wrong_folder_is_told(models, tmp_path):
    skio.to_saelens(models[0], tmp_path / "saelens")
    skio.to_dictionary_learning(models[0], tmp_path / "dictionary")
    with pytest.raises(
        FileNotFoundError,
        match=r"no sae.safetensors: .*sparsify.*It has sae_weights.*from_saelens reads",
    ):
        skio.from_sparsify(tmp_path / "saelens")
    with pytest.raises(FileNotFoundError, match=r"ae\.pt, which .*from_dictionary"):
        skio.from_saelens(tmp_path / "dictionary")
    for read in (skio.from_saelens, skio.from_dictionary_learning, skio.from_sparsify):
        for wrong in ("nothing", "saelens/cfg.json"):
            with pytest.raises(
                FileNotFoundError, match=r"has no .*: expected a folder"
            ):
                read(tmp_path / wrong)


def test_thresholds_that_nothing_passes_are_exported_as_finite(models, tmp_path):
    models[2].thresholds_[3] = np.inf
    skio.to_saelens(models[2], tmp_path)
    threshold = load_file(tmp_path / "sae_weights.safetensors")["threshold"]
    assert threshold.isfinite().all() and threshold[3] > 3e38


@pytest.mark.parametrize("export", [skio.to_saelens, skio.to_dictionary_learning])
def test_relative_importance_is_not_exported(make, X, tmp_path, export):
    sae = make(importance="relative", max_iter=1).fit(X)
    with pytest.raises(InexactExportError, match=r"importance='absolute'.*to_torch"):
        export(sae, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_fractional_k_goes_to_saelens_alone(X, tmp_path):
    sae = MutualChoiceSAE(48, 3.5, importance="absolute", max_iter=1).fit(X)
    with pytest.raises(InexactExportError, match=r"3\.5.*to_saelens"):
        skio.to_dictionary_learning(sae, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()
    skio.to_saelens(sae, tmp_path)
    assert skio.from_saelens(tmp_path).k == 3.5


# -------------------------------------------------------------- dictionary_learning


def test_from_batch_topk(tmp_path, arrays):
    write_dictionary(tmp_path / "sae", "BatchTopKSAE", arrays)
    sae = skio.from_dictionary_learning(tmp_path / "sae")
    assert type(sae) is MutualChoiceSAE and sae.k == 3
    expected = jump(arrays, 0.4)
    assert_codes(sae, arrays.X, expected)
    assert sae.allocate(arrays.X).nnz == 900
    assert_whole(sae, arrays, expected, tmp_path)


def test_from_topk(tmp_path, arrays):
    write_dictionary(tmp_path / "sae", "AutoEncoderTopK", arrays)
    sae = skio.from_dictionary_learning(tmp_path / "sae")
    assert type(sae) is TokenChoiceSAE
    assert_codes(sae, arrays.X, top(arrays))


def test_from_jumprelu(tmp_path, arrays):
    write_dictionary(tmp_path / "sae", "JumpReluAutoEncoder", arrays, target_l0=2.5)
    sae = skio.from_dictionary_learning(tmp_path / "sae")
    assert type(sae) is FeatureChoiceSAE and sae.k == 2.5
    expected = jump(arrays, arrays.t, centred=False)
    assert_codes(sae, arrays.X, expected)
    with pytest.raises(ValueError, match="caps_"):
        sae.allocate(arrays.X)
    assert_whole(sae, arrays, expected, tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dict_class": "GatedAutoEncoder"}, "dict_class='GatedAutoEncoder'"),
        ({"dict_class": None}, "dict_class=None"),
        ({"k": 4}, "k=4"),
        ({"k": "3"}, "k='3'"),
        ({"dict_size": 21}, "dict_size=21"),
        ({"activation_dim": F}, "activation_dim=20"),
    ],
)
def test_dictionaries_that_contradict_themselves(tmp_path, arrays, changes, message):
    write_dictionary(tmp_path / "sae", "BatchTopKSAE", arrays, **changes)
    with pytest.raises(FileRefusedError, match=message):
        skio.from_dictionary_learning(tmp_path / "sae")


def test_a_threshold_that_was_never_learned(tmp_path, arrays):
    state = write_dictionary(tmp_path / "sae", "BatchTopKSAE", arrays)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, tmp_path / "sae" / "ae.pt")
    with pytest.raises(FileRefusedError, match=r"threshold -1\.0"):
        skio.from_dictionary_learning(tmp_path / "sae")


class Spy:
    called = False

    def __reduce__(self):
        return (setattr, (Spy, "called", True))


def test_no_code_is_run(tmp_path, arrays):
    state = write_dictionary(tmp_path / "sae", "BatchTopKSAE", arrays)
    for hostile in (state | {"b_dec": Spy()}, Spy(), [state]):
        torch.save(hostile, tmp_path / "sae" / "ae.pt")
        with pytest.raises(FileRefusedError):
            skio.from_dictionary_learning(tmp_path / "sae")
        with pytest.raises(FileRefusedError):
            skio.from_openai(tmp_path / "sae" / "ae.pt", layer_normed=True)
    assert not Spy.called


# ---------------------------------------------------------------- sparsify, OpenAI


@pytest.mark.parametrize("num_latents", [F, 0])
def test_from_sparsify(tmp_path, arrays, num_latents):
    write_sparsify(tmp_path / "sae", arrays, num_latents=num_latents)
    sae = skio.from_sparsify(tmp_path / "sae")
    assert_codes(sae, arrays.X, top(arrays))
    assert_whole(sae, arrays, top(arrays), tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"activation": "groupmax"}, "activation='groupmax'"),
        ({"transcode": True}, "transcode=True"),
        ({"skip_connection": True}, "skip_connection=True"),
        ({"gram_lookup": True}, "gram_lookup=True"),
        ({"num_latents": 21}, "num_latents=21"),
        ({"d_in": 7}, "d_in=7"),
        ({"k": 2.5}, "k=2.5"),
        ({"k": 0}, "k=0"),
    ],
)
def test_sparsify_settings_that_would_change_the_codes(
    tmp_path, arrays, changes, message
):
    write_sparsify(tmp_path / "sae", arrays, **changes)
    with pytest.raises(FileRefusedError, match=message):
        skio.from_sparsify(tmp_path / "sae")


def test_rows_rounded_to_bfloat16_are_left_alone(tmp_path, arrays):
    for name in "WbDc":
        setattr(arrays, name, getattr(arrays, name).bfloat16())
    write_sparsify(tmp_path / "sae", arrays)
    sae = skio.from_sparsify(tmp_path / "sae")
    np.testing.assert_array_equal(sae.components_, arrays.D.float())
    assert_codes(sae, arrays.X, top(arrays))


def test_from_openai(tmp_path, arrays):
    write_openai(tmp_path / "8.pt", arrays)
    with pytest.raises(FileRefusedError, match="layer_normed=True"):
        skio.from_openai(tmp_path / "8.pt")
    sae = skio.from_openai(tmp_path / "8.pt", layer_normed=True)
    assert_codes(sae, arrays.X, top(arrays))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"activation": "ReLU"}, "activation 'ReLU'"),
        ({"activation_state_dict": {}}, "with its k"),
        ({"activation_state_dict": {"k": 3, "postact_fn": "Identity"}}, "Identity"),
        ({"activation_state_dict": {"k": -3, "postact_fn": "ReLU"}}, "k=-3"),
        ({"more": torch.zeros(3)}, "more"),
    ],
)
def test_openai_states_that_would_change_the_codes(tmp_path, arrays, changes, message):
    write_openai(tmp_path / "8.pt", arrays, **changes)
    with pytest.raises(FileRefusedError, match=message):
        skio.from_openai(tmp_path / "8.pt", layer_normed=True)


# ------------------------------------------------------------------ damaged files


def importers(tmp_path, arrays):
    write_saelens(tmp_path / "saelens", arrays)
    write_dictionary(tmp_path / "dl", "BatchTopKSAE", arrays)
    write_sparsify(tmp_path / "sparsify", arrays)
    write_openai(tmp_path / "8.pt", arrays)
    return {
        tmp_path / "saelens" / "cfg.json": lambda: skio.from_saelens(
            tmp_path / "saelens", k=3
        ),
        tmp_path / "saelens" / "sae_weights.safetensors": lambda: skio.from_saelens(
            tmp_path / "saelens", k=3
        ),
        tmp_path / "dl" / "ae.pt": lambda: skio.from_dictionary_learning(
            tmp_path / "dl"
        ),
        tmp_path / "dl" / "config.json": lambda: skio.from_dictionary_learning(
            tmp_path / "dl"
        ),
        tmp_path / "sparsify" / "sae.safetensors": lambda: skio.from_sparsify(
            tmp_path / "sparsify"
        ),
        tmp_path / "8.pt": lambda: skio.from_openai(
            tmp_path / "8.pt", layer_normed=True
        ),
    }


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE")
def test_cut_and_garbled_files_are_refused(tmp_path, arrays):
    rng = np.random.default_rng(0)
    for path, read in importers(tmp_path, arrays).items():
        whole = path.read_bytes()
        read()
        for length in (0, 1, 7, len(whole) // 3, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(FileRefusedError):
                read()
        for garbled in (b"\x80\x02}q\x00.", b"[" * 10**5, rng.bytes(3000), b"null"):
            path.write_bytes(garbled)
            with pytest.raises(FileRefusedError):
                read()
        path.unlink()
        with pytest.raises(FileNotFoundError):
            read()
        path.write_bytes(whole)
