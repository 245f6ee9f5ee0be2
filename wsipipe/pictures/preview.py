"""What a run would segment of a slide, the tissue of a region, drawn over it."""

from __future__ import annotations

import imagecodecs

from wsipipe.geometry.grid import Box
from wsipipe.pictures.caption import captioned
from wsipipe.pictures.drawing import draw_searched, level_at, nearest_cells
from wsipipe.rasters.region import Region
from wsipipe.slides.pixels.overview import fitted_shape
from wsipipe.slides.slide import Level, Slide
from wsipipe.tissue.mask import TissueMask
from wsipipe.tissue.searched import tissue_share_in

PREVIEW_PX = 1600
"""Long side of the picture of the tissue mask, in pixels."""


def tissue_png(
    slide: Slide, level: Level, mask: TissueMask | None, region: Region | None = None, *, side: int = PREVIEW_PX
) -> bytes:
    """``level`` of ``slide`` as a PNG of at most ``side`` px, greyed outside ``mask`` and ``region``, both outlined.

    A strip of `CAPTION_PX` below it has the slide's name, the shares of region and tissue, and a scale bar if the mpp
    is known.

    Raises
    ------
    SlideError
        If pixels cannot be read.
    """
    shape = fitted_shape(level.shape, side)
    image = level_at(slide, level.index, shape)
    tissue = None if mask is None else nearest_cells(mask.cells, shape)
    chosen = None if region is None else region.at(shape).inside(Box(0, shape[0], 0, shape[1]))
    draw_searched(image, tissue, chosen, grey_glass=True)
    um_per_px = None if level.mpp is None else level.mpp * level.shape[1] / shape[1]
    shares = [f"region {region.share:.1%} of the slide"] if region is not None else []
    if mask is not None:
        shares.append(f"tissue {tissue_share_in(mask, region):.1%} of the {'region' if region else 'slide'}")
    text = " · ".join((slide.file, *shares))
    return bytes(imagecodecs.png_encode(captioned(image, text, um_per_px)))
