"""Sparse autoencoders as scikit-learn estimators."""

from skchoice.code_store import CodeStore, encode_store
from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.loading import load
from skchoice.pages import report
from skchoice.store import ActivationStore
from skchoice.version import __version__

__all__ = [
    "ActivationStore",
    "CodeStore",
    "FeatureChoiceSAE",
    "MutualChoiceSAE",
    "TokenChoiceSAE",
    "__version__",
    "encode_store",
    "load",
    "report",
]
