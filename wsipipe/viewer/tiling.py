"""The tiles that a browser asks for: squares of a pyramid whose finest zoom has the pixels of the slide's finest level.

::

    zoom 0          one tile holds the whole slide
    zoom z          each of its pixels spans two by two of zoom z + 1
    zoom `last`     the pixels of the slide's finest level
"""

from __future__ import annotations

from dataclasses import dataclass

from wsipipe.geometry.grid import Box

TILE_PX = 512
"""Side of a tile in pixels."""


@dataclass(frozen=True)
class TileIndex:
    """One tile."""

    zoom: int
    row: int
    col: int


@dataclass(frozen=True)
class TilePyramid:
    """All tiles of a slide."""

    shape: tuple[int, int]
    """(height, width) of the slide's finest level in pixels."""

    @property
    def last(self) -> int:
        """The finest zoom."""
        return max(0, (-(-max(self.shape) // TILE_PX) - 1).bit_length())

    def scale(self, zoom: int) -> int:
        """Pixels of the slide's finest level that a pixel of ``zoom`` spans, along a side."""
        return int(2 ** (self.last - zoom))

    def box(self, tile: TileIndex) -> Box | None:
        """The pixels of its zoom that ``tile`` shows; fewer than a whole tile at the slide's end, None beyond it."""
        if not 0 <= tile.zoom <= self.last:
            return None
        height, width = (-(-side // self.scale(tile.zoom)) for side in self.shape)
        whole = Box(0, height, 0, width)
        y0, x0 = tile.row * TILE_PX, tile.col * TILE_PX
        return Box(y0, y0 + TILE_PX, x0, x0 + TILE_PX).overlap(whole)
