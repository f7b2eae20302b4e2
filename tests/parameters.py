"""Random parameters of a model, the same for the same seed."""

import pytest
import torch

from skchoice.model import Parameters

every_importance = pytest.mark.parametrize(
    "relative", [False, True], ids=["absolute", "relative"]
)


def normal(seed, *shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def some_parameters(seed, n_features, d, relative, dtype=torch.float64) -> Parameters:
    return Parameters(
        normal(seed, n_features, d),
        0.3 * normal(seed + 1, n_features),
        torch.nn.functional.normalize(normal(seed + 2, n_features, d), dim=1),
        0.2 * normal(seed + 3, d),
        relative,
    ).to(torch.device("cpu"), dtype)
