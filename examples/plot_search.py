"""
Error against sparsity
======================

More matches always explain more, so a search over ``k`` by explained variance has a
known winner. What it can show is the price: error against measured sparsity.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skchoice import MutualChoiceSAE, TokenChoiceSAE
from skchoice.metrics import sparsity_scores
from skchoice.plots import FrontierDisplay

X = load_digits().data
ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")[1]
for choice in (TokenChoiceSAE, MutualChoiceSAE):
    search = GridSearchCV(
        choice(n_features=96, max_iter=12, random_state=0),
        {"k": [2, 4, 8, 16]},
        scoring=sparsity_scores,
        refit=False,
        cv=2,
    ).fit(X)
    FrontierDisplay.from_cv_results(search.cv_results_, ax, label=choice.__name__)
plt.show()

# %%
# The bars are deviations over the splits. L0 is what the held-out rows have, not what
# ``k`` asked for: Mutual Choice lets rows differ, and calibrates its threshold on a
# tenth of the rows it is given, here ninety.
