"""BatchTopK in plain torch: dense codes, autograd, one ``topk`` of the whole batch.

The shortest way to write it, and what most code for one paper looks like. As shipped:
Adam as torch has it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from arms import DECAY, LEARNING_RATE, WARMUP, Encoding, Size, l0
from skchoice.schedule import linear_schedule


class Dense:
    scale = 1.0

    def __init__(self, size: Size, fused: bool):
        decoder = functional.normalize(torch.randn(size.n_features, size.n_columns))
        self._arrays = [
            decoder.clone().requires_grad_(),
            torch.zeros(size.n_features, requires_grad=True),
            decoder.requires_grad_(),
            torch.zeros(size.n_columns, requires_grad=True),
        ]
        self._k, self._threshold = size.k, 0.0
        self._optimizer = torch.optim.Adam(
            self._arrays, lr=LEARNING_RATE, fused=fused or None
        )
        n_steps = size.n_steps
        rate = linear_schedule(n_steps, 1.0, WARMUP, DECAY) if n_steps else lambda _: 1
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, rate)

    def _affinities(self, x: Tensor) -> Tensor:
        encoder, encoder_bias, _, decoder_bias = self._arrays
        return functional.linear(x - decoder_bias, encoder, encoder_bias).relu()

    def _kept(self, affinities: Tensor) -> tuple[Tensor, Tensor]:
        flat = affinities.flatten()
        values, places = flat.topk(self._k * len(affinities), sorted=False)
        codes = torch.zeros_like(flat).scatter(0, places, values)
        return codes.view_as(affinities), values.min()

    def _decode(self, codes: Tensor) -> Tensor:
        return codes @ self._arrays[2] + self._arrays[3]

    def step(self, x: Tensor) -> None:
        codes, cut = self._kept(self._affinities(x))
        loss = (x - self._decode(codes)).square().sum(1).mean()
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        with torch.no_grad():
            decoder = self._arrays[2]
            functional.normalize(decoder, dim=1, out=decoder)
            self._threshold += 0.1 * (cut.item() - self._threshold)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, training: bool) -> tuple[Tensor, float]:
        affinities = self._affinities(x)
        if training:
            codes, _ = self._kept(affinities)
        else:
            codes = affinities * (affinities > self._threshold)
        return self._decode(codes), l0(codes)

    def encoding(self) -> Encoding:
        return Encoding(*(array.detach() for array in self._arrays))


def make(size: Size, rule: str, shipped: bool) -> Dense:
    if rule != "mutual":
        raise ValueError(f"dense BatchTopK is for rule 'mutual', not {rule!r}")
    return Dense(size, fused=not shipped)
