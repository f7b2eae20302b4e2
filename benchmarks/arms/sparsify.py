"""sparsify (eai-sparsify): its sparse coder, and what its trainer does around it.

The trainer itself takes a language model, so its step is made of the same calls here.
As shipped: sign descent, free of schedules; the trainer's other choice is Adam.
"""

from __future__ import annotations

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig
from sparsify.sign_sgd import SignSGD
from torch import Tensor

from arms import DECAY, LEARNING_RATE, WARMUP, Encoding, Size
from skchoice.schedule import linear_schedule


class Sparsify:
    scale = 1.0

    def __init__(self, coder: SparseCoder, optimizer, scheduler):
        self._coder, self._optimizer, self._scheduler = coder, optimizer, scheduler
        self._options = TrainConfig(sae=coder.cfg)
        self._silent = torch.zeros(coder.num_latents, dtype=torch.long)
        self._fresh = True

    def step(self, x: Tensor) -> None:
        coder = self._coder
        if self._fresh:
            coder.b_dec.data = x.mean(0)
            self._fresh = False
        coder.set_decoder_norm_to_unit_norm()
        dead, coefficient = None, self._options.auxk_alpha
        if coefficient > 0:
            dead = self._silent > self._options.dead_feature_threshold
        out = coder(x, dead_mask=dead)
        (out.fvu + coefficient * out.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._scheduler is not None:
            self._scheduler.step()
        self._silent += len(x)
        self._silent[out.latent_indices.flatten()] = 0

    @torch.no_grad()
    def reconstruct(self, x: Tensor, training: bool) -> tuple[Tensor, float]:
        averaged = not training and isinstance(self._optimizer, ScheduleFreeWrapper)
        if averaged:
            self._optimizer.eval()
        out = self._coder(x)
        if averaged:
            self._optimizer.train()
        return out.sae_out, out.latent_acts.count_nonzero().item() / len(x)

    def encoding(self) -> Encoding:
        coder = self._coder
        return Encoding(
            coder.encoder.weight.detach(),
            coder.encoder.bias.detach(),
            coder.W_dec.detach(),
            coder.b_dec.detach(),
        )


def make(size: Size, rule: str, shipped: bool) -> Sparsify:
    coder = SparseCoder(
        size.n_columns, SparseCoderConfig(num_latents=size.n_features, k=size.k)
    )
    if shipped:
        rate = 5e-3 / (size.n_features / 2**14) ** 0.5
        optimizer = ScheduleFreeWrapper(
            SignSGD(coder.parameters(), lr=rate), momentum=0.95
        )
        optimizer.train()
        return Sparsify(coder, optimizer, None)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LEARNING_RATE, fused=True)
    scheduler = None
    if size.n_steps:
        rate = linear_schedule(size.n_steps, 1.0, WARMUP, DECAY)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return Sparsify(coder, optimizer, scheduler)
