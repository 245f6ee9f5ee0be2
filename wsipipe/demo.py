"""The slide of ``wsipipe demo``, drawn rather than scanned, and a picture of its segmentation.

Stains absorb light by the law of Beer and Lambert: a pixel is ``glass * exp(-(H h + E e))``, with the optical densities
h and e of haematoxylin and eosin per channel (Ruifrok and Johnston 2001), and the amounts H and E of the two stains.
"""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from wsipipe.pictures.caption import captioned
from wsipipe.pictures.drawing import draw_found
from wsipipe.slides.pixels.overview import RgbImage
from wsipipe.slides.slide import Slide
from wsipipe.store.finished import open_finished

Drawing = npt.NDArray[np.float32]

SHAPE, MPP, TILE = (1536, 2048), 0.5, 256
GLASS = 243.0
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
EOSIN = np.array([0.07, 0.99, 0.11], np.float32)


def write_slide(path: Path, *, seed: int = 7) -> None:
    """Write a pyramidal TIFF of `SHAPE` (y, x) px, at `MPP` micrometres per pixel, that looks like stained tissue."""
    image = draw_tissue(np.random.default_rng(seed), SHAPE)
    with tifffile.TiffWriter(path) as tiff:
        for down in (1, 2, 4):
            height, width = SHAPE[0] // down, SHAPE[1] // down
            small = image.reshape(height, down, width, down, 3).mean((1, 3)).round().astype(np.uint8)
            tiff.write(
                small,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 90},
                subfiletype=0 if down == 1 else 1,
                resolution=(1e4 / MPP / down, 1e4 / MPP / down),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )


def draw_tissue(rng: np.random.Generator, shape: tuple[int, int]) -> RgbImage:
    """An image (y, x, 3), uint8, RGB, of nuclei in a pink matrix, surrounded by glass."""
    ys, xs = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    inside = smooth_step((0.85 + 0.15 * noise(rng, shape, 200) - np.hypot(ys, xs)) * 30)
    eosin = inside * (0.45 + 0.10 * noise(rng, shape, 60) + 0.06 * noise(rng, shape, 6))
    haematoxylin = inside * np.maximum(0.05 + 0.02 * noise(rng, shape, 30), 0)
    texture = 1 + 0.22 * noise(rng, shape, 2.5)
    draw_nuclei(rng, haematoxylin, inside * (0.6 + 0.8 * (noise(rng, shape, 90) > -0.2)), texture)
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    grain = rng.normal(0, 1.5, (*shape, 3)).astype(np.float32)
    image: RgbImage = np.clip(GLASS * np.exp(-density) + grain, 0, 255).astype(np.uint8)
    return image


def draw_nuclei(rng: np.random.Generator, haematoxylin: Drawing, crowding: Drawing, texture: Drawing) -> None:
    """Add ellipses of 5 to 11 micrometres to ``haematoxylin``, in place, more of them where ``crowding`` is high.

    All three are (y, x), float32: the amount of stain, the density of nuclei, and a texture that scales the stain.
    """
    spacing = 21
    for y in range(spacing, haematoxylin.shape[0] - spacing, spacing):
        for x in range(spacing, haematoxylin.shape[1] - spacing, spacing):
            cy, cx = np.array([y, x]) + rng.uniform(-7, 7, 2)
            long, short, angle = rng.uniform(7, 11), rng.uniform(5, 7.5), rng.uniform(0, np.pi)
            if rng.uniform(0.25, 1.6) > crowding[y, x]:
                continue
            box = np.s_[y - spacing : y + spacing, x - spacing : x + spacing]
            dy, dx = np.mgrid[box].astype(np.float32) - np.array([[[cy]], [[cx]]], np.float32)
            along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            radius = np.hypot(along / long, across / short)
            membrane = 1 + 0.35 * np.exp(-(((radius - 0.9) / 0.12) ** 2))
            body = smooth_step((1 - radius) * 9) * rng.uniform(0.75, 1.35) * membrane * texture[box]
            haematoxylin[box] = np.maximum(haematoxylin[box], body)


def noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Drawing:
    """Gaussian noise (y, x), float32, of unit variance, smoothed with a sigma of ``scale`` px."""
    spectrum = np.fft.rfft2(rng.standard_normal(shape))
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    smooth = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * scale) ** 2 * (fy**2 + fx**2)), shape)
    plane: Drawing = (smooth / smooth.std()).astype(np.float32)
    return plane


def smooth_step(x: Drawing) -> Drawing:
    """The logistic function of ``x`` (y, x), float32: it rises from 0 to 1 within about 4 units around 0."""
    return (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)


def write_picture(path: Path, slide: Slide, store: Path, *, side: int = 720) -> None:
    """Write a PNG of the middle of ``slide``, at most ``side`` px, next to the same pixels with outlined labels."""
    level = slide.levels[0]
    (y0, height), (x0, width) = (((size - min(side, size)) // 2, min(side, size)) for size in level.shape)
    here = np.s_[y0 : y0 + height, x0 : x0 + width]
    image = level.read(y0, x0, height, width)
    labels = np.asarray(zarr.open_array(store / "0", mode="r")[here])
    gap = np.full((height, 8, 3), 255, np.uint8)
    finished = open_finished(str(store))
    found = image.copy()
    draw_found(found, labels, finished.classes)
    share = "" if finished.tissue_share is None else f" · tissue {finished.tissue_share:.0%} of the slide"
    sides = np.hstack([image, gap, found])
    path.write_bytes(imagecodecs.png_encode(captioned(sides, f"{slide.file}{share}", slide.mpp)))
