"""SAELens: its BatchTopK and TopK training SAEs under its trainer.

As shipped: its trainer's learning rate, constant. ``fused``: the schedule of ours, and
a faster mean for the threshold. Its TopK's ``use_sparse_activations`` is left alone:
with it the backward pass fails on CPU (torch 2.13). Rows have the norm that its option
``expected_average_only_in`` would give them.
"""

from __future__ import annotations

import math

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from arms import DECAY, LEARNING_RATE, WARMUP, Encoding, Size, fuse, l0


class SAELens:
    def __init__(self, trainer: SAETrainer):
        self._trainer = trainer
        self.scale = math.sqrt(trainer.sae.cfg.d_in)

    def step(self, x: Tensor) -> None:
        self._trainer.maybe_reset_sparsity()
        self._trainer.step(x)
        self._trainer.n_training_steps += 1

    @torch.no_grad()
    def reconstruct(self, x: Tensor, training: bool) -> tuple[Tensor, float]:
        sae = self._trainer.sae
        codes, pre = sae.encode_with_hidden_pre(x)
        if not training and hasattr(sae, "topk_threshold"):
            # As the JumpReLU SAE does that it saves for inference.
            codes = pre.relu() * (pre > sae.topk_threshold)
        return sae.decode(codes), l0(codes)

    def encoding(self) -> Encoding:
        sae = self._trainer.sae
        norm = sae.W_dec.detach().norm(dim=1)  # its codes are for unit rows
        return Encoding(
            sae.W_enc.detach().T * norm[:, None],
            sae.b_enc.detach() * norm,
            sae.W_dec.detach() / norm[:, None],
            sae.b_dec.detach(),
        )


def make(size: Size, rule: str, shipped: bool) -> SAELens:
    shape = {"d_in": size.n_columns, "d_sae": size.n_features, "device": "cpu"}
    if rule == "mutual":
        options = {} if shipped else {"topk_threshold_lr": 0.1}
        config = BatchTopKTrainingSAEConfig(k=float(size.k), **shape, **options)
        sae = BatchTopKTrainingSAE(config)
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=size.k, **shape))
    schedule = {"lr_end": 0.0}  # where its decay ends, if it has one
    if not shipped:
        schedule["lr"] = LEARNING_RATE
        if size.n_steps:
            schedule["lr_warm_up_steps"] = int(WARMUP * size.n_steps)
            schedule["lr_decay_steps"] = int(DECAY * size.n_steps)
    n_steps = size.n_steps or 10**6
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=n_steps * size.batch_size,
            train_batch_size_samples=size.batch_size,
            logger=LoggingConfig(log_to_wandb=False),
            **schedule,
        ),
        sae,
        data_provider=iter(()),
    )
    if not shipped:
        fuse(trainer.optimizer)
    return SAELens(trainer)
