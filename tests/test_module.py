"""The torch module against the estimator it was made from."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.autograd import gradcheck

from skchoice import TokenChoiceSAE
from skchoice.model import Parameters
from skchoice.module import SAEModule


@pytest.fixture
def module(fitted):
    return fitted.to_torch()


@pytest.fixture
def x(X_new):
    return torch.tensor(X_new, dtype=torch.float32)


def test_encode_is_transform(fitted, module, x):
    codes = module.encode(x)
    assert codes.shape == (90, 48)
    assert codes.dtype == torch.float32
    assert_allclose(codes.detach(), fitted.transform(x).toarray(), rtol=1e-4, atol=1e-5)


def test_decode_is_inverse_transform(fitted, module, x):
    codes = fitted.transform(x)
    expected = fitted.inverse_transform(codes)
    decoded = module.decode(torch.tensor(codes.toarray())).detach()
    assert_allclose(decoded, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(module(x).detach(), expected, rtol=1e-4, atol=1e-4)


def test_double_precision_agrees_closely(fitted, X_new):
    x = torch.tensor(X_new)
    codes = fitted.to_torch().double().encode(x).detach()
    # The bias of a module is float32; that of an estimator of float64 rows is not.
    assert_allclose(codes, fitted.transform(X_new).toarray(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [-24, -20, 20, 24])
def test_encode_is_transform_at_any_scale_that_is_learned(make, X, X_new, power):
    scale = 10.0**power
    sae = make().fit((scale * X).astype(np.float32))
    x = (scale * X_new).astype(np.float32)
    codes = sae.to_torch().encode(torch.tensor(x)).detach().numpy() / scale
    assert_allclose(codes, sae.transform(x).toarray() / scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(12,), (1, 12), (3, 5, 12), (2, 3, 4, 12), (0, 12)])
def test_any_leading_shape(module, x, shape):
    n_rows = int(np.prod(shape[:-1]))
    rows = x[:n_rows]
    codes = module.encode(rows.reshape(shape))
    assert codes.shape == (*shape[:-1], 48)
    assert_allclose(
        codes.reshape(-1, 48).detach(),
        module.encode(rows).detach(),
        rtol=1e-5,
        atol=1e-6,
    )
    assert module(rows.reshape(shape)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_rows_of_any_float_type(module, x, dtype):
    given = x[:9].to(dtype)
    assert torch.equal(module.encode(given), module.encode(given.float()))
    assert torch.equal(module(given), module(given.float()))
    codes = module.encode(given)
    assert torch.equal(module.decode(codes.double()), module.decode(codes))


def test_another_width_is_refused(module, x):
    with pytest.raises(ValueError, match=r"x has shape \(90, 11\), .* must be 12"):
        module.encode(x[:, 1:])
    with pytest.raises(ValueError, match="must be 12"):
        module(torch.tensor(1.0))
    n_features = len(module.decoder)
    with pytest.raises(ValueError, match=f"codes has .* must be {n_features}"):
        module.decode(x)
    for method in (module.encode, module.decode, module):
        with pytest.raises(TypeError, match="must be a torch Tensor, got ndarray"):
            method(x.numpy())


def test_gradients_of_the_input(module, X_new):
    module = module.double()
    x = torch.tensor(X_new[:4], requires_grad=True)
    assert gradcheck(module.encode, x)
    assert gradcheck(module, x)


def test_gradients_of_the_parameters(module, X_new):
    module = module.double()
    x = torch.tensor(X_new[:4])
    names = [name for name, _ in module.named_parameters()]
    assert sorted(names) == ["decoder", "decoder_bias", "encoder", "encoder_bias"]

    def run(*values):
        return torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), x
        )

    assert gradcheck(run, [value for _, value in module.named_parameters()])


def test_a_row_without_direction(module):
    x = module.decoder_bias.detach().clone()[None].requires_grad_()
    codes = module.encode(x)
    if module.relative:
        assert (codes == 0).all()
    module(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_codes_are_nonnegative_and_k_at_most(fitted, module, x):
    codes = module.encode(x)
    assert (codes >= 0).all()
    if isinstance(fitted, TokenChoiceSAE):
        assert module.k == 4
        assert ((codes > 0).sum(-1) <= 4).all()
    else:
        assert module.k is None


def test_ties_of_token_choice_go_to_the_first_features():
    ones = Parameters(
        torch.ones(5, 3), torch.zeros(5), torch.ones(5, 3), torch.zeros(3), False
    )
    module = SAEModule(ones, torch.zeros(5), k=2)
    codes = module.encode(torch.ones(3)).detach()
    assert_array_equal(codes, [3, 3, 0, 0, 0])
    assert_array_equal(module.encode(-torch.ones(3)).detach(), [0] * 5)


def test_arrays_are_copies(fitted, published, assert_same_fit, X):
    before = published(fitted)
    module = fitted.to_torch()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(7.0)
    assert_same_fit(fitted, before)
    other = copy.deepcopy(fitted)
    module = other.to_torch()
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    other.partial_fit(X)
    for array in (other.components_, other.encoder_weights_, other.thresholds_):
        array[:] = 0
    for name, value in module.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_module_can_be_stored(module, x, tmp_path):
    codes = module.encode(x)
    assert torch.equal(pickle.loads(pickle.dumps(module)).encode(x), codes)
    torch.save(module.state_dict(), tmp_path / "sae.pt")
    blank = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*blank.parameters(), *blank.buffers()):
            tensor.zero_()
    blank.load_state_dict(torch.load(tmp_path / "sae.pt", weights_only=True))
    assert torch.equal(blank.encode(x), codes)


def test_patching_a_layer(fitted, module, x):
    # What the module is for: in the forward pass of a model, with a feature steered.
    layer = torch.nn.Linear(12, 12)

    def steered(_, __, output):
        codes = module.encode(output)
        codes = codes + 2.0 * torch.nn.functional.one_hot(torch.tensor(5), 48)
        return module.decode(codes)

    plain = module(layer(x))
    handle = layer.register_forward_hook(steered)
    found = layer(x)
    handle.remove()
    direction = torch.tensor(fitted.components_[5])
    assert_allclose(
        (found - plain).detach(), (2 * direction).expand(90, 12), rtol=1e-3, atol=1e-4
    )


def test_fine_tuning(module, x):
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = (module(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not module.thresholds.requires_grad


def test_without_gradients(module, x):
    expected = module.encode(x).detach()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(module.encode(x), expected)


def test_device_may_be_a_string_or_a_device(fitted):
    for device in ("cpu", torch.device("cpu")):
        module = fitted.to_torch(device)
        assert all(p.device.type == "cpu" for p in module.parameters())
        assert all(p.dtype == torch.float32 for p in module.parameters())
