"""The optimizer of a training, its learning rate from step to step, and the loss that it lowers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsipipe.model.unet import UNet, incoming
from wsipipe.training.config import OptimizerConfig

FULL_RATE = 9 * 16
"""A layer with up to this many connections has the whole learning rate: 3x3 pixels of 16 channels."""


def make_optimizer(network: UNet, wish: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum, as in the paper, or AdamW; each group has its ``share`` of the learning rate.

    On a GPU, AdamW is one kernel for all parameters of a group.
    """
    if wish.name == "sgd":
        groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "share": 1.0}]
        return torch.optim.SGD(groups, lr=wish.learning_rate, momentum=wish.momentum)
    by_share: dict[float, list[Tensor]] = {}
    for parameter, share in shares_under_adam(network):
        by_share.setdefault(share, []).append(parameter)
    groups = [{"params": parameters, "share": share} for share, parameters in by_share.items()]
    cuda = next(network.parameters()).device.type == "cuda"
    return torch.optim.AdamW(groups, lr=wish.learning_rate, weight_decay=wish.weight_decay, fused=cuda)


def shares_under_adam(network: UNet) -> list[tuple[Tensor, float]]:
    """Each parameter, float32, any axes (...), with its share of the learning rate: less in layers of more connections.

    Adam moves every weight equally far, whatever its gradient; an output of n connections then moves n times as far as
    an output of one. At a rate that suits the first level, most outputs of the deepest level fall below 0 within the
    first steps, and a channel whose ReLU passes nothing on never recovers. So in a layer of n times `FULL_RATE`
    connections a weight moves 1 / n as far (Yang et al. 2022, arXiv:2203.03466, table 3), and one rate suits networks
    of any width and depth.
    """
    pairs = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.bias is not None
            pairs += [(layer.weight, min(1.0, FULL_RATE / incoming(layer))), (layer.bias, 1.0)]
    return pairs


def learning_rate(wish: OptimizerConfig, step: int, share: float) -> float:
    """The learning rate of ``step``, when ``share`` of the training is done.

    It warms up, then comes down to 0 by a cosine; for SGD it is constant after the warm-up.
    """
    warm = min(1.0, (step + 1) / wish.warm_up) if wish.warm_up else 1.0
    cosine = (1 + math.cos(math.pi * share)) / 2 if wish.name == "adamw" else 1.0
    return wish.learning_rate * warm * cosine


def mixed_precision(device: torch.device, wish: str) -> torch.dtype | None:
    """The dtype that ``device`` multiplies in, by ``[loop] precision``, or None for float32."""
    if wish != "auto":
        return torch.bfloat16 if wish == "bfloat16" else None
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def weighted_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over pixels of weight times cross entropy; binary cross entropy if there is one channel.

    Parameters
    ----------
    logits
        Logits, (n, classes, y, x), float32.
    target
        Classes, (n, y, x), int64.
    weight
        Weights, (n, y, x), float32: the paper's w(x).
    """
    if logits.shape[1] == 1:
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype), reduction="none")
    else:
        loss = functional.cross_entropy(logits, target, reduction="none")
    return (loss * weight).mean()
