"""One block of a slide, from its pixels to its labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Labels
from wsipipe.errors import SlideReadError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box, Grid, boxes
from wsipipe.geometry.mirror import Indices
from wsipipe.geometry.network import round_up
from wsipipe.inference.pool import PoolSpec, resident_pool
from wsipipe.inference.replica import Prediction
from wsipipe.slides.pixels.mirrored import Unread, read_mirrored
from wsipipe.slides.pixels.tile_cache import NONE_KEPT, Keep
from wsipipe.slides.pixels.tile_store import Memory
from wsipipe.slides.slide import Level
from wsipipe.tissue.mask import TissueMask


@dataclass(frozen=True)
class BlockWork:
    """What every task of one slide knows: values only, opened anew in each process."""

    level: Level
    """Where the pixels are."""
    grid: Grid
    """Where the blocks lie."""
    pool: PoolSpec
    """Who predicts."""
    keep: Keep = NONE_KEPT
    """Which decoded tiles stay in memory for the blocks to its left and right."""
    fill: bool = False
    """Whether labels that a tile has a say in which can not be decoded are 0; else that is an error."""


@dataclass(frozen=True)
class PredictedBlock:
    """The labels of one block, and what it took."""

    prediction: Prediction
    """Cut to the slide: (height, width) of the block; its labels are good until this thread predicts another."""
    computed: int
    """Pixels that went through the network, margins included."""
    skipped: int
    """Pixels in tiles that did not, for they are of glass."""
    blank: bool
    """Whether every pixel that was read is zero, which no scanner writes; False if none was."""
    spent: Spent
    """All but what is written."""
    unread: tuple[Box, ...] = ()
    """Tiles that could not be decoded and reach labels of it, in pixels of the plane."""
    unseen: int = 0
    """Pixels whose label is 0 for them."""


SPARSE = 64
"""Every so many pixels are looked at first: where one of them is not zero, the others need not be looked at."""
LEAST_PART_PX = 256
"""Of a core: smaller tiles are mostly margin. With quarters 8 % less of a skin biopsy goes through the network."""
_kept = threading.local()


def memory_of_thread(use: str, count: int) -> Memory:
    """``count`` bytes for ``use``, the same for every block of this thread.

    The system clears the pages of new memory: 11 to 50 ms for the 55 MB of a block of 4096 px, which decodes in 160.
    """
    memory: Memory | None = getattr(_kept, use, None)
    if memory is None or memory.size < count:
        memory = np.empty(count, np.uint8)
        setattr(_kept, use, memory)
    return memory[:count]


def predict_block(
    work: BlockWork, index: tuple[int, int], rows: Indices, cols: Indices, mask: TissueMask | None = None
) -> PredictedBlock:
    """Block ``index`` of the slide, from the pixel indices of its mirror-padded tile.

    What ``mask`` leaves out is 0. Only what it meets of the cores is computed, and only what this needs is read.

    Parameters
    ----------
    work
        The slide, its grid, and the pool.
    index
        (row, column) of the block.
    rows, cols
        Indices, int64, of the pixels that stand in and around the block, from half a margin before it
        to at least half a margin behind what is computed of it.
    mask
        Where to look, in the pixels of the grid; None: everywhere.

    Raises
    ------
    SlideReadError
        If pixels can not be read, or not be decoded where nothing is to be filled.
    MachineError
        If the device failed.
    """
    grid, started, spent = work.grid, time.perf_counter(), Spent()
    box, margin = grid.block_box(index), grid.receptive.margin
    sides = grid.computed_sides(0)[index[0]], grid.computed_sides(1)[index[1]]
    every = list(grid.cores(sides))
    cores = every if mask is None else list(cores_met(every, grid, box, mask))
    labels = memory_of_thread("labels", prod(sides)).reshape(sides)
    if cores != every:
        labels[...] = 0
    blank, probabilities = False, None
    unread: Unread = {}
    if cores:
        blank, probabilities = _compute(work, cores, (rows, cols), labels, spent, unread)
    height, width = box.shape
    cut = Prediction(labels[:height, :width], None if probabilities is None else probabilities[:, :height, :width])
    if mask is not None:
        mask.clear_outside(cut.labels, box)
        if cut.probabilities is not None:
            mask.clear_outside(cut.probabilities, box)
    reached, unseen = _clear(cut, grid, box, sorted(unread), mask) if unread else ((), 0)
    through = sum((core.shape[0] + margin) * (core.shape[1] + margin) for core in cores)
    skipped = cut.labels.size - sum(prod(_on_slide(core, box).shape) for core in cores)
    spent.other = time.perf_counter() - started - spent.threads
    return PredictedBlock(cut, through, skipped, blank, spent, reached, unseen)


def _clear(
    cut: Prediction, grid: Grid, box: Box, tiles: list[Box], mask: TissueMask | None
) -> tuple[tuple[Box, ...], int]:
    """Set to 0 what ``tiles`` reach of ``cut``, which is ``box``; those that reach what is looked at, and how much."""
    looked = np.ones(box.shape, np.uint8)
    if mask is not None:
        mask.clear_outside(looked, box)
    seen, reaching = looked.copy(), []
    for tile in tiles:
        met = grid.reached_from(tile).overlap(box)
        if met is not None and looked[met.seen_from(box).slices].any():
            seen[met.seen_from(box).slices] = 0
            reaching.append(tile)
    np.multiply(cut.labels, seen, out=cut.labels)
    if cut.probabilities is not None:
        np.multiply(cut.probabilities, seen, out=cut.probabilities)
    return tuple(reaching), int(looked.sum(dtype=np.int64) - seen.sum(dtype=np.int64))


def _compute(
    work: BlockWork,
    cores: list[Box],
    at: tuple[Indices, Indices],
    labels: Labels,
    spent: Spent,
    unread: Unread,
) -> tuple[bool, npt.NDArray[np.uint8] | None]:
    """Have ``cores`` of a block, whose tile's pixels are ``at`` (rows, columns), predicted into its ``labels``.

    Returns
    -------
    tuple
        Whether every pixel that was read is zero, and the probabilities, 0 beyond the cores, or None.
    """
    margin, around, probabilities = work.grid.receptive.margin, _around(cores), None
    rows, cols = at[0][around.y0 : around.y1 + margin], at[1][around.x0 : around.x1 + margin]
    count = len(rows) * len(cols) * work.level.channels * np.dtype(work.level.dtype).itemsize
    memory = memory_of_thread("pixels", count)
    pixels = read_mirrored(work.level, rows, cols, spent=spent, memory=memory, keep=work.keep, unread=unread)
    if unread and not work.fill:
        said = tuple(unread[tile] for tile in sorted(unread))
        error = SlideReadError("; ".join(said))
        error.tiles = said
        raise error
    pool = resident_pool(work.pool)
    with spent.on("wait"):
        futures = [
            pool.submit(
                pixels[core.y0 - around.y0 : core.y1 - around.y0 + margin][
                    :, core.x0 - around.x0 : core.x1 - around.x0 + margin
                ]
            )
            for core in cores
        ]
    for core, future in zip(cores, futures, strict=True):
        with spent.on("wait"):
            prediction = future.result()
        spent.infer += prediction.seconds
        labels[core.slices] = prediction.labels
        if prediction.probabilities is not None:
            if probabilities is None:
                probabilities = np.zeros((len(prediction.probabilities), *labels.shape), np.uint8)
            probabilities[:, *core.slices] = prediction.probabilities
    return not (unread or pixels[::SPARSE, ::SPARSE].any() or pixels.any()), probabilities


def cores_met(cores: list[Box], grid: Grid, block: Box, mask: TissueMask) -> Iterator[Box]:
    """What ``mask`` meets of each of ``cores`` of a ``block``, to quarters of a core's side: these are cores, too."""
    step = round_up(max(grid.core // 4, LEAST_PART_PX), grid.receptive.stride)
    for core in cores:
        parts = [part.moved(core.y0, core.x0) for part in boxes(core.shape, step)]
        if met := [part for part in parts if mask.meets(_on_slide(part, block))]:
            yield _around(met)


def _around(cores: list[Box]) -> Box:
    """The smallest box that holds ``cores``."""
    return Box(
        min(core.y0 for core in cores),
        max(core.y1 for core in cores),
        min(core.x0 for core in cores),
        max(core.x1 for core in cores),
    )


def _on_slide(core: Box, block: Box) -> Box:
    """The pixels of the slide in ``core``, which is relative to the origin of ``block`` and may go beyond it."""
    met = core.moved(block.y0, block.x0).overlap(block)
    assert met is not None, "a core begins on the slide"
    return met
