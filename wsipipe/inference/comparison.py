"""Whether tiles agree: the middle of a block, computed once more from a tile of another side and origin.

Of a network whose reach is measured, this is checked once for each slide, in every process. Of one whose tiles are
smaller than it looks, a sample of the blocks says how many labels depend on the tiles.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

import numpy as np

from wsipipe.arrays import Labels, Pixels
from wsipipe.errors import ModelError
from wsipipe.geometry.grid import Box, Grid
from wsipipe.inference.pool import Pool, PoolSpec

EVERY = 7
"""One of so many blocks is compared where labels are approximate: 4 % more to compute."""
CHECKED_PX = 64
"""Side in pixels of what is compared of exact tiles, where they meet: a share of a tile, and once for each slide."""
ROUNDING_SHARE = 1e-4
"""The largest share of labels that may differ in exact tiles: sums in another order, where two classes are even."""


class Compare(Enum):
    """Which blocks of a slide are compared."""

    NEVER = "never"
    """None: the sizes of the network are known."""
    ONCE = "once"
    """The first that has tissue, in each process: the sizes are measured, and have to hold here, too."""
    SAMPLE = "sample"
    """One of `EVERY`: labels depend on the tiles."""


@dataclass(frozen=True)
class Compared:
    """Labels that were computed from two tiles."""

    labels: int = 0
    """How many."""
    differing: int = 0
    """Those that differ."""


NOTHING = Compared()
_known: set[tuple[PoolSpec, str]] = set()
"""The planes that were compared in this process, with each pool."""
_lock = threading.Lock()


def is_compared(compare: Compare, pool: PoolSpec, plane: str, index: tuple[int, int]) -> bool:
    """Whether block ``index`` of ``plane``, the identity of a slide's level, is to be compared."""
    if compare == Compare.SAMPLE:
        return (index[0] * 3 + index[1]) % EVERY == 0
    with _lock:
        if compare == Compare.NEVER or (pool, plane) in _known:
            return False
        _known.add((pool, plane))
        return True


def compare_tiles(
    pool: Pool, grid: Grid, pixels: Pixels, cores: list[Box], around: Box, labels: Labels, *, most: int | None = None
) -> Compared:
    """Compute the middle of the labels of a block again, and compare.

    Parameters
    ----------
    pool, grid
        What predicts, and the blocks.
    pixels
        (y, x, channel), uint8 or uint16, of ``around`` and half a margin on each side.
    cores, around
        What was computed, and the smallest box that holds it, relative to the origin of the block.
    labels
        (y, x), uint8, of the block.
    most
        The largest side in pixels of what is computed again; None: half of the block.
    """
    step, margin = grid.receptive.stride, grid.receptive.margin
    (y0, height), (x0, width) = (_middle(side, step, most or side) for side in around.shape)
    if grid.receptive.largest_core is not None or height < step or width < step:
        return NOTHING  # every other tile has no core in common with the first
    tile = pixels[y0 : y0 + height + margin, x0 : x0 + width + margin]
    again = pool.submit(tile).result().labels
    middle = Box(y0, y0 + height, x0, x0 + width).moved(around.y0, around.x0)
    met = [part for core in cores if (part := core.overlap(middle)) is not None and core != middle]
    differing = sum(int(np.count_nonzero(labels[part.slices] != again[part.seen_from(middle).slices])) for part in met)
    return Compared(sum(part.shape[0] * part.shape[1] for part in met), differing)


def _middle(side: int, step: int, most: int) -> tuple[int, int]:
    """Origin and length of the middle half of ``side`` px, at ``most`` so long, both multiples of ``step``."""
    length = min(side // 2, max(most, step)) // step * step
    return (side - length) // 2 // step * step, length


def check_exact(compared: Compared, model: str) -> None:
    """Raise a ModelError if more labels differ than rounding explains."""
    if compared.differing > ROUNDING_SHARE * compared.labels:
        raise ModelError(
            f"model {model}: {compared.differing:,} of {compared.labels:,} labels differ in tiles of two sides: the "
            "network looks farther than its file says; import it again, or use another --engine"
        )
