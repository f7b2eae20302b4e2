"""
The three rules in one picture
==============================

The same affinities between twelve tokens and eighteen features, and the same budget of
three matches per token. What differs is who shares it.
"""

# %%
# Some tokens are louder than others, and features have densities that fall with rank,
# as they do in a trained autoencoder.

import matplotlib.pyplot as plt
import numpy as np
import torch

from skchoice.allocation import select
from skchoice.caps import systematic_caps
from skchoice.profiles import uniform_density, zipf_density
from skchoice.rules import FeatureChoice, MutualChoice, TokenChoice

N_TOKENS, N_FEATURES, K = 12, 18, 3
rng = np.random.default_rng(4)
loudness = rng.lognormal(sigma=0.5, size=(N_TOKENS, 1))
popularity = (np.arange(N_FEATURES) + 2.0) ** -0.5
affinities = loudness * popularity * rng.exponential(size=(N_TOKENS, N_FEATURES))
affinities = torch.tensor(affinities)


def draw(rules):
    figure, axes = plt.subplots(
        ncols=len(rules), figsize=(10, 3.4), layout="constrained"
    )
    for ax, (name, rule) in zip(axes, rules.items(), strict=True):
        matches = select(affinities, rule)
        ax.imshow(affinities.sqrt().numpy(), cmap="Greys", vmin=0, vmax=4)
        rows, cols = matches.numpy().nonzero()
        ax.scatter(cols, rows, s=26, color="tab:orange", linewidths=0)
        ax.set_title(f"{name}, {len(rows)} matches", fontsize="medium")
        ax.set(xlabel="Feature", ylabel="Token", xticks=[], yticks=[])
    return figure


def caps(density):
    return torch.from_numpy(systematic_caps(density, N_TOKENS))


figure = draw(
    {
        "Token Choice": TokenChoice(K),
        "Mutual Choice": MutualChoice(K),
        "Feature Choice": FeatureChoice(caps(zipf_density(N_FEATURES, K))),
    }
)

# %%
# Under Token Choice every token has three matches, also those for whom none is worth
# much. Under Mutual Choice the loudest tokens take many, and rare features go
# without. Feature Choice gives each feature its cap, here by Zipf's law, and lets it
# choose its tokens.
#
# Caps
# ----
#
# A cap profile is a density for each feature. Zipf's law gives the first features
# most of the budget, a uniform one treats all alike.

figure = draw(
    {
        f"{name} caps": FeatureChoice(caps(density))
        for name, density in {
            "Zipf": zipf_density(N_FEATURES, K),
            "Flatter Zipf": zipf_density(N_FEATURES, K, exponent=0.5),
            "Uniform": uniform_density(N_FEATURES, K),
        }.items()
    }
)
plt.show()
