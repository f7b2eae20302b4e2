"""dictionary_learning: its BatchTopK and TopK trainers.

As shipped: its own learning rate. Rows have unit mean square norm, as its training
script makes them when asked to.
"""

from __future__ import annotations

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from arms import DECAY, LEARNING_RATE, WARMUP, Encoding, Size, fuse, l0

TRAINERS = {"mutual": BatchTopKTrainer, "token": TopKTrainer}


class DictionaryLearning:
    scale = 1.0

    def __init__(self, trainer, by_threshold: bool):
        self._trainer, self._step = trainer, 0
        self._by_threshold = by_threshold

    def step(self, x: Tensor) -> None:
        self._trainer.update(self._step, x)
        self._step += 1

    @torch.no_grad()
    def reconstruct(self, x: Tensor, training: bool) -> tuple[Tensor, float]:
        model = self._trainer.ae
        by_threshold = self._by_threshold and not training
        codes = model.encode(x, use_threshold=by_threshold)
        return model.decode(codes), l0(codes)

    def encoding(self) -> Encoding:
        model = self._trainer.ae
        return Encoding(
            model.encoder.weight.detach(),
            model.encoder.bias.detach(),
            model.decoder.weight.detach().T,
            model.b_dec.detach(),
        )


def make(size: Size, rule: str, shipped: bool) -> DictionaryLearning:
    n_steps = size.n_steps
    # The threshold is tracked from some step on, by default the thousandth.
    schedule = {"steps": 10**6, "warmup_steps": 0, "threshold_start_step": 0}
    if n_steps:
        schedule = {
            "steps": n_steps,
            "warmup_steps": int(WARMUP * n_steps),
            "decay_start": int((1 - DECAY) * n_steps),
            "threshold_start_step": n_steps // 2,
            # A mean of a thousand steps is for runs of many thousand.
            "threshold_beta": 0.999 if shipped else 0.9,
        }
    trainer = TRAINERS[rule](
        activation_dim=size.n_columns,
        dict_size=size.n_features,
        k=size.k,
        layer=0,
        lm_name="none",
        lr=None if shipped else LEARNING_RATE,
        seed=0,
        device="cpu",
        **schedule,
    )
    if not shipped:
        fuse(trainer.optimizer)
    # At inference its TopK, by default, keeps k of each row.
    return DictionaryLearning(trainer, by_threshold=rule == "mutual")
