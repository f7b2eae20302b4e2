"""
How many features do the data support?
======================================

More features reconstruct better, so the error alone never says stop. The description
length does: the bits per image that it takes to say which features fire, with what
values, and what they leave to be corrected
(`Ayonrinde, Pearce and Sharkey 2024 <https://arxiv.org/abs/2410.11179>`_). With as few
images as these, the dictionary has to be paid for, too.
"""

# %%
# A scorer for a search
# ---------------------
#
# A scorer is a function of a fitted estimator and held-out rows. Pixels are whole
# numbers from 0 to 16, so a precision of one grey level describes them. The dictionary
# is sent once for all images, at four bits for each of its numbers: of millions of rows
# that is nothing, of these it decides.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skchoice import MutualChoiceSAE, metrics

X = load_digits().data


def described(estimator, X_new, y=None):
    """Return the parts of the description, negative: the larger, the better."""
    codes = estimator.transform(X_new)
    X_hat = estimator.inverse_transform(codes)
    bits = metrics.description_length(X_new, X_hat, codes, precision=1.0)
    dictionary = 4 * estimator.components_.size / len(X)
    return {
        "total": -bits.total - dictionary,
        "dictionary": -dictionary,
        "features": -bits.features,
        "values": -bits.values,
        "error": -bits.error,
    }


# %%
# The search
# ----------
#
# ``n_features`` and ``k`` together: with more to choose from, an image may need fewer.

sizes = [16, 32, 64, 128]
ks = [1, 2, 4, 8]
search = GridSearchCV(
    MutualChoiceSAE(max_iter=15, random_state=0),
    {"n_features": sizes, "k": ks},
    scoring=described,
    refit="total",
    cv=2,
).fit(X)
print(search.best_params_, f"{-search.best_score_:.1f} bits per image")

# %%
# What the bits are spent on
# --------------------------
#
# At the best ``k``: more features are more to send and more to name, and past some
# number they no longer make the error that much cheaper.

found = search.cv_results_
best = found["param_k"].data == search.best_params_["k"]
figure, (left, right) = plt.subplots(ncols=2, figsize=(9.5, 3.8), layout="constrained")
bottom = np.zeros(len(sizes))
for part in ("error", "values", "features", "dictionary"):
    bits = -found[f"mean_test_{part}"][best]
    left.bar([str(size) for size in sizes], bits, bottom=bottom, label=part)
    bottom += bits
left.set(xlabel="Features", ylabel="Bits per image", ylim=(0, 1.25 * bottom.max()))
left.legend(frameon=False, ncols=2, loc="upper center")
for k in ks:
    total = -found["mean_test_total"][found["param_k"].data == k]
    right.plot([str(size) for size in sizes], total, marker="o", label=f"k = {k}")
right.set(xlabel="Features", ylabel="Bits per image in all")
right.legend(frameon=False)

# %%
# The features that were chosen
# -----------------------------

chosen = search.best_estimator_
order = chosen.feature_density_.argsort()[::-1]
n_rows = len(order) // 16
figure, axes = plt.subplots(n_rows, 16, figsize=(9, 0.6 * n_rows), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for ax, feature in zip(axes.flat, order, strict=False):
    image = chosen.components_[feature].reshape(8, 8)
    ax.imshow(image, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
plt.show()
