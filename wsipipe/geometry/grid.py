"""Places of the blocks, cores, shards and pyramid levels of one slide, in integers.

Four sizes, never mixed up:

====== =========================================================================================
tile   what one forward pass of the network sees: core + margin
block  the unit of work: one task, one writer, one unit of resume; holds whole cores
shard  one file of the label array; equal to a block
chunk  what a viewer reads; a block halved until it is at most 512 px
====== =========================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from wsipipe.arrays import size_text
from wsipipe.errors import GeometryError
from wsipipe.geometry.mirror import Indices, mirror
from wsipipe.geometry.network import Receptive, check_multiple, round_up

CHUNK_PX = 512
"""The largest chunk side: what viewers read at once."""


@dataclass(frozen=True, order=True)
class Box:
    """A half-open rectangle of pixels, ``[y0:y1, x0:x1]``."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of these pixels in an array (y, x)."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def overlap(self, other: Box) -> Box | None:
        """The pixels that both have in common; None if there are none."""
        y0, y1 = max(self.y0, other.y0), min(self.y1, other.y1)
        x0, x1 = max(self.x0, other.x0), min(self.x1, other.x1)
        return Box(y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None

    def moved(self, y: int, x: int) -> Box:
        """The same box, ``y`` px further down and ``x`` px further right."""
        return Box(self.y0 + y, self.y1 + y, self.x0 + x, self.x1 + x)

    def seen_from(self, origin: Box) -> Box:
        """The same box relative to the first pixel of ``origin``."""
        return self.moved(-origin.y0, -origin.x0)

    def __str__(self) -> str:
        return f"[{self.y0}:{self.y1}, {self.x0}:{self.x1}]"


def boxes(shape: tuple[int, int], side: int) -> Iterator[Box]:
    """Boxes of ``side`` px that cover a plane of ``shape`` (height, width), row by row; the last ones are cut to it."""
    for y0 in range(0, shape[0], side):
        for x0 in range(0, shape[1], side):
            yield Box(y0, min(y0 + side, shape[0]), x0, min(x0 + side, shape[1]))


@dataclass(frozen=True)
class Grid:
    """The plane of one slide, cut into blocks of whole cores.

    Raises
    ------
    GeometryError
        If the core is off the pooling grid, the block does not hold whole cores, or the block is
        smaller than the margin that its neighbours take from it.
    """

    shape: tuple[int, int]
    """(height, width) of the plane in pixels."""
    receptive: Receptive
    """The sizes of the network."""
    core: int
    """Side in pixels of the output of one tile."""
    block: int
    """Side in pixels of one unit of work."""

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise GeometryError(f"a plane of {size_text(self.shape)} has no pixels")
        self.receptive.check_core(self.core)
        check_multiple("block", self.block, self.core, "is the side of a tile core", "--block")
        if self.block < self.receptive.margin // 2:
            least = round_up(self.receptive.margin // 2, self.core)
            raise GeometryError(
                f"block {self.block} px is smaller than the {self.receptive.margin // 2} px that its neighbours "
                f"take from it; smallest with this core: {least} (--block)"
            )

    def __repr__(self) -> str:
        rows, cols = self.blocks
        return f"Grid of {rows} x {cols} blocks of {self.block} px, row by column -> {size_text(self.shape)}"

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of blocks, (rows, columns)."""
        return -(-self.shape[0] // self.block), -(-self.shape[1] // self.block)

    @property
    def count(self) -> int:
        """Number of blocks in all."""
        return self.blocks[0] * self.blocks[1]

    def indices(self) -> Iterator[tuple[int, int]]:
        """The (row, column) of every block, row by row."""
        rows, cols = self.blocks
        return ((row, col) for row in range(rows) for col in range(cols))

    @property
    def every_block(self) -> BlocksLeft:
        """All blocks of the grid."""
        return BlocksLeft(self)

    def block_box(self, index: tuple[int, int]) -> Box:
        """The pixels of block ``index``; the last ones of a row or column may be smaller than the others."""
        (y0, y1), (x0, x1) = (
            (i * self.block, min((i + 1) * self.block, size)) for i, size in zip(index, self.shape, strict=True)
        )
        return Box(y0, y1, x0, x1)

    def block_sides(self, axis: int) -> tuple[int, ...]:
        """The sides in pixels of the blocks along ``axis``: the chunks of the label array in dask's sense."""
        full, rest = divmod(self.shape[axis], self.block)
        return (self.block,) * full + ((rest,) if rest else ())

    def computed_sides(self, axis: int) -> tuple[int, ...]:
        """Like `block_sides`, but rounded up to the pooling grid: the computed sides, before the cut to the slide."""
        return tuple(round_up(side, self.receptive.stride) for side in self.block_sides(axis))

    def coordinates(self, axis: int) -> tuple[Indices, tuple[int, ...]]:
        """Pixel indices along ``axis``, int64, and their chunks: one chunk a block, to be overlapped.

        The last chunk carries its own margin beyond the end of the slide, mirrored here as often as needed. So no
        chunk is smaller than the overlap (dask would merge such chunks silently), the computed size of the last block
        need not be the slide's, and a slide smaller than the margin is not a special case::

            |<--- block --->|<--- block --->|<- rest, rounded up ->|<- margin/2 ->|
            0                                              size ...mirrored...    end
        """
        computed = self.computed_sides(axis)
        chunks = (*computed[:-1], computed[-1] + self.receptive.margin // 2)
        return mirror(np.arange(sum(chunks)), self.shape[axis]), chunks

    def reached_from(self, box: Box) -> Box:
        """The pixels whose labels depend on the pixels of ``box``, in whole cells of the pooling grid.

        Every pixel of a cell, stride px wide, is computed from the pixels up to half a margin around the cell, so it
        does not depend on cores and blocks. A mirrored pixel lies further from a cell than its original, except for
        the last cell, if less than half of it is on the plane.
        """
        step, reach = self.receptive.stride, self.receptive.margin // 2
        ends = []
        for start, stop, size in ((box.y0, box.y1, self.shape[0]), (box.x0, box.x1, self.shape[1])):
            mirrored = (2 * size - stop - reach) // step * step < size
            behind = size if mirrored else min(size, ((stop - 1 + reach) // step + 1) * step)
            ends += [max(0, (start - reach) // step * step), behind]
        return Box(*ends)

    def cores(self, computed: tuple[int, int]) -> Iterator[Box]:
        """The cores of a block whose ``computed`` (height, width) px are computed, relative to its origin.

        A core at the end is as small as the pooling grid allows, so that little is computed for nothing.
        """
        for y0 in range(0, computed[0], self.core):
            for x0 in range(0, computed[1], self.core):
                yield Box(y0, min(y0 + self.core, computed[0]), x0, min(x0 + self.core, computed[1]))

    @cached_property
    def chunk(self) -> int:
        """Side in pixels of a chunk, the same at every level: the block halved until it is at most 512 px or odd."""
        chunk = self.block
        while chunk > CHUNK_PX and chunk % 2 == 0:
            chunk //= 2
        return chunk

    @cached_property
    def block_levels(self) -> int:
        """Number of levels, from the finest, that a block writes by itself: until its shard is a single chunk."""
        return (self.block // self.chunk).bit_length()

    @cached_property
    def level_shapes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level in pixels, halved and rounded up until one chunk holds it."""
        shapes = [self.shape]
        while max(shapes[-1]) > self.chunk or len(shapes) < self.block_levels:
            shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        return tuple(shapes)

    def coarse_passes(self) -> Iterator[range]:
        """The levels that blocks do not write, in the order in which they are made, several at once.

        Each pass is made from the level before it, of which no more than a block's pixels, or two chunks square, are
        needed for one chunk of the pass's last level.
        """
        step = max(1, self.block_levels - 1)
        for first in range(self.block_levels, len(self.level_shapes), step):
            yield range(first, min(first + step, len(self.level_shapes)))

    def shard(self, level: int) -> int:
        """Side in pixels of a shard of ``level``: the block's share of it, and never less than a chunk."""
        return max(self.block >> level, self.chunk)


@dataclass(frozen=True)
class BlocksLeft(Collection[tuple[int, int]]):
    """The (row, column) of the blocks of ``grid`` that are not ``done``, row by row; nothing is held but ``done``.

    A header may claim 2^46 pixels, whose 16 million blocks take 2 GB as a list.
    """

    grid: Grid
    done: frozenset[tuple[int, int]] = frozenset()

    def __len__(self) -> int:
        return self.grid.count - len(self.done)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return (index for index in self.grid.indices() if index not in self.done)

    def __contains__(self, index: object) -> bool:
        inside = isinstance(index, tuple) and all(0 <= i < n for i, n in zip(index, self.grid.blocks, strict=True))
        return inside and index not in self.done

    @property
    def pixels(self) -> int:
        """Number of pixels in them."""
        done = (self.grid.block_box(index).shape for index in self.done)
        return prod(self.grid.shape) - sum(map(prod, done))


def fit_sizes(
    receptive: Receptive, core: int | None, block: int | None, *, preferred: tuple[int, int]
) -> tuple[int, int]:
    """Core and block sides in px: as given, or else as near to ``preferred`` as possible.

    Parameters
    ----------
    receptive
        The sizes of the network.
    core, block
        The sides asked for, or None.
    preferred
        (core, block) if none is asked for; neither is exceeded, unless a single core is larger.

    Returns
    -------
    tuple
        (core, block): the block holds whole cores, and is at least half a margin.

    Raises
    ------
    GeometryError
        If a size that is given is off the pooling grid.
    """
    step, most = receptive.stride, receptive.largest_core or preferred[0]
    if core is not None:
        receptive.check_core(core)
    if block is not None:
        check_multiple("block", block, step, "is the stride of the network", "--block")
    if core is None and block is None:
        core = round_up(most, step)
    if core is None:
        assert block is not None
        core = max((c for c in range(step, most + 1, step) if block % c == 0), default=block)
    if block is None:
        least = round_up(receptive.margin // 2, core)
        block = max(preferred[1] // core * core, least)
    return core, block
