"""Errors and warnings of their own class, so that each can be caught or filtered."""

__all__ = [
    "CheckpointWarning",
    "ConstantRowsWarning",
    "DictionaryCollapseWarning",
    "DivergenceError",
    "DivergenceWarning",
    "FewCalibrationRowsWarning",
    "FewRowsWarning",
    "FileRefusedError",
    "InexactExportError",
    "OutlierRowsWarning",
    "SAEWarning",
    "ShortWindowWarning",
    "StoreError",
    "UnfilledBudgetWarning",
]


class FileRefusedError(ValueError):
    """A file is damaged, of another kind, or not what it should be; none was loaded.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import skchoice
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "sae.safetensors")
    ...     _ = path.write_bytes(b"no model")
    ...     skchoice.load(path)
    Traceback (most recent call last):
        ...
    skchoice.exceptions.FileRefusedError: ...
    """


class InexactExportError(ValueError):
    """The format of another library cannot hold this model exactly.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import MutualChoiceSAE, io
    >>> X = load_digits().data
    >>> sae = MutualChoiceSAE(n_features=64, k=4, max_iter=1, random_state=0).fit(X)
    >>> io.to_saelens(sae, "not_written")  # importance="relative" is known to us alone
    Traceback (most recent call last):
        ...
    skchoice.exceptions.InexactExportError: ...
    """


class StoreError(ValueError):
    """A store on disk is damaged, of a newer version, or of another configuration.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from skchoice import ActivationStore
    >>> from skchoice.store import StoreWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     StoreWriter(folder, n_columns=8).append(np.ones((10, 8)))
    ...     for shard in Path(folder).glob("*.npy"):
    ...         shard.unlink()
    ...     ActivationStore(folder)
    Traceback (most recent call last):
        ...
    skchoice.exceptions.StoreError: ...
    """


class DivergenceError(ValueError):
    """Training has diverged; the estimator is as it was before.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import MutualChoiceSAE
    >>> X = load_digits().data
    >>> sae = MutualChoiceSAE(n_features=64, k=4, learning_rate=1e4, random_state=0)
    >>> sae.fit(X)
    Traceback (most recent call last):
        ...
    skchoice.exceptions.DivergenceError: ...
    """


class SAEWarning(UserWarning):
    """Base of all warnings of this library.

    Examples
    --------
    >>> import warnings
    >>> from sklearn.datasets import load_digits
    >>> from skchoice import MutualChoiceSAE
    >>> from skchoice.exceptions import SAEWarning
    >>> X = load_digits().data
    >>> sae = MutualChoiceSAE(n_features=256, k=8, random_state=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", SAEWarning)  # "ignore" to be rid of them
    ...     sae.fit(X[:100])
    Traceback (most recent call last):
        ...
    skchoice.exceptions.FewRowsWarning: There are 100 rows to train on for ...
    """


class FewRowsWarning(SAEWarning):
    """There are fewer rows than features: most features can't be learned."""


class ConstantRowsWarning(SAEWarning):
    """All rows are equal: there is nothing to learn."""


class OutlierRowsWarning(SAEWarning):
    """A few rows of huge norm hold much of the variance."""


class FewCalibrationRowsWarning(SAEWarning):
    """The sample for the thresholds is too small for L0 to come out at ``k``."""


class ShortWindowWarning(SAEWarning):
    """``dead_after`` is so short that healthy features count as dead."""


class UnfilledBudgetWarning(SAEWarning):
    """Too few positive affinities to use up the budget of matches."""


class DivergenceWarning(SAEWarning):
    """Training ended with an error larger than the variance of X."""


class DictionaryCollapseWarning(SAEWarning):
    """Many features have the same decoder direction."""


class CheckpointWarning(SAEWarning):
    """A checkpoint could not be written or read; training goes on without it."""
