"""The optimiser of a training, its rate from step to step, and its loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsipipe.model.unet import UNet, incoming
from wsipipe.training.config import OptimizerConfig

FULL_RATE = 9 * 16
"""Connections of a layer up to which its weights have the whole learning rate: those of 3x3 pixels of 16 channels."""


def make_optimizer(network: UNet, wish: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum, as in the paper, or AdamW; a ``share`` of the learning rate goes with each group."""
    if wish.name == "sgd":
        groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "share": 1.0}]
        return torch.optim.SGD(groups, lr=wish.learning_rate, momentum=wish.momentum)
    groups = [{"params": [p], "share": share} for p, share in shares_under_adam(network)]
    return torch.optim.AdamW(groups, lr=wish.learning_rate, weight_decay=wish.weight_decay)


def shares_under_adam(network: UNet) -> list[tuple[Tensor, float]]:
    """Each parameter with its share of the learning rate: a weight's is less, the more connections its layer has.

    Adam moves every weight as far, whatever its gradient; an output of n connections then moves n times as far as one
    of a single one. At a rate that suits the first level most outputs of the deepest are thrown below 0 within the
    first steps, and where its ReLU passes nothing on, a channel never comes back. So a weight of n times
    `FULL_RATE` connections moves 1 / n as far (Yang et al. 2022, arXiv:2203.03466, table 3), and one rate suits
    networks of any width and depth.
    """
    pairs = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.bias is not None
            pairs += [(layer.weight, min(1.0, FULL_RATE / incoming(layer))), (layer.bias, 1.0)]
    return pairs


def learning_rate(wish: OptimizerConfig, step: int, share: float) -> float:
    """That of ``step``, with ``share`` of the training done: warm-up, then a cosine down to 0; constant for SGD."""
    warm = min(1.0, (step + 1) / wish.warm_up) if wish.warm_up else 1.0
    cosine = (1 + math.cos(math.pi * share)) / 2 if wish.name == "adamw" else 1.0
    return wish.learning_rate * warm * cosine


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """What ``device`` multiplies faster than float32 and precisely enough to train with, or None."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def weighted_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over pixels of weight times cross entropy; of one channel binary cross entropy from logits.

    Parameters
    ----------
    logits
        (n, classes, y, x), float32.
    target
        (n, y, x), int64: the class.
    weight
        (n, y, x), float32: the paper's w(x).
    """
    if logits.shape[1] == 1:
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype), reduction="none")
    else:
        loss = functional.cross_entropy(logits, target, reduction="none")
    return (loss * weight).mean()
