"""scikit-learn: MiniBatchDictionaryLearning, which solves for its codes.

It keeps what an L1 penalty keeps, not ``k``, while it learns; codes are by orthogonal
matching pursuit with ``k`` nonzeros. Its step grows with the square of the width, so it
is for small ones only.
"""

from __future__ import annotations

from sklearn.decomposition import MiniBatchDictionaryLearning
from torch import Tensor, from_numpy

from arms import Size, l0


class MiniBatch:
    scale = 1.0

    def __init__(self, model: MiniBatchDictionaryLearning):
        self._model = model

    def step(self, x: Tensor) -> None:
        self._model.partial_fit(x.numpy())

    def reconstruct(self, x: Tensor, training: bool) -> tuple[Tensor, float]:
        codes = self._model.transform(x.numpy())
        return from_numpy(codes @ self._model.components_), l0(from_numpy(codes))

    def encoding(self) -> None:
        return None


def make(size: Size, rule: str, shipped: bool) -> MiniBatch:
    model = MiniBatchDictionaryLearning(
        size.n_features,
        alpha=0.1,  # of rows of unit norm; its default, 1, keeps nothing of them
        batch_size=size.batch_size,
        fit_algorithm="cd",  # the faster of its two
        transform_algorithm="omp",
        transform_n_nonzero_coefs=size.k,
        random_state=0,
    )
    return MiniBatch(model)
