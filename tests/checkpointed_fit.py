"""A fit with a checkpoint after every step, to be killed: run by test_checkpoints."""

import sys
import warnings

import torch
from conftest import sparse_mixture

from skchoice import FeatureChoiceSAE
from skchoice.exceptions import CheckpointWarning


def fit_and_save(checkpoint_dir, model):
    sae = FeatureChoiceSAE(
        200,
        4,
        batch_size=50,
        max_iter=15,
        dead_after=300,
        random_state=0,
        checkpoint_dir=checkpoint_dir,
        checkpoint_interval=0,
    )
    sae.fit(sparse_mixture(600)).save(model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", category=CheckpointWarning)
    print("ready", flush=True)
    fit_and_save(*sys.argv[1:])
