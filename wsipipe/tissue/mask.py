"""The tissue mask of a plane of pixels, the segmented level: cells of equal size, each in or out.

::

    plane   |0    |1    |2    |3    |4    |5    |     H rows of pixels: the middle of r is in cell (2r + 1) h // 2H
    mask    |0             |1             |           h rows of cells

Rows and columns are those of the whole plane, so a pixel is in or out whatever block or tile it is computed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod, sqrt

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsipipe.arrays import Mask
from wsipipe.geometry.grid import Box

CELL_PX = 8
"""Least side of a cell in pixels of the level: half a nucleus at 0.5 micrometres per pixel."""
MOST_CELLS = 2**20
"""Most cells of a mask, but for rounding: a slide of 8192 x 8192 px has this many of `CELL_PX`."""
HOLE_PX = 256
"""Holes whose area in px is at most the square of this count as tissue, like their surroundings."""


def mask_shape(plane: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of cells of a mask for a ``plane`` of (height, width) px."""
    side = max(CELL_PX, sqrt(prod(plane) / MOST_CELLS))
    height, width = (ceil(size / side) for size in plane)
    return height, width


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Which pixels of a plane are segmented."""

    cells: Mask
    """Whether each cell is in, (row, column)."""
    plane: tuple[int, int]
    """(height, width) in pixels."""

    @property
    def share(self) -> float:
        """Share of the cells that are in, 0 to 1."""
        return float(self.cells.mean())

    def over(self, box: Box) -> Mask:
        """The cells that ``box``, in pixels, overlaps."""
        return self.cells[self._cell(0, box.y0) : self._cell(0, box.y1 - 1) + 1][
            :, self._cell(1, box.x0) : self._cell(1, box.x1 - 1) + 1
        ]

    def meets(self, box: Box) -> bool:
        """Whether any pixel of ``box`` is in."""
        return bool(self.over(box).any())

    def clear_outside(self, pixels: npt.NDArray[np.uint8], box: Box) -> None:
        """Set to 0 those ``pixels`` of ``box``, (..., y, x), uint8, that are outside the mask."""
        cells = self.over(box)
        if cells.all():
            return
        rows, cols = (
            self.cells_at(axis, np.arange(start, stop)) - self._cell(axis, start)
            for axis, (start, stop) in enumerate(((box.y0, box.y1), (box.x0, box.x1)))
        )
        outside = ~cells[:, cols]
        starts = np.searchsorted(rows, np.arange(len(cells) + 1))
        for cell, (y0, y1) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
            pixels[..., y0:y1, outside[cell]] = 0

    def cells_at(self, axis: int, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The rows (``axis`` 0) or columns of cells that rows or columns ``at`` of pixels, (n,) int64, lie in."""
        cells: npt.NDArray[np.int64] = (2 * at + 1) * self.cells.shape[axis] // (2 * self.plane[axis])
        return cells

    def _cell(self, axis: int, at: int) -> int:
        return int((2 * at + 1) * self.cells.shape[axis] // (2 * self.plane[axis]))


def widened(cells: Mask, plane: tuple[int, int], halo: int) -> Mask:
    """``cells`` with small holes closed, widened by ``halo`` px.

    Parameters
    ----------
    cells
        Where there is tissue.
    plane
        (height, width) in pixels that the cells span.
    halo
        Pixels that the network loses on each side of its input: with a narrower border, tissue would not be seen whole.
    """
    sides = [size / count for size, count in zip(plane, cells.shape, strict=True)]
    holes, count = ndimage.label(~cells)
    areas = np.bincount(holes.ravel(), minlength=count + 1) * prod(sides)
    small = areas <= HOLE_PX**2
    for edge in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        small[edge] = False  # a gap that reaches the edge of the slide is not a hole
    small[0] = False
    reach = [2 * ceil(halo / side) + 1 for side in sides]
    wide: Mask = ndimage.maximum_filter(cells | small[holes], reach, mode="constant", cval=False)
    return wide
