"""Sparse autoencoders as scikit-learn estimators."""

from skchoice.estimators import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.report import report

__all__ = ["FeatureChoiceSAE", "MutualChoiceSAE", "TokenChoiceSAE", "report"]
__version__ = "0.1.0.dev0"
