"""Sparse autoencoders as scikit-learn estimators."""

from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE

__all__ = ["FeatureChoiceSAE", "MutualChoiceSAE", "TokenChoiceSAE"]
__version__ = "0.1.0.dev0"
