"""The U-Net of Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), figure 1.

Every 3x3 convolution is **valid** (unpadded): an output pixel depends on true pixels only, which is
what makes tiles seamless. Shapes at line ends are (channels, side) of the paper's network:
one input channel, base 64, depth 4, two convolutions per level, a tile of 572 px.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsipipe.geometry.network import Receptive, UNetSizes


class UNet(nn.Module):
    """Logits (n, classes, h - 2 halo, w - 2 halo) from images (n, in_channels, h, w), float32.

    Parameters
    ----------
    in_channels
        Channels of the image.
    classes
        Channels of the logits: 2 or more for a softmax over classes, 1 for one sigmoid channel.
    base_channels
        Channels of the first level; each level below has twice as many.
    depth
        Number of 2x2 max poolings.
    convs_per_level
        3x3 valid convolutions, each with a ReLU, per level and side.
    dropout
        Share of the deepest level's outputs that a training step leaves out.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        base_channels: int = 64,
        depth: int = 4,
        convs_per_level: int = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.sizes = UNetSizes(depth, convs_per_level)
        self.in_channels, self.classes, self.base_channels = in_channels, classes, base_channels
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            level_convs(before, width, convs_per_level)
            for before, width in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in widths[:-1])
        self.merge = nn.ModuleList(level_convs(2 * width, width, convs_per_level) for width in widths[:-1])
        self.dropout = nn.Dropout(dropout)  # "at the end of the contracting path", section 3.1
        self.head = nn.Conv2d(base_channels, classes, 1)
        self.apply(he_init)

    @property
    def receptive(self) -> Receptive:
        """How far it looks, and the tiles that it takes."""
        return self.sizes.receptive

    @property
    def architecture(self) -> dict[str, int]:
        """The arguments that make this network again, except dropout, which belongs to its training."""
        return {
            "in_channels": self.in_channels,
            "classes": self.classes,
            "base_channels": self.base_channels,
            "depth": self.sizes.depth,
            "convs_per_level": self.sizes.convs,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, class, y, x), of the images ``x``, (n, channel, y, x), float32; see the class.

        Raises
        ------
        GeometryError
            If a pooling would meet an odd side; the message names the nearest legal sides.
        """
        for side in x.shape[-2:]:
            self.sizes.output_side(side)
        skips = []  # layer by layer, and skips popped: what is used up is freed at once
        for level, convs in enumerate(self.down):
            if level:
                x = nn.functional.max_pool2d(x, 2)  #           64, 284   128, 140   256,  68   512, 32
            for layer in convs.children():
                x = layer(x)  #                                 64, 568   128, 280   256, 136   512, 64   1024, 28
            skips.append(x)
        x = self.dropout(skips.pop())
        for up, merge in zip(self.up[::-1], self.merge[::-1], strict=True):
            x = up(x)  #                                       512,  56   256, 104   128, 200    64, 392
            x = torch.cat([center(skips.pop(), x), x], dim=1)  # 1024     512        256        128
            for layer in merge.children():
                x = layer(x)  #                                512,  52   256, 100   128, 196    64, 388
        logits: Tensor = self.head(x)  #                   classes, 388
        return logits


def level_convs(before: int, width: int, convs: int) -> nn.Sequential:
    """``convs`` times a 3x3 valid convolution and a ReLU, from ``before`` channels to ``width``."""
    layers: list[nn.Module] = []
    for i in range(convs):
        layers += [nn.Conv2d(width if i else before, width, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def center(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of ``skip``, (n, c, h, w), float32, as high and wide as ``like``: the paper's "copy and crop"."""
    top, left = (skip.shape[-2] - like.shape[-2]) // 2, (skip.shape[-1] - like.shape[-1]) // 2
    return skip[..., top : top + like.shape[-2], left : left + like.shape[-1]]


def he_init(module: nn.Module) -> None:
    """Weights of standard deviation sqrt(2 / incoming connections) (He et al. 2015), biases zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=(2 / incoming(module)) ** 0.5)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def incoming(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    """Connections into an output of ``layer``; a 2x2 transposed convolution of stride 2 has one per input channel."""
    return layer.in_channels * (layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)
