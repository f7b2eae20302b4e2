"""Sparse autoencoders as scikit-learn estimators."""

from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.loading import load
from skchoice.version import __version__

__all__ = [
    "FeatureChoiceSAE",
    "MutualChoiceSAE",
    "TokenChoiceSAE",
    "__version__",
    "load",
]
