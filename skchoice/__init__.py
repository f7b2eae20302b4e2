"""Sparse autoencoders as scikit-learn estimators."""

from skchoice.code_store import CodeStore, encode_store
from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.store import ActivationStore

__all__ = [
    "ActivationStore",
    "CodeStore",
    "FeatureChoiceSAE",
    "MutualChoiceSAE",
    "TokenChoiceSAE",
    "encode_store",
]
__version__ = "0.1.0.dev0"
