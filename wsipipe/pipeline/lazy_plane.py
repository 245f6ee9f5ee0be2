"""What a slide's network computes, as an array of which any part is computed when it is asked for.

dask joins the slices of an array with those of its chunks: of ``labels[600:800, 700:900]`` only these pixels are asked
for, not the chunks that hold them::

    |<------------ chunk ------------>|<------------ chunk ---...
             |<- asked for ->|
           |<--- computed --->|            whole cells of the pooling grid, so that labels do not depend on the part
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize

from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices, mirror
from wsipipe.geometry.network import round_up
from wsipipe.inference.block import BlockWork, predict_box
from wsipipe.inference.comparison import Compare
from wsipipe.rasters.region import Region, RegionRequest, region_of
from wsipipe.slides.slide import Level, Slide
from wsipipe.tissue.detect import find_tissue
from wsipipe.tissue.mask import TissueMask
from wsipipe.tissue.mask_file import TISSUE_OFF, given_mask, is_file

Values = npt.NDArray[np.uint8]
MASKS_KEPT = 8
"""Tissue masks kept per process; at most 2 MB each."""
_finding = threading.Lock()


@dataclass(frozen=True)
class LazyPlane:
    """Labels (y, x) or probabilities (class, y, x) of a slide, uint8, computed as they are indexed."""

    work: BlockWork
    """What computes them."""
    slide: Slide
    """The slide, in which the tissue is found."""
    tissue: str
    """Where to segment: ``auto``, ``off``, or the path of a mask."""
    tissue_identity: str
    """Identity of the tissue mask, as in a fingerprint."""
    region: RegionRequest | None = None
    """The region to segment; None: the whole slide."""
    classes: int | None = None
    """Number of classes whose probabilities these are; None: labels."""
    approximate: bool = False
    """Whether labels depend on the tiles, so that only whole ones are computed."""

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width), after the number of classes if these are probabilities."""
        return self.work.grid.shape if self.classes is None else (self.classes, *self.work.grid.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def lazy(self) -> da.Array:
        """The same as an array of dask, with a chunk for each block."""
        sides = [self.work.grid.block_sides(axis) for axis in (0, 1)]
        chunks = sides if self.classes is None else [(self.classes,), *sides]
        name = f"{'labels' if self.classes is None else 'probabilities'}-{tokenize(self)}"
        array: da.Array = da.from_array(self, tuple(chunks), name=name, meta=np.empty((0,) * self.ndim, np.uint8))
        return array

    def __getitem__(self, index: tuple[Any, ...]) -> Values:
        """The values at ``index``, which lies in one block: for each axis a number, an ascending slice, or a list."""
        *of_class, rows, cols = index
        height, width = self.work.grid.shape
        box = Box(*_ends(rows, height), *_ends(cols, width))
        if 0 in box.shape:
            return np.array(np.broadcast_to(np.uint8(0), self.shape)[index])
        found: Values = self._values(box)[(*of_class, _moved(rows, box.y0, height), _moved(cols, box.x0, width))]
        return found.copy()

    def _values(self, box: Box) -> Values:
        """The values of ``box``, 0 outside the region."""
        if self.region is None:
            return self._predicted(box)
        region, values = resident_region(self.region, self.slide, self.work.level), self._zeros(box)
        met = box.overlap(region.bounds)
        if met is not None and (inside := region.inside(met)).any():
            values[..., *met.seen_from(box).slices] = self._predicted(met) * inside
        return values

    def _zeros(self, box: Box) -> Values:
        return np.zeros((*self.shape[:-2], *box.shape), np.uint8)

    def _predicted(self, box: Box) -> Values:
        """The values of ``box``, valid until this thread predicts another."""
        grid, work = self.work.grid, self.work
        step, half = grid.core if self.approximate else grid.receptive.stride, grid.receptive.margin // 2
        ends = []
        for start, stop, size in ((box.y0, box.y1, grid.shape[0]), (box.x0, box.x1, grid.shape[1])):
            ends += [start // step * step, min(round_up(stop, step), size)]
        around = Box(*ends)
        if min(around.shape) < grid.core:  # too little to compare; the first whole core is
            work = replace(work, compare=Compare.NEVER)
        rows, cols = (
            _mirrored(start - half, round_up(stop, grid.receptive.stride) + half, size)
            for start, stop, size in ((around.y0, around.y1, grid.shape[0]), (around.x0, around.x1, grid.shape[1]))
        )
        found = predict_box(work, around, rows, cols, self._mask()).prediction
        values = found.labels if self.classes is None else found.probabilities
        if values is None:  # no tissue, so no tile was computed
            return self._zeros(box)
        part: Values = values[..., *box.seen_from(around).slices]
        return part

    def _mask(self) -> TissueMask | None:
        """Where to segment; None: everywhere."""
        if self.tissue == TISSUE_OFF:
            return None
        with _finding:  # one thread finds it, and the others wait for it
            return _mask_of(
                self.slide, self.work.level, self.tissue, self.tissue_identity, self.work.grid.receptive.halo
            )


@lru_cache(MASKS_KEPT)
def _mask_of(slide: Slide, level: Level, tissue: str, _identity: str, halo: int) -> TissueMask:
    return given_mask(tissue, level) if is_file(tissue) else find_tissue(slide, level, halo=halo)[0]


@lru_cache(MASKS_KEPT)
def resident_region(request: RegionRequest, slide: Slide, level: Level) -> Region:
    """The region that ``request`` asks for, drawn into ``level``, once per process; raises what `region_of` does."""
    return region_of(request, slide, level)


def _mirrored(start: int, stop: int, size: int) -> Indices:
    return mirror(np.arange(start, stop), size)


def _ends(index: Any, size: int) -> tuple[int, int]:
    """The first position at ``index`` of an axis of ``size``, and the one behind the last."""
    positions = np.atleast_1d(np.arange(size)[index])
    return (int(positions.min()), int(positions.max()) + 1) if positions.size else (0, 0)


def _moved(index: Any, first: int, size: int) -> Any:
    """``index`` of an axis of ``size``, relative to ``first``."""
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        return slice(start - first, stop - first, step)
    return np.asarray(index) - first
