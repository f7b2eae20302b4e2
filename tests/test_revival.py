"""Features that no token comes near are brought back, and the healthy stay."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE
from skchoice.model import encoder_input

F, K = 96, 4


def silent(sae, X):
    return sae.transform(X).getnnz(axis=0) == 0


def affinities(sae, X):
    """Return the pre-activations of the parameters as training has them."""
    state = sae._state
    tokens = encoder_input(
        state.standardisation.apply(torch.from_numpy(X)), state.parameters
    )
    products = tokens.scaled @ state.parameters.encoder.T
    return (products + state.parameters.encoder_bias).numpy()


@pytest.mark.parametrize("depth", [0.5, 1.0, 100.0])
@pytest.mark.parametrize("aux", ["zipf", "k"])
@pytest.mark.parametrize("SAE", [TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE])
def test_planted_dead_features_are_revived(SAE, aux, depth, mixture):
    # Data with less than a direction for each feature would let some go again: only
    # Token Choice holds on to all, and takes longer over the last where there are more.
    few = SAE is TokenChoiceSAE
    X = mixture(4000) if few else mixture(4000, 24, n_directions=128, n_active=4)
    sae = SAE(
        F,
        K,
        aux=aux,
        batch_size=256,
        max_iter=10,
        # At the default rate for so few columns more features stay silent than were
        # planted: this is about the loss, and the rate is one at which none dies.
        learning_rate=1e-3,
        dead_after=2048,
        warm_start=True,
        random_state=0,
    ).fit(X)
    planted = np.arange(F) % 4 == 0
    lost_before = silent(sae, X)[~planted].sum()
    scale = sae._standardisation.scale
    bias = sae._state.parameters.encoder_bias
    bias[torch.from_numpy(planted)] -= depth * (3 * scale if few else 1)
    assert (affinities(sae, X)[:, planted] <= 0).all() or depth < 1
    without = copy.deepcopy(sae).set_params(aux=None).fit(X)
    sae.fit(X)
    # Within the 160 steps of these ten passes.
    assert silent(sae, X)[planted].sum() <= (6 if few else 1)
    assert silent(sae, X)[~planted].sum() <= lost_before
    assert silent(without, X)[planted].sum() > 3 * silent(sae, X)[planted].sum()
    assert sae.score(X) > without.score(X)


def test_without_the_loss_they_stay_dead(mixture):
    X = mixture(4000)
    sae = MutualChoiceSAE(
        F, K, aux=None, batch_size=256, warm_start=True, random_state=0
    ).fit(X)
    sae._state.parameters.encoder_bias[::4] -= 100.0
    sae.fit(X)
    assert silent(sae, X)[::4].all()
