"""Images and labels brought to another resolution."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from wsipipe.arrays import Pixels
from wsipipe.errors import ResolutionError
from wsipipe.rasters.image import Raster

SCALED_PX = 2**28
"""An image that would be larger once scaled has a wrong resolution."""


def scaled_shape(image: Raster, mpp: float | None, wanted: float | None) -> tuple[int, int]:
    """(height, width) of ``image``, of ``mpp``, at ``wanted`` micrometres per pixel; as it is if within 5 %."""
    if wanted is None:
        return image.shape
    if mpp is None:
        raise ResolutionError(
            f"{image.path} has no micrometres per pixel; give them in the table's column mpp, or object_um, "
            "or take mpp out of the configuration to train at whatever the images have"
        )
    if abs(mpp - wanted) <= MPP_TOLERANCE * wanted:
        return image.shape
    height, width = (max(1, round(side * mpp / wanted)) for side in image.shape)
    if height * width > SCALED_PX:
        raise ResolutionError(
            f"{image.name} of {image.shape[0]} x {image.shape[1]} px at {mpp:g} micrometres per pixel would have "
            f"{height} x {width} at {wanted:g}; is that its resolution?"
        )
    return height, width


def resized(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """``pixels`` (y, x, channel) by bicubic interpolation, without aliasing, in ``shape``; of the same dtype."""
    if pixels.shape[:2] == shape:
        return pixels
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    scaled = functional.interpolate(planes, shape, mode="bicubic", antialias=True, align_corners=False)[0]
    top = np.iinfo(pixels.dtype).max
    return np.ascontiguousarray(scaled.permute(1, 2, 0).round().clamp(0, top).numpy().astype(pixels.dtype))


def nearest(plane: Pixels, shape: tuple[int, int]) -> Pixels:
    """``plane`` (y, x) in ``shape``, each pixel that of the nearest centre."""
    rows, cols = ((2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(shape, plane.shape, strict=True))
    return plane[rows[:, None], cols]  # type: ignore[no-any-return]


MPP_TOLERANCE = 0.05
"""An image held in memory whose mpp is this near to the wanted one, as a share of it, is taken as it is."""
