"""How much of the network's work a slide is, before any of it is done: what progress is measured against."""

from __future__ import annotations

from math import prod

from wsipipe.geometry.grid import BlocksLeft, Grid
from wsipipe.inference.block import cores_met
from wsipipe.rasters.region import Region
from wsipipe.tissue.mask import TissueMask
from wsipipe.tissue.searched import searched_in


def work_of(blocks: BlocksLeft, mask: TissueMask | None = None, region: Region | None = None) -> int:
    """Pixels that go through the network in one pass over ``blocks``, margins included.

    Only those of the parts that meet ``mask`` and ``region`` count, as in `predict_block`, whose sum it is.
    """
    grid = blocks.grid
    if mask is not None or region is not None:
        return sum(_of_block(grid, index, mask, region) for index in blocks)
    sides = (
        sum(core + grid.receptive.margin for side in grid.computed_sides(axis) for core in _cut(side, grid.core))
        for axis in (0, 1)
    )
    return prod(sides) - sum(_of_block(grid, index, None, None) for index in blocks.done)


def _of_block(grid: Grid, index: tuple[int, int], mask: TissueMask | None, region: Region | None) -> int:
    box = grid.block_box(index)
    if (mask is not None and not mask.meets(box)) or (region is not None and region.bounds.overlap(box) is None):
        return 0
    whole = mask is None or bool(mask.over(box).all())
    cores = list(grid.cores((grid.computed_sides(0)[index[0]], grid.computed_sides(1)[index[1]])))
    met = cores_met(cores, grid, searched_in(box, None if whole else mask, region))
    return sum(prod(side + grid.receptive.margin for side in core.shape) for core in met)


def _cut(side: int, core: int) -> list[int]:
    return [core] * (side // core) + [side % core] * (side % core > 0)
