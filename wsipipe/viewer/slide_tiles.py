"""Tiles of a slide's pixels, read at the level that fits each zoom."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from wsipipe.errors import SlideError
from wsipipe.geometry.grid import Box
from wsipipe.pictures.drawing import as_rgb
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.pixels.overview import RgbImage, aligned_levels, averaged_plane, choose_source, fitted_shape
from wsipipe.slides.slide import AS_IT_IS, Level, Slide
from wsipipe.viewer.tiling import TileIndex, TilePyramid

PAPER = 255
"""The grey of what lies beyond the pixels of a level."""
CONTRAST_PX, CONTRAST_BYTES = 256, 2**26
"""Long side of the plane that the brightest value is looked for in, and bytes of the level that it is made from."""


class SlideTiles:
    """The tiles of one slide, as RGB.

    Levels that do not show what the finest shows, such as those cut by a scanner, are not used.
    """

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.tiling = TilePyramid(slide.levels[0].shape)
        self._levels = [level for level, _ in aligned_levels(slide)]

    def rgb(self, tile: TileIndex, box: Box) -> RgbImage:
        """The pixels of ``tile``, whose place is ``box``, (y, x, 3), uint8; what cannot be decoded is black.

        Raises
        ------
        SlideReadError
            If the file cannot be read.
        """
        scale = self.tiling.scale(tile.zoom)
        level = [level for level in self._levels if level.downsample <= scale * (1 + AS_IT_IS)][-1]
        shrink = scale / level.downsample
        return self._read(level if abs(shrink - 1) <= AS_IT_IS else level.shrunk(shrink), box)

    def _read(self, level: Level, box: Box) -> RgbImage:
        image = np.full((*box.shape, 3), PAPER, np.uint8)
        met = box.overlap(Box(0, level.shape[0], 0, level.shape[1]))
        if met is not None:
            pixels = read_box(level, met, unread={})
            image[met.seen_from(box).slices] = (
                pixels[..., :3]
                if pixels.dtype == np.uint8 and level.channels in (3, 4)
                else as_rgb(pixels.astype(np.float32), level.dtype, brightest=self._brightest)
            )
        return image

    @cached_property
    def _brightest(self) -> float:
        """The value that is shown white, one for all tiles: the brightest of the whole slide, small."""
        shape = fitted_shape(self.slide.levels[0].shape, CONTRAST_PX)
        try:
            level, extent = choose_source(self.slide, 0, shape, most_bytes=CONTRAST_BYTES)
        except SlideError:
            return float(np.iinfo(self.slide.levels[0].dtype).max)
        return float(averaged_plane(level, extent, shape).max())
