"""The limit of a GPU on paper: wsipipe's U-Net in megapixels of result a second, and the cores that decode as many.

    python benchmarks/roofline.py [--core N]

A layer reads its input and writes its output once, with bias and ReLU fused; weights stay in the caches. The limit is
that of the roofline model: the device either computes all the time or moves bytes all the time.

Sources
-------
- Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785 (the model)
- NVIDIA H200 Tensor Core GPU, data sheet, https://www.nvidia.com/en-us/data-center/h200/ (the SXM's peaks, which are
  stated there with sparsity for tensor cores: dense they are half of it)
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from math import ceil

import wsipipe
from wsipipe.geometry.network import UNetSizes
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.unet_file import UNetInfo

BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a value between two layers, by precision."""
DECODING_MPS = (100, 160)
"""Megapixels of JPEG tiles that a core decodes a second, in a run and alone (`reading.py`)."""


@dataclass(frozen=True)
class Device:
    """The peaks of a device."""

    name: str
    flops: dict[str, float]
    """Operations a second, by precision; an addition is one, a multiplication another."""
    bandwidth: float
    """Bytes a second between its memory and its processor."""


H200 = Device(
    "NVIDIA H200 SXM",
    {"float32": 67e12, "tf32": 494e12, "bfloat16": 989e12, "float16": 989e12},
    4.8e12,
)


@dataclass(frozen=True)
class Work:
    """The work for one pixel of the result."""

    flop: float
    """Operations."""
    values: float
    """Values read and written."""

    def limit(self, device: Device, precision: str) -> tuple[float, str]:
        """Pixels of result a second that ``device`` computes at most, and what limits it: memory or compute."""
        by = {
            "compute": device.flops[precision] / self.flop,
            "memory": device.bandwidth / (self.values * BYTES[precision]),
        }
        return min((limit, what) for what, limit in by.items())


def work_of(architecture: dict[str, int], core: int) -> Work:
    """The work of the network of ``architecture`` (`UNet.architecture`) for one pixel of a tile of ``core`` px.

    It walks the layers as `UNet.forward` does; the pixels of the margin are computed too, and not counted.
    """
    sizes = UNetSizes(architecture["depth"], architecture["convs_per_level"])
    base, convs, depth = architecture["base_channels"], sizes.convs, sizes.depth
    side, channels, flop, values = core + sizes.receptive.margin, architecture["in_channels"], 0, 0

    def layer(out_channels: int, out_side: int, connections: int) -> None:
        """Count a layer whose output has so many channels and ``connections`` multiplications and additions each."""
        nonlocal side, channels, flop, values
        flop += 2 * connections * out_channels * out_side**2
        values += channels * side**2 + out_channels * out_side**2
        side, channels = out_side, out_channels

    for level in range(depth + 1):
        if level:
            layer(channels, side // 2, 0)  # pooling
        for _ in range(convs):
            layer(base << level, side - 2, 9 * channels)
    for level in reversed(range(depth)):
        layer(base << level, side * 2, channels)  # transposed convolution: one pixel below each of four
        channels *= 2  # the cropped skip
        layer(channels, side, 0)  # concatenation
        for _ in range(convs):
            layer(base << level, side - 2, 9 * channels)
    layer(architecture["classes"], side, channels)
    return Work(flop / core**2, values / core**2)


def main() -> None:
    """Print a line for each network and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", type=int, default=1024, help="side of a tile's core, px")
    args = parser.parse_args()
    shipped = wsipipe.load_model(DEFAULT_MODEL).info.network
    assert isinstance(shipped, UNetInfo)
    paper = {"in_channels": 3, "classes": 2, "depth": 4, "convs_per_level": 2}
    networks = {f"base {base}, depth 4": {**paper, "base_channels": base} for base in (16, 32, 64)}
    networks["nuclei (base {base_channels}, depth {depth})".format(**shipped.architecture)] = shipped.architecture
    print(f"{H200.name}, core of {args.core} px")
    for name, architecture in networks.items():
        one = work_of(architecture, args.core)
        for precision in ("float32", "tf32", "bfloat16"):
            pixels, what = one.limit(H200, precision)
            low, high = (ceil(pixels / 1e6 / speed) for speed in reversed(DECODING_MPS))
            print(
                f"{name:24} {precision:8} {one.flop / 1e3:6.0f} kFLOP/px {one.values * BYTES[precision]:6.0f} B/px "
                f"{pixels / 1e6:7,.0f} MP/s ({what}); decoded by {low} to {high} cores"
            )


if __name__ == "__main__":
    main()
