"""Images and labels scaled to another resolution."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from wsipipe.arrays import Pixels, size_text
from wsipipe.errors import ResolutionError
from wsipipe.rasters.image import Raster

MPP_TOLERANCE = 0.05
"""An image held in memory is not scaled if its mpp differs from the wanted one by this share of it, or less."""
SCALED_PX = 2**28
"""An image that would have more pixels than this once scaled has a wrong resolution."""


def scaled_shape(image: Raster, mpp: float | None, wanted: float | None) -> tuple[int, int]:
    """(height, width) at ``wanted`` micrometres per pixel of ``image``, which has ``mpp``; unchanged if within 5 %.

    Raises
    ------
    ResolutionError
        If ``mpp`` is not known, or would make the image too large.
    """
    if wanted is None:
        return image.shape
    if mpp is None:
        raise ResolutionError(
            f"{image.path} has no micrometres per pixel; give them in the table's column mpp, [data] mpp or object_um, "
            "or leave out mpp (and --from) to train at the resolution of the images"
        )
    if abs(mpp - wanted) <= MPP_TOLERANCE * wanted:
        return image.shape
    height, width = (max(1, round(side * mpp / wanted)) for side in image.shape)
    if height * width > SCALED_PX:
        raise ResolutionError(
            f"{image.name} of {size_text(image.shape)} at {mpp:g} micrometres per pixel would be "
            f"{size_text((height, width))} at {wanted:g}; is that its resolution?"
        )
    return height, width


def resized(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """``pixels``, (y, x, channel), uint8 or uint16, scaled to ``shape`` by bicubic interpolation without aliasing."""
    if pixels.shape[:2] == shape:
        return pixels
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    scaled = functional.interpolate(planes, shape, mode="bicubic", antialias=True, align_corners=False)[0]
    top = np.iinfo(pixels.dtype).max
    return np.ascontiguousarray(scaled.permute(1, 2, 0).round().clamp(0, top).numpy().astype(pixels.dtype))


def nearest(plane: Pixels, shape: tuple[int, int]) -> Pixels:
    """``plane``, (y, x), any dtype, scaled to ``shape``; each pixel is the one with the nearest centre."""
    rows, cols = ((2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(shape, plane.shape, strict=True))
    return plane[rows[:, None], cols]  # type: ignore[no-any-return]
