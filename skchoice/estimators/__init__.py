"""The sparse autoencoders: one estimator for each allocation rule."""

from skchoice.estimators.feature_choice import FeatureChoiceSAE
from skchoice.estimators.mutual_choice import MutualChoiceSAE
from skchoice.estimators.token_choice import TokenChoiceSAE

__all__ = ["FeatureChoiceSAE", "MutualChoiceSAE", "TokenChoiceSAE"]
