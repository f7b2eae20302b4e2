"""Measures of sparse codes, of reconstructions and of rank-density curves.

Pure functions of arrays, on numpy and scipy alone, so that activations and
codes kept on disk can be judged on a machine without torch. Sparsity is always
*measured*: L0 counts the codes that are there, whatever ``k`` asked for.
"""

from skchoice.metrics.codes import dead_features, density, l0, l0_per_token
from skchoice.metrics.description import DescriptionLength, description_length
from skchoice.metrics.errors import explained_variance, fvu, nmse
from skchoice.metrics.scores import sparsity_scores
from skchoice.metrics.zipf import ZipfFit, zipf_fit

__all__ = [
    "DescriptionLength",
    "ZipfFit",
    "dead_features",
    "density",
    "description_length",
    "explained_variance",
    "fvu",
    "l0",
    "l0_per_token",
    "nmse",
    "sparsity_scores",
    "zipf_fit",
]
