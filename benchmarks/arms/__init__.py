"""The peers, one file each: what they are given, and what is asked of them.

Every peer trains with its own code, called as its documentation says. Variants differ
in nothing but options: ``as shipped`` has the package's defaults; ``fused`` has torch's
fused Adam, and a learning rate and schedule as ours have; ``bfloat16`` also lets
torch round the operands of float32 products to bfloat16, where the processor is faster
so, and with that no longer computes the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# What all arms share in the comparison: the learning rate, and the shares of a run that
# it rises and falls in.
LEARNING_RATE, WARMUP, DECAY = 3e-3, 0.05, 0.5


class Size(NamedTuple):
    """What all arms share."""

    batch_size: int
    n_columns: int
    n_features: int
    k: int
    n_steps: int | None  # of a run with a schedule; None: constant, and long begun


class Encoding(NamedTuple):
    """An autoencoder in plain arrays; it ranks ``relu(W (x - b_dec) + b_enc)``."""

    encoder: Tensor  # (n_features, n_columns)
    encoder_bias: Tensor  # (n_features,)
    decoder: Tensor  # (n_features, n_columns)
    decoder_bias: Tensor  # (n_columns,), 0 where the encoder does not subtract it


class Arm(Protocol):
    """One peer, set up to train."""

    scale: float  # root mean square norm of the rows it is to be given

    def step(self, x: Tensor) -> None:
        """Train on one batch: forward, backward, optimizer, all bookkeeping."""

    def reconstruct(self, x: Tensor, training: bool) -> tuple[Tensor, float]:
        """Return reconstructions and L0, as in training or as at inference."""

    def encoding(self) -> Encoding | None:
        """Return the parameters as they are; None if it encodes in another way."""


@dataclass(frozen=True)
class Entry:
    """A row of the table of peers."""

    package: str  # as it is installed
    rule: str  # "token" or "mutual"
    module: str
    variant: str
    precision: str = "highest"

    @property
    def name(self) -> str:
        return f"{self.package} {self.rule}, {self.variant}"

    def build(self, size: Size) -> Arm:
        """Set the peer up; raise ImportError if it is not installed."""
        module = importlib.import_module(f"arms.{self.module}")
        torch.manual_seed(0)
        make: Callable[..., Arm] = module.make
        with self.rounding():
            return make(size, self.rule, shipped=self.variant == "as shipped")

    @contextmanager
    def rounding(self) -> Iterator[None]:
        """Let torch multiply float32 matrices in this precision."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _variants(package: str, rule: str, module: str) -> list[Entry]:
    return [
        Entry(package, rule, module, "as shipped"),
        Entry(package, rule, module, "fused"),
        Entry(package, rule, module, "fused, bfloat16", "medium"),
    ]


PEERS = [
    *_variants("dictionary-learning", "mutual", "dictionary_learning"),
    *_variants("sae-lens", "mutual", "saelens"),
    *_variants("overcomplete", "mutual", "overcomplete"),
    *_variants("torch", "mutual", "dense"),
    *_variants("eai-sparsify", "token", "sparsify"),
    *_variants("dictionary-learning", "token", "dictionary_learning"),
    *_variants("sae-lens", "token", "saelens"),
    *_variants("overcomplete", "token", "overcomplete"),
    Entry("scikit-learn", "token", "minibatch", "as shipped"),
]


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Switch an Adam that has made no step yet to its fused form."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


def l0(codes: Tensor) -> float:
    """Return the nonzero codes per row."""
    return codes.count_nonzero().item() / len(codes)
