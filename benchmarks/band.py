"""Tiles of other shapes, and a band whose features are kept from one tile to the next, against square tiles.

    python benchmarks/band.py [-m MODEL] [--rounds N]

A band of tiles has no margin on its left and right: before each 3x3 convolution stand the last two columns of its
input to the tile before, and each skip waits until the deeper levels have caught up. That is exact (the first line
shows it) and saves the margin's share of the multiplications along the band, but joins columns to every tensor, which
copies it. OpenVINO, all cores, float32; speeds are those of the bare network, in pixels that are kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13 as ops
from torch import nn

from wsipipe.geometry.network import UNetSizes
from wsipipe.inference.devices import FLOAT32
from wsipipe.inference.engines.openvino import TO_THE_END, Node, biased, compiled, graph
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import load_model
from wsipipe.model.unet import UNet

Tensor = npt.NDArray[np.float32]
TILES = (
    (1024, 1024),
    (1024, 2048),
    (1024, 4096),
    (2048, 1024),
    (4096, 1024),
    (2048, 2048),
    (2048, 4096),
    (3072, 3072),
    (512, 4096),
)
BANDS = ((1024, 512), (1024, 1024), (512, 1024), (2048, 512))
"""(height, width) in pixels of the cores, the smallest first, and of the steps of a band."""
BAND_PX = 4096
"""Length of a band."""


class Band:
    """``network`` for one tile of a band after another; `lag` columns of the first outputs lie before the band."""

    def __init__(self, network: UNet) -> None:
        self._inputs = [ops.parameter([-1, network.in_channels, -1, -1], np.float32)]
        self._kept: list[Node] = []
        self._states: list[Tensor] = []
        depth, convs, lag = network.sizes.depth, network.sizes.convs, 0
        x: Node = self._inputs[0]
        skips: list[tuple[Node, int]] = []
        for level, contract in enumerate(network.down):
            if level:
                x, lag = self._late(x, lag % 2), lag + lag % 2  # the windows of the pooling stay where they are
                x, lag = ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0), lag // 2
            x, lag = self._layers(x, contract.children(), lag)
            skips.append((x, lag))
        x, lag = skips.pop()
        for level in reversed(range(depth)):
            lost = UNetSizes(depth - level, convs).halo - 2 * convs
            up, (skip, skip_lag) = network.up[level], skips.pop()
            assert isinstance(up, nn.ConvTranspose2d)
            x, lag = biased(ops.convolution_backprop_data(x, up.weight.detach().numpy(), [2, 2]), up), 2 * lag
            skip = ops.slice(skip, [lost], [-lost or TO_THE_END], [1], [2])
            x = ops.concat([self._late(skip, lag - lost - skip_lag), x], 1)
            x, lag = self._layers(x, network.merge[level].children(), lag)
        x, self.lag = self._layers(x, [network.head], lag)
        whole = openvino.Model([x, *self._kept], self._inputs, "band")
        self._request = compiled(whole, os.cpu_count() or 1, FLOAT32)

    def _after(self, x: Node, columns: int) -> Node:
        """``x`` after the last ``columns`` of the tile before."""
        channels = x.get_output_partial_shape(0) if hasattr(x, "get_output_partial_shape") else x.get_partial_shape()
        before = ops.parameter([-1, channels[1].get_length(), -1, columns], np.float32)
        joined = ops.concat([before, x], 3)
        self._inputs.append(before)
        self._kept.append(ops.slice(joined, [-columns], [TO_THE_END], [1], [3]))
        return joined

    def _late(self, x: Node, columns: int) -> Node:
        """``x``, ``columns`` later."""
        return ops.slice(self._after(x, columns), [0], [-columns], [1], [3]) if columns else x

    def _layers(self, x: Node, modules: Iterable[nn.Module], lag: int) -> tuple[Node, int]:
        for module in modules:
            if isinstance(module, nn.Conv2d):
                lost = module.kernel_size[1] - 1
                x, lag = self._after(x, lost) if lost else x, lag + lost
                x = biased(ops.convolution(x, module.weight.detach().numpy(), [1, 1], [0, 0], [0, 0], [1, 1]), module)
            else:
                x = ops.relu(x)
        return x, lag

    def start(self, heights: list[int]) -> None:
        """Begin a band, whose tensors have ``heights`` before it: nothing but zeros."""
        shapes = [one.get_partial_shape() for one in self._inputs[1:]]
        self._states = [
            np.zeros((1, shape[1].get_length(), height, shape[3].get_length()), np.float32)
            for shape, height in zip(shapes, heights, strict=True)
        ]

    def __call__(self, tile: Tensor) -> Tensor:
        """The output (1, class, y, x) for the next ``tile`` (1, channel, y, x); valid until the next call."""
        found = self._request.infer([tile, *self._states])
        self._states = [found[i + 1].copy() for i in range(len(self._states))]
        return np.asarray(found[0])


def heights_of(sizes: UNetSizes, height: int) -> list[int]:
    """The heights of the tensors that a band of ``height`` px keeps columns of, in their order."""
    heights, skips, lag = [], [], 0
    for level in range(sizes.depth + 1):
        if level:
            heights += [height] * (lag % 2)
            height, lag = height // 2, (lag + lag % 2) // 2
        for _ in range(sizes.convs):
            heights.append(height)
            height, lag = height - 2, lag + 2
        skips.append((height, lag))
    height, lag = skips.pop()
    for level in reversed(range(sizes.depth)):
        lost = UNetSizes(sizes.depth - level, sizes.convs).halo - 2 * sizes.convs
        height, lag, (skip, skip_lag) = 2 * height, 2 * lag, skips.pop()
        heights += [skip - 2 * lost] * (lag > lost + skip_lag)
        for _ in range(sizes.convs):
            heights.append(height)
            height, lag = height - 2, lag + 2
    return heights


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-m", "--model", default=str(DEFAULT_MODEL))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    network = load_model(args.model).network
    assert isinstance(network, UNet)
    margin, random = network.sizes.receptive.margin, np.random.default_rng(0)
    whole, band = compiled(graph(network), os.cpu_count() or 1, FLOAT32), Band(network)

    def image(height: int, width: int) -> Tensor:
        return random.random((1, network.in_channels, height, width), np.float32)

    def in_band(pixels: Tensor, step: int) -> list[Tensor]:
        band.start(heights_of(network.sizes, pixels.shape[2]))
        ends = range(step, pixels.shape[3] + 1, step)
        return [band(np.ascontiguousarray(pixels[..., end - step : end])).copy() for end in ends]

    pixels = image(64 + margin, 1024 + margin)
    joined = np.concatenate(in_band(pixels, network.sizes.receptive.stride * 8), 3)[..., band.lag :]
    differences = np.abs(joined - whole.infer([pixels])[0][..., : joined.shape[3]])
    print(f"largest difference between a band and the whole: {differences.max()}")

    def seconds(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    speeds: dict[str, list[float]] = {}
    for _ in range(args.rounds + 1):  # the first is a warm-up
        for height, width in TILES:
            tile = image(height + margin, width + margin)
            took = seconds(lambda tile=tile: whole.infer([tile], share_outputs=True))  # type: ignore[misc]
            speeds.setdefault(f"tiles of {height} x {width}", []).append(height * width / 1e6 / took)
        for height, step in BANDS:
            strip = image(height + margin, BAND_PX)
            took = seconds(lambda strip=strip, step=step: in_band(strip, step))  # type: ignore[misc]
            speeds.setdefault(f"a band of {height}, steps of {step}", []).append(height * BAND_PX / 1e6 / took)
    first = next(iter(speeds.values()))
    for name, found in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(found[1:], first[1:], strict=True))
        print(f"{name:32} {statistics.median(found[1:]):6.3f} MP/s   {ratio:.3f}")


if __name__ == "__main__":
    main()
