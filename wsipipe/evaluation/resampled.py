"""Planes read on another grid, by nearest neighbour, box by box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.evaluation.blockwise import READ_BLOCK_PX, Labelled, LabelPlane
from wsipipe.evaluation.ratios import Floats
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices

ROUNDING_PX = 1e-6
"""A middle that lies this near to the border of two pixels lies in the second, however its position was rounded."""


@dataclass(frozen=True)
class Lattice:
    """Pixels of an axis that are read in place of those of a grid."""

    count: int
    """How many pixels the grid has along this axis."""
    limit: int = 0
    """How many the axis has; 0: as many as the grid."""
    step: float = 1.0
    """Pixels of the axis that one of the grid spans."""
    offset: float = 0.0
    """Where the grid begins on the axis, in its pixels."""

    def positions(self, start: int, stop: int) -> Floats:
        """Where the middles of pixels ``start`` to ``stop`` of the grid lie on the axis, (pixels,), float64, px."""
        positions: Floats = (np.arange(start, stop, dtype=np.float64) + 0.5) * self.step + self.offset
        return positions

    def indices(self, start: int, stop: int) -> Indices:
        """The pixels of the axis in which these middles lie, (pixels,), int64; beyond its ends the last ones."""
        last = (self.limit or self.count) - 1
        found: Indices = np.clip(np.floor(self.positions(start, stop) + ROUNDING_PX), 0, last).astype(np.int64)
        return found

    @property
    def is_whole(self) -> bool:
        """Whether these are the pixels of the axis, one by one."""
        return self.step == 1 and not self.offset and self.limit in (0, self.count)


@dataclass(frozen=True, eq=False)
class ResampledPlane:
    """A plane, read at the pixels of two lattices."""

    plane: LabelPlane
    rows: Lattice
    cols: Lattice

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.plane.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the grid in pixels."""
        return self.rows.count, self.cols.count

    def read(self, box: Box) -> Labelled:
        """See `LabelPlane.read`; of a finer plane, no more than a block is held at once.

        Raises
        ------
        SlideError
            If the plane cannot be read.
        """
        rows, cols = self.rows.indices(box.y0, box.y1), self.cols.indices(box.x0, box.x1)
        source = Box(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
        height, width = box.shape
        if max(source.shape) > READ_BLOCK_PX and max(height, width) > 1:
            axis = 0 if height >= width else 1
            halves = [self.read(half) for half in _halves(box, axis)]
            return _combined(halves, lambda parts: np.concatenate(parts, axis=axis - 2))
        found = self.plane.read(source)
        rows, cols = rows - source.y0, cols - source.x0

        return _combined([found], lambda parts: parts[0][..., rows[:, np.newaxis], cols])


def resampled(plane: LabelPlane, lattices: tuple[Lattice, Lattice]) -> LabelPlane:
    """``plane`` at (rows, columns); itself where these are its pixels one by one."""
    rows, cols = lattices
    return plane if rows.is_whole and cols.is_whole else ResampledPlane(plane, rows, cols)


def _halves(box: Box, axis: int) -> Sequence[Box]:
    if axis == 0:
        middle = (box.y0 + box.y1) // 2
        return Box(box.y0, middle, box.x0, box.x1), Box(middle, box.y1, box.x0, box.x1)
    middle = (box.x0 + box.x1) // 2
    return Box(box.y0, box.y1, box.x0, middle), Box(box.y0, box.y1, middle, box.x1)


def _combined(parts: Sequence[Labelled], how: Callable[[Sequence[npt.NDArray[Any]]], npt.NDArray[Any]]) -> Labelled:
    """Each array of the labelled parts, combined by ``how``; those that the parts do not have stay None."""

    def of(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else how(arrays)

    return Labelled(of("classes"), of("instances"), of("inside"), of("probabilities"))
