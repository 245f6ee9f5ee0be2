"""How much of the network's work a slide is, before any of it is done: what progress is measured against."""

from __future__ import annotations

from math import prod

from wsipipe.geometry.grid import BlocksLeft, Grid
from wsipipe.inference.block import cores_met
from wsipipe.tissue.mask import TissueMask


def work_of(blocks: BlocksLeft, mask: TissueMask | None = None) -> int:
    """Pixels that go through the network in one pass over ``blocks``, or what of them ``mask`` meets, margins included.

    The same as the sum of what `predict_block` computes for each.
    """
    grid = blocks.grid
    if mask is not None:
        return sum(_of_block(grid, index, mask) for index in blocks)
    sides = (
        sum(core + grid.receptive.margin for side in grid.computed_sides(axis) for core in _cut(side, grid.core))
        for axis in (0, 1)
    )
    return prod(sides) - sum(_of_block(grid, index, None) for index in blocks.done)


def _of_block(grid: Grid, index: tuple[int, int], mask: TissueMask | None) -> int:
    box = grid.block_box(index)
    if mask is not None and not mask.meets(box):
        return 0
    cores = list(grid.cores((grid.computed_sides(0)[index[0]], grid.computed_sides(1)[index[1]])))
    if mask is not None and not mask.over(box).all():
        cores = list(cores_met(cores, grid, box, mask))
    return sum(prod(side + grid.receptive.margin for side in core.shape) for core in cores)


def _cut(side: int, core: int) -> list[int]:
    return [core] * (side // core) + [side % core] * (side % core > 0)
