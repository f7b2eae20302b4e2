"""
A dictionary of digits
======================

Three autoencoders with the same budget on the digits of scikit-learn: what they learn,
how they spend their matches, and how training went.
"""

# %%
# Fit
# ---

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skchoice import FeatureChoiceSAE, MutualChoiceSAE, TokenChoiceSAE, metrics
from skchoice.plots import DensityDisplay, L0Display, TrainingDisplay

X = load_digits().data
train, held_out = X[:1400], X[1400:]
saes = [
    choice(n_features=128, k=8, max_iter=20, random_state=0).fit(train)
    for choice in (TokenChoiceSAE, MutualChoiceSAE, FeatureChoiceSAE)
]
for sae in saes:
    found = metrics.sparsity_scores(sae, held_out)
    print(
        f"{type(sae).__name__:<18} explains {found['explained_variance']:.3f} of the "
        f"variance, L0 {found['l0']:.2f}, {sae.dead_features_.sum()} dead"
    )

# %%
# The dictionary
# --------------
#
# The features that fire most often, as images: strokes, and what is left out of them.

sae = saes[-1]
order = sae.feature_density_.argsort()[::-1]
figure, axes = plt.subplots(4, 12, figsize=(9, 3.2), layout="constrained")
for ax, feature in zip(axes.flat, order, strict=False):
    ax.imshow(
        sae.components_[feature].reshape(8, 8), cmap="RdBu_r", vmin=-0.5, vmax=0.5
    )
    ax.axis("off")

# %%
# Where the matches go
# --------------------
#
# Feature Choice holds the densities of all features to Zipf's law; the matches per
# token vary as the tokens need.

figure, (left, right) = plt.subplots(ncols=2, figsize=(9.5, 3.8), layout="constrained")
for sae in saes:
    DensityDisplay.from_codes(sae.transform(X), left, label=type(sae).__name__)
    L0Display.from_codes(sae.transform(X), right, label=type(sae).__name__)

# %%
# Training
# --------
#
# Feature Choice begins with Mutual Choice, to see how often each feature wants to
# fire.

figure, (left, right) = plt.subplots(ncols=2, figsize=(9.5, 3.4), layout="constrained")
for sae in saes[1:]:
    TrainingDisplay.from_estimator(sae, left)
    TrainingDisplay.from_estimator(sae, right, quantity="n_underused")
left.set_ylim(0, 1)
plt.show()
