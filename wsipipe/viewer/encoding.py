"""Tiles as the bytes of pictures that browsers show."""

from __future__ import annotations

import imagecodecs
import numpy as np

from wsipipe.slides.pixels.overview import RgbImage
from wsipipe.viewer.result_tiles import RgbaImage
from wsipipe.viewer.tiling import TILE_PX

JPEG_QUALITY = 85
PNG_LEVEL = 1
"""Compression of PNG: 6 takes five times as long for tiles that are a fifth smaller."""
Encoded = tuple[bytes, str]
"""The bytes of a picture, and its media type."""


def encoded_picture(image: RgbImage) -> Encoded:
    """An image (y, x, 3), uint8, of any size as JPEG."""
    return bytes(imagecodecs.jpeg8_encode(image, level=JPEG_QUALITY)), "image/jpeg"


def encoded_slide(image: RgbImage) -> Encoded:
    """A slide's tile (y, x, 3), uint8, as JPEG; as PNG, transparent beyond the slide, if it is smaller than a tile."""
    if image.shape[:2] == (TILE_PX, TILE_PX):
        return encoded_picture(image)
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    return encoded_overlay(np.concatenate([image, opaque], axis=-1))


def encoded_overlay(image: RgbaImage) -> Encoded:
    """A tile (y, x, 4), uint8, as PNG, filled up to a whole tile with transparent pixels."""
    whole = np.zeros((TILE_PX, TILE_PX, 4), np.uint8)
    whole[: image.shape[0], : image.shape[1]] = image
    return bytes(imagecodecs.png_encode(whole, level=PNG_LEVEL)), "image/png"


NOTHING = encoded_overlay(np.zeros((0, 0, 4), np.uint8))
"""A tile without a pixel."""
