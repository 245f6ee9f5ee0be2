"""The tissue mask of a slide, drawn over it."""

from __future__ import annotations

from math import inf

import imagecodecs

from wsipipe.pictures.caption import captioned
from wsipipe.pictures.drawing import OUTLINE, as_rgb, inner_edge, nearest_cells
from wsipipe.slides.pixels.overview import averaged_plane, choose_source, fitted_shape
from wsipipe.slides.slide import Level, Slide
from wsipipe.tissue.mask import TissueMask

PREVIEW_PX = 1600
"""Long side of the picture of the tissue mask, in pixels."""
LEFT_OUT = 160
"""The grey that pixels outside the mask are mixed with."""


def tissue_png(slide: Slide, level: Level, mask: TissueMask, *, side: int = PREVIEW_PX) -> bytes:
    """``level`` of ``slide`` as a PNG of at most ``side`` px, greyed outside ``mask``, with the mask's outline.

    A strip of `CAPTION_PX` below it has the slide's name, the share of tissue, and a scale bar if the mpp is known.

    Raises
    ------
    SlideError
        If pixels cannot be read.
    """
    shape = fitted_shape(level.shape, side)
    source, extent = choose_source(slide, level.index, shape, most_bytes=inf)
    image = as_rgb(averaged_plane(source, extent, shape), level.dtype)
    inside = nearest_cells(mask.cells, shape)
    image[~inside] = image[~inside] // 2 + LEFT_OUT // 2
    image[inner_edge(inside)] = OUTLINE
    um_per_px = None if level.mpp is None else level.mpp * level.shape[1] / shape[1]
    text = f"{slide.file} · tissue {mask.share:.1%} of the slide"
    return bytes(imagecodecs.png_encode(captioned(image, text, um_per_px)))
