"""The tissue mask of a slide, drawn over it."""

from __future__ import annotations

from math import inf

import imagecodecs
import numpy as np

from wsipipe.pictures.drawing import OUTLINE, as_rgb, inner_edge
from wsipipe.slides.pixels.overview import averaged_plane, choose_source
from wsipipe.slides.slide import Level, Slide
from wsipipe.tissue.mask import TissueMask

PREVIEW_PX = 1600
"""Long side of the picture of the tissue mask, in pixels."""
LEFT_OUT = 160
"""The grey that pixels outside the mask are mixed with."""


def tissue_png(slide: Slide, level: Level, mask: TissueMask, *, side: int = PREVIEW_PX) -> bytes:
    """``level`` of ``slide`` as a PNG of at most ``side`` px, greyed outside ``mask``, with the mask's outline.

    Raises
    ------
    SlideError
        If pixels cannot be read.
    """
    height, width = level.shape
    scale = max(1.0, max(height, width) / side)
    shape = max(1, round(height / scale)), max(1, round(width / scale))
    source, extent = choose_source(slide, level.index, shape, most_bytes=inf)
    image = as_rgb(averaged_plane(source, extent, shape), level.dtype)
    rows, cols = (
        np.minimum((2 * np.arange(n) + 1) * cells // (2 * n), cells - 1)
        for n, cells in zip(shape, mask.cells.shape, strict=True)
    )
    inside = mask.cells[rows][:, cols]
    image[~inside] = image[~inside] // 2 + LEFT_OUT // 2
    image[inner_edge(inside)] = OUTLINE
    return bytes(imagecodecs.png_encode(image))
