"""Objects are found where they lie on the slide: the store's scale and translation, at any ratio of the resolutions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr

import wsipipe
from tests.soak import rounds
from wsipipe.evaluation.sources import stored_downsample
from wsipipe.model.spec import default_classes

SHAPE = (1507, 1999)
DISC_PX = 31
"""Radius of the landmarks, in pixels of the slide's finest level."""
CENTRES = [(40.0, 40.0), (700.5, 1002.25), (1466.0, 1958.0), (44.0, 1950.5), (1460.25, 60.0)]


@pytest.fixture(scope="module")
def dark_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of one convolution whose label is 1 where a pixel is darker than mid-grey; 0.5 µm/px."""
    path = tmp_path_factory.mktemp("b") / "dark.safetensors"
    network = wsipipe.UNet(in_channels=3, classes=1, base_channels=1, depth=0, convs_per_level=1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        first, head = (module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight[0, :, 1, 1] = -1 / 3
        first.bias.fill_(1.0)
        head.weight.fill_(1.0)
        head.bias.fill_(-0.5)
    spec = wsipipe.ModelSpec(classes=default_classes(1), mpp=0.5, mean=(0.0,), std=(1.0,))
    wsipipe.save_model(path, network, spec)
    return str(path)


def disc_image() -> np.ndarray:
    """White, with black discs whose edges are grey by the share of the pixel that they cover."""
    ys, xs = np.ogrid[: SHAPE[0], : SHAPE[1]]
    nearest = np.min([np.hypot(ys - y, xs - x) for y, x in CENTRES], axis=0)
    light = (np.clip(nearest - DISC_PX + 0.5, 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(light[..., None], 3, axis=2)


def halved(image: np.ndarray) -> np.ndarray:
    """The next level, as libvips and scanners make it: an odd last row or column is left out."""
    height, width = (n // 2 for n in image.shape[:2])
    return image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).mean((1, 3)).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("mpp", "levels", "shrink", "index"),
    [
        (0.5, 1, 1.0, 0),
        (0.25, 3, 1.0, 1),
        *rounds(
            (0.1241, 2, 2.0145, 1), (0.25, 1, 2.0, 0), (0.2482, 1, 2.0145, 0), (0.125, 2, 2.0, 1), (0.54, 1, 0.926, 0)
        ),
    ],
)
def test_landmarks_are_found_within_a_quarter_of_a_pixel(
    tmp_path: Path, dark_model: str, mpp: float, levels: int, shrink: float, index: int
) -> None:
    image = disc_image()
    with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
        for level in range(levels):
            resolution = {"resolution": (1e4 / mpp / 2**level,) * 2, "resolutionunit": "CENTIMETER"}
            tiff.write(image, tile=(256, 256), photometric="rgb", metadata=None, subfiletype=level > 0, **resolution)
            image = halved(image)
    out = tmp_path / "out"
    summary = wsipipe.run(
        [tmp_path / "s.tif"], wsipipe.RunConfig(out=str(out), model=dark_model, device="cpu", block=512, tile=256)
    )
    assert summary.exit_code == 0, summary
    store = out / "s.zarr"
    attributes = json.loads((store / "zarr.json").read_bytes())["attributes"]
    assert attributes["wsipipe"]["mpp_source"] == "XResolution and YResolution tags"
    assert attributes["wsipipe"]["fingerprint"]["shrink"] == pytest.approx(shrink, abs=1e-4)
    assert attributes["wsipipe"]["fingerprint"]["level"] == index
    (multiscale,) = attributes["ome"]["multiscales"]
    # The coarser level is the mode of 2 x 2 labels, where two and two are a choice.
    for dataset, most in zip(multiscale["datasets"], (0.25, 0.5), strict=False):
        scale, translation = (t[t["type"]] for t in dataset["coordinateTransformations"])
        labels = zarr.open_array(store / dataset["path"])[:]
        for centre in CENTRES:
            there = [np.array([c - DISC_PX - 12, c + DISC_PX + 12]) * mpp for c in centre]  # micrometres around it
            (y0, y1), (x0, x1) = (
                np.round((um - t) / s).astype(int).clip(0, n)
                for um, t, s, n in zip(there, translation, scale, labels.shape, strict=True)
            )
            rows, cols = np.nonzero(labels[y0:y1, x0:x1])
            found = [
                (i.mean() + i0) * s + t for i, i0, s, t in zip((rows, cols), (y0, x0), scale, translation, strict=True)
            ]
            off = (np.array(found) - np.array(centre) * mpp) / scale
            assert np.abs(off).max() < most, (dataset["path"], centre)
    assert stored_downsample(store) == pytest.approx(shrink * 2**index, abs=1e-4)
