"""What the operations in a network's file tell of how far it looks: where NaN would be lost, and what sees everything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsipipe.importing.legal_sides import Array, Sides, noise

HEIGHT = 2048
"""Height of the images in which NaN spreads, px: no network looks as far, but for those that look everywhere."""
NAN_ROWS = 32
"""Rows of NaN in their middle, px: more than any stride of the networks in use."""


def images_with_nan(channels: int, sides: Sides) -> Iterator[Array]:
    """Images (1, channel, y, x), tall with NaN in the middle rows, and wide with NaN in the middle columns."""
    height = sides.at_least(HEIGHT)
    image = noise(channels, height, sides.width(height))[None]
    image[:, :, (height - NAN_ROWS) // 2 : (height + NAN_ROWS) // 2] = np.nan
    yield image
    yield np.ascontiguousarray(image.swapaxes(2, 3))
