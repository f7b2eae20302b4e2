"""overcomplete: its BatchTopK and TopK SAEs in its training loop, a batch a call.

As shipped: the loop's monitoring, and Adam as in its introduction. ``fused``: none.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from contextlib import redirect_stdout
from types import ModuleType

import torch
from torch import Tensor

from arms import DECAY, LEARNING_RATE, WARMUP, Encoding, Size, l0
from skchoice.schedule import linear_schedule

if "overcomplete" not in sys.modules:
    # Its __init__ also loads models of images, which ask for torchvision and more.
    found = importlib.util.find_spec("overcomplete")
    if found is None:
        raise ImportError("overcomplete is not installed")
    package = ModuleType("overcomplete")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["overcomplete"] = package

from overcomplete.sae import BatchTopKSAE, TopKSAE, train_sae


def squared_error(x, x_hat, pre_codes, codes, dictionary):
    """The loss that its introduction defines."""
    return (x - x_hat).square().mean()


class Overcomplete:
    scale = 1.0

    def __init__(self, model, optimizer, scheduler, monitoring: int):
        self._model, self._optimizer = model, optimizer
        self._scheduler, self._monitoring = scheduler, monitoring

    def step(self, x: Tensor) -> None:
        with redirect_stdout(io.StringIO()):
            train_sae(
                self._model,
                [x],
                squared_error,
                self._optimizer,
                self._scheduler,
                nb_epochs=1,
                monitoring=self._monitoring,
            )

    @torch.no_grad()
    def reconstruct(self, x: Tensor, training: bool) -> tuple[Tensor, float]:
        model = self._model
        threshold = getattr(model, "running_threshold", None)
        model.train(training)
        _, codes, x_hat = model(x)
        model.train()
        if threshold is not None:
            model.running_threshold = threshold
        return x_hat, l0(codes)

    def encoding(self) -> Encoding:
        linear = self._model.encoder.final_block[0]
        decoder = self._model.get_dictionary().detach()
        return Encoding(
            linear.weight.detach(),
            linear.bias.detach(),
            decoder,
            torch.zeros(decoder.shape[1]),
        )


def make(size: Size, rule: str, shipped: bool) -> Overcomplete:
    if rule == "mutual":
        model = BatchTopKSAE(
            size.n_columns, size.n_features, top_k=size.k * size.batch_size
        )
    else:
        model = TopKSAE(size.n_columns, size.n_features, top_k=size.k)
    if shipped:
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
        return Overcomplete(model, optimizer, None, monitoring=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    scheduler = None
    if size.n_steps:
        rate = linear_schedule(size.n_steps, 1.0, WARMUP, DECAY)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return Overcomplete(model, optimizer, scheduler, monitoring=0)
