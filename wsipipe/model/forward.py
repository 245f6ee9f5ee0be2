"""From pixels to the labels that a network gives them, the same in training, validation and inference."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices, mirror
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.model.network import LABELS, SIGMOID, SOFTMAX, Head
from wsipipe.model.spec import BACKGROUND, ModelSpec
from wsipipe.model.unet import UNet
from wsipipe.model.unet_file import UNetInfo

ReadPixels = Callable[[Indices, Indices], npt.NDArray[Any]]


def compute_float32(device: torch.device, *, tf32: bool = False) -> None:
    """Have convolutions on ``device`` keep all 24 bits of float32, and add up in the same order each time.

    With ``tf32`` they keep 11, which tensor cores multiply, and labels differ by GPU. cuDNN still takes another order
    for tiles of another size. The setting is that of the whole process.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.deterministic = True


class Normalise:
    """Pixels as a share of full scale, less the mean, over the standard deviation, per channel."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self.mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
        self._known: dict[np.dtype[Any], npt.NDArray[np.float32]] = {}

    def __call__(self, shares: Tensor) -> Tensor:
        """``shares`` (n, channel, y, x), float32 in 0 .. 1, normalised in place."""
        return shares.sub_(self.mean).div_(self.std)

    def pixels(self, tiles: npt.NDArray[Any]) -> Tensor:
        """``tiles`` (n, y, x, channel), uint8 or uint16, normalised, (n, channel, y, x) on the device."""
        device = self.mean.device
        if device.type == "cpu":
            return torch.from_numpy(self._looked_up(tiles))
        full_scale = float(np.iinfo(tiles.dtype).max)
        on_device = torch.from_numpy(tiles).to(device, non_blocking=device.type == "cuda")  # mps may read it too late
        on_device = on_device.permute(0, 3, 1, 2)  # channels last, without a copy
        if device.type == "cuda":
            return self.in_one_pass(on_device, full_scale)
        return self(on_device.to(torch.float32).div_(full_scale))

    def in_one_pass(self, pixels: Tensor, full_scale: float) -> Tensor:
        """``pixels`` (n, channel, y, x), uint8 or uint16, normalised; the last bit may differ from `__call__`.

        A GPU reads and writes memory once instead of four times: 15 bytes a pixel of three channels, not 87, where a
        network of 16 channels moves some 1,000 in bfloat16. Its convolutions have last bits of their own anyhow.
        """
        return torch.addcmul(-self.mean / self.std, pixels, 1 / (self.std * full_scale))

    def _looked_up(self, tiles: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """As `pixels`, each value from a table of what it becomes: a tenth of the time of computing it anew."""
        tables, found = self._tables(tiles.dtype), np.empty((len(tiles), tiles.shape[3], *tiles.shape[1:3]), np.float32)
        for n, tile in enumerate(tiles):
            for channel in range(tiles.shape[3]):
                table = tables[channel % len(tables)]  # one for all channels, or one each
                table.take(tile[..., channel], out=found[n, channel], mode="clip")  # clip, as raise would copy
        return found

    def _tables(self, dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
        """What each value of ``dtype`` becomes, (channel, value), float32."""
        if dtype not in self._known:
            full_scale = np.iinfo(dtype).max
            values = torch.arange(full_scale + 1, dtype=torch.float32).div_(float(full_scale))
            channels = max(self.mean.shape[1], self.std.shape[1])
            self._known[dtype] = self(values.repeat(1, channels, 1, 1))[0, :, 0].numpy()
        return self._known[dtype]


def core_of(output: Tensor, receptive: Receptive) -> Tensor:
    """The core's part, in the middle, of ``output`` (n, class, y, x), float32, for tiles of core + margin."""
    crop = receptive.crop // receptive.scale
    return output[..., crop : output.shape[-2] - crop, crop : output.shape[-1] - crop]


def label_values(spec: ModelSpec, head: Head, device: torch.device) -> Tensor:
    """The label of each index that `winner` gives, (index,), uint8."""
    labels = [c.label for c in spec.classes]
    return torch.tensor([BACKGROUND, *labels] if head.kind == SIGMOID else labels, dtype=torch.uint8, device=device)


def winner(output: Tensor, head: Head) -> Tensor:
    """Index (n, y, x), int64, of the class that wins in ``output`` (n, class, y, x).

    Of a softmax it is the largest, in a tie the first. Of sigmoids, which are classes 1, 2 and so on, it is the most
    probable one if it is more probable than not; else 0, background.
    """
    if head.kind == LABELS:
        return output[:, 0].long()
    if head.kind == SOFTMAX:
        return output.max(1).indices  # on CPUs in a tenth of the time of argmax(1)
    even = 0.5 if head.activated else 0.0
    if output.shape[1] == 1:
        return (output[:, 0] > even).long()
    most = output.max(1)
    return torch.where(most.values > even, most.indices + 1, 0)


def probabilities_of(output: Tensor, head: Head) -> Tensor:
    """Softmax or sigmoid of ``output``, as ``head`` says, (n, class, y, x), float32.

    On a CPU they go through float64: torch computes the last elements of a row by another exp() than those before,
    so the last bit of float32 would depend on the place in the tile, and with it some labels of averages.
    """
    if head.activated:
        return output
    wide = output.double() if output.device.type == "cpu" else output
    return (wide.sigmoid() if head.kind == SIGMOID else wide.softmax(1)).float()


def uncertainty_of(shares: Tensor, head: Head) -> Tensor:
    """How undecided probabilities ``shares`` (n, class, y, x) are, (n, y, x), float: 0, certain, to 1, all alike.

    Of a softmax it is their entropy, over the logarithm of the number of classes; of sigmoids that of the most probable
    class and its complement, in bits. On a CPU in float64, as `probabilities_of`.

    Sources: Shannon 1948, doi:10.1002/j.1538-7305.1948.tb01338.x (entropy); Wang et al. 2019, arXiv:1807.07356 (of what
    test-time augmentation gives, as uncertainty of a segmentation).
    """
    wide = shares.to(torch.float64 if shares.device.type == "cpu" else torch.float32, copy=True).clamp_(0, 1)
    if head.kind == SIGMOID:
        most = wide.amax(1, keepdim=True)
        wide = torch.cat([most, 1 - most], 1)
    entropy: Tensor = torch.special.entr(wide).sum(1)
    return entropy.div_(log(max(wide.shape[1], 2))).clamp_(max=1)


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
    head = UNetInfo(network.architecture).head
    half, step = receptive.margin // 2, receptive.stride
    assert box.y0 % step == box.x0 % step == 0, f"{box} is off the pooling grid of {step} px"
    normalise, values = Normalise(spec, device), label_values(spec, head, device)
    labels = np.empty(box.shape, np.uint8)
    for y0 in range(box.y0, box.y1, core):
        for x0 in range(box.x0, box.x1, core):
            height, width = min(core, box.y1 - y0), min(core, box.x1 - x0)
            rows = mirror(np.arange(y0 - half, y0 + round_up(height, step) + half), shape[0])
            cols = mirror(np.arange(x0 - half, x0 + round_up(width, step) + half), shape[1])
            tile = normalise.pixels(np.ascontiguousarray(read(rows, cols))[None])
            found = values[winner(core_of(network(tile), receptive), head)][0].cpu().numpy()
            here = np.s_[y0 - box.y0 : y0 - box.y0 + height, x0 - box.x0 : x0 - box.x0 + width]
            labels[here] = found[:height, :width]
    return labels
