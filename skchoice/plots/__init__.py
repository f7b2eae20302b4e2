"""Pictures of how an autoencoder is trained and how it spends its matches.

The only importer of matplotlib. Like scikit-learn's displays, a display holds what it
shows, `plot` draws it, and several may share one ax.
"""

from skchoice.plots.density import DensityDisplay
from skchoice.plots.frontier import FrontierDisplay
from skchoice.plots.l0 import L0Display
from skchoice.plots.training import TrainingDisplay

__all__ = ["DensityDisplay", "FrontierDisplay", "L0Display", "TrainingDisplay"]
