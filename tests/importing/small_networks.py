"""Small networks with random weights, one for each way in which networks look at an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsipipe.importing.legal_sides import Compute, Floats


class PaddedUNet(nn.Module):
    """A U-Net of 3x3 convolutions, padded, with a normalisation after each: (n, 2, y, x) of (n, 3, y, x)."""

    def __init__(
        self,
        depth: int,
        *,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        up: str = "transposed",
        align_corners: bool = False,
        padding_mode: str = "zeros",
        fit_to_skips: bool = False,
    ) -> None:
        super().__init__()
        self.up, self.align_corners, self.fit_to_skips = up, align_corners, fit_to_skips

        def convs(before: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (before, 4):
                conv = nn.Conv2d(channels, 4, 3, padding=1, padding_mode=padding_mode)
                layers += [conv, norm(4), nn.ReLU()]
            return nn.Sequential(*layers)

        self.down = nn.ModuleList(convs(4 if level else 3) for level in range(depth + 1))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(4, 4, 2, stride=2) for _ in range(depth))
        self.merge = nn.ModuleList(convs(8) for _ in range(depth))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, convs in enumerate(self.down):
            x = convs(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for enlarge, merge in zip(self.enlarge, self.merge, strict=True):
            if self.up == "transposed":
                x = enlarge(x)
            else:
                x = F.interpolate(x, scale_factor=2, mode=self.up, align_corners=self.align_corners)
            skip = skips.pop()
            if self.fit_to_skips:  # as many U-Nets do that take any side
                more_y, more_x = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
                x = F.pad(x, [more_x // 2, more_x - more_x // 2, more_y // 2, more_y - more_y // 2])
            x = merge(torch.cat([skip, x], 1))
        return self.head(x)


class OnlySide(nn.Module):
    """``network``, for square tiles of ``side`` px only."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.side, self.side):
            raise RuntimeError(f"index: 2 Got: {x.shape[2]} Expected: {self.side}")
        return self.network(x)


class Residual(nn.Module):
    """``x + layers(x)``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Strided(nn.Module):
    """Two strided convolutions and a skip, which takes sides of two remainders modulo 4: 0 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 4, 3, stride=2), conv(4, 4, 3, stride=2)
        self.enlarge, self.last = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.ConvTranspose2d(8, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.first(x)
        return self.last(torch.cat([fine, self.enlarge(self.second(fine))], 1))


class SqueezeExcite(nn.Module):
    """Channels weighted by their mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


class SelfAttention(nn.Module):
    """Attention of each pixel to all others."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


class NormOverSpace(nn.Module):
    """Layer normalisation over channels and space."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:])


class WithoutNaN(nn.Module):
    """A ReLU that swallows NaN, as ``max(a, b)`` does in some runtimes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.0)


def conv(before: int, after: int, kernel: int, **options: int) -> nn.Conv2d:
    """A padded convolution."""
    dilation = options.get("dilation", 1)
    return nn.Conv2d(before, after, kernel, padding=kernel // 2 * dilation, **options)


def evaluated(network: nn.Module) -> nn.Module:
    """``network`` for evaluation, with weights that let the deepest layers matter, and statistics as of a training."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def computing(network: nn.Module) -> Compute:
    """``network`` as a function of arrays."""
    evaluated(network)

    def compute(images: Floats) -> Floats:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(np.ascontiguousarray(images))).numpy()
        assert isinstance(outputs, np.ndarray)
        return outputs

    return compute
