"""Write a small model of each estimator in the current format.

    python tests/data/make_models.py

Files of earlier formats are never written again: they must go on loading.
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.saving import FORMAT


def main() -> None:
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(200, 10)) ** 3 @ rng.normal(size=(10, 6)) + 1.0
    frame = pd.DataFrame(X, columns=list("abcdef"))
    for estimator in (TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE):
        sae = estimator(12, 2, batch_size=50, max_iter=1, random_state=0).fit(frame)
        name = f"model-{FORMAT}-{estimator.__name__}.safetensors"
        sae.save(Path(__file__).parent / name)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
