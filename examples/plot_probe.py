"""
Probes on cached activations
============================

Activations are made up here, as sums of a few of many directions, and a label says
whether one of the directions takes part. Encoded once, they serve any number of probes,
and a probe on codes may need few features.
"""

# %%
# Activations on disk
# -------------------

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from skchoice import FeatureChoiceSAE

rng = np.random.default_rng(0)
directions = rng.normal(size=(96, 48))
active = rng.random((6000, 96)) < 4 / 96
sizes = rng.exponential(size=active.shape) + 0.5
labels = active[:, 17]

folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "activations.npy")
np.save(path, ((active * sizes) @ directions).astype(np.float16))
X = np.load(path, mmap_mode="r")

# %%
# Encode once
# -----------

train, test = slice(0, 4500), slice(4500, None)
sae = FeatureChoiceSAE(n_features=192, k=4, max_iter=15, random_state=0)
codes = sae.fit(X[train]).transform(X)
print(f"{codes.shape[0]:,} rows, {codes.nnz / codes.shape[0]:.1f} features on each")

# %%
# Probe with few features
# -----------------------
#
# A single column of the activations says little, since every direction is spread over
# all of them; a single feature can say as much as all columns do together. Few rows
# have the label, so probes are compared by average precision.

numbers = [1, 2, 4, 8, 16, 32, 48]
ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")[1]
for name, rows in {"activations": np.asarray(X, np.float32), "codes": codes}.items():
    scores = []
    for number in numbers:
        probe = make_pipeline(
            MaxAbsScaler(), SelectKBest(k=number), LogisticRegression(max_iter=2000)
        )
        found = probe.fit(rows[train], labels[train]).decision_function(rows[test])
        scores.append(average_precision_score(labels[test], found))
    ax.plot(numbers, scores, marker="o", label=f"columns of {name}")
ax.axhline(labels[test].mean(), color="grey", linestyle=":", label="chance")
ax.set_xscale("log", base=2)
ax.xaxis.set_major_formatter("{x:.0f}")
ax.set(xlabel="Columns that the probe may use", ylabel="Average precision", ylim=0)
ax.legend(frameon=False)
plt.show()
folder.cleanup()
