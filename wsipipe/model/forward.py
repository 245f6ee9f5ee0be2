"""From pixels to the labels that a network gives them, the same in training, validation and inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices, mirror
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.model.model_file import BACKGROUND, ModelSpec
from wsipipe.model.unet import UNet

ReadPixels = Callable[[Indices, Indices], npt.NDArray[Any]]


def compute_float32(device: torch.device) -> None:
    """Have convolutions on ``device`` keep all 24 bits of float32, and add up in the same order each time.

    TF32 has 11, and then labels differ by GPU. cuDNN still takes another order for tiles of another size.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True


class Normalise:
    """Pixels as a share of full scale, less the mean, over the standard deviation, per channel."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)

    def __call__(self, shares: Tensor) -> Tensor:
        """``shares`` (n, channel, y, x), float32 in 0 .. 1, normalised in place."""
        return shares.sub_(self.mean).div_(self.std)

    def pixels(self, tiles: npt.NDArray[Any]) -> Tensor:
        """``tiles`` (n, y, x, channel), uint8 or uint16, normalised, (n, channel, y, x) on the device."""
        full_scale = float(np.iinfo(tiles.dtype).max)
        device = self.mean.device
        on_device = torch.from_numpy(tiles).to(device, non_blocking=device.type == "cuda")  # mps may read it too late
        on_device = on_device.permute(0, 3, 1, 2)  # channels last, without a copy
        return self(on_device.to(torch.float32).div_(full_scale))


def core_of(logits: Tensor, receptive: Receptive) -> Tensor:
    """The middle of ``logits``, float32: (n, class, core, core) of a network's output for tiles of core + margin."""
    crop = receptive.crop
    return logits[..., crop : logits.shape[-2] - crop, crop : logits.shape[-1] - crop]


def label_values(spec: ModelSpec, device: torch.device) -> Tensor:
    """The label of each index that `winner` gives, (index,), uint8."""
    labels = [c.label for c in spec.classes]
    return torch.tensor(labels if len(labels) > 1 else [BACKGROUND, *labels], dtype=torch.uint8, device=device)


def winner(logits: Tensor) -> Tensor:
    """Index (n, y, x), int64, of the largest of ``logits`` (n, class, y, x); one sigmoid channel wins above zero."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def probabilities_of(logits: Tensor) -> Tensor:
    """Softmax of ``logits`` over classes, or the sigmoid of a single one, (n, class, y, x), float32."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


@torch.inference_mode()
def predict_box(
    network: UNet, spec: ModelSpec, read: ReadPixels, box: Box, *, shape: tuple[int, int], core: int = 512
) -> npt.NDArray[np.uint8]:
    """Labels, uint8 (y, x), of a ``box`` of an image, the same that a run writes there.

    Parameters
    ----------
    network, spec
        Those of a model; the network in evaluation mode, on any device.
    read
        Returns the pixels at rows x cols, (len(rows), len(cols), channel), uint8 or uint16.
    box
        The part to predict; its corner lies on the pooling grid.
    shape
        (height, width) of the image, px; beyond it the image is mirrored.
    core
        Largest side in pixels of the core of a tile, on the pooling grid.
    """
    receptive, device = network.receptive, next(network.parameters()).device
    half, step = receptive.margin // 2, receptive.stride
    assert box.y0 % step == box.x0 % step == 0, f"{box} is off the pooling grid of {step} px"
    normalise, values = Normalise(spec, device), label_values(spec, device)
    labels = np.empty(box.shape, np.uint8)
    for y0 in range(box.y0, box.y1, core):
        for x0 in range(box.x0, box.x1, core):
            height, width = min(core, box.y1 - y0), min(core, box.x1 - x0)
            rows = mirror(np.arange(y0 - half, y0 + round_up(height, step) + half), shape[0])
            cols = mirror(np.arange(x0 - half, x0 + round_up(width, step) + half), shape[1])
            tile = normalise.pixels(np.ascontiguousarray(read(rows, cols))[None])
            found = values[winner(core_of(network(tile), receptive))][0].cpu().numpy()
            here = np.s_[y0 - box.y0 : y0 - box.y0 + height, x0 - box.x0 : x0 - box.x0 + width]
            labels[here] = found[:height, :width]
    return labels
