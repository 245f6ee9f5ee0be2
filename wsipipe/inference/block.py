"""One block of a slide, from its pixels to its labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np

from wsipipe.arrays import Labels, Pixels
from wsipipe.errors import SlideError, SlideReadError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box, Grid, boxes
from wsipipe.geometry.mirror import Indices
from wsipipe.geometry.network import round_up
from wsipipe.inference.comparison import CHECKED_PX, NOTHING, Compare, Compared, check_exact, compare_tiles, is_compared
from wsipipe.inference.devices import BFLOAT16, FLOAT16, FLOAT32
from wsipipe.inference.pool import PoolSpec, resident_pool
from wsipipe.inference.replica import Prediction
from wsipipe.rasters.region import Region
from wsipipe.slides.pixels.mirrored import Unread, read_mirrored
from wsipipe.slides.pixels.tile_cache import NONE_KEPT, Keep
from wsipipe.slides.pixels.tile_store import Memory
from wsipipe.slides.slide import Level
from wsipipe.tissue.mask import TissueMask
from wsipipe.tissue.searched import Searched, searched_in


@dataclass(frozen=True)
class BlockWork:
    """What all block tasks of one slide share: values only, from which each process opens its own files."""

    level: Level
    """The level that is read."""
    grid: Grid
    """The blocks of the slide."""
    pool: PoolSpec
    """The pool that predicts."""
    keep: Keep = NONE_KEPT
    """Which decoded tiles stay in memory for the neighbouring blocks on the left and right."""
    compare: Compare = Compare.NEVER
    """Which blocks are computed again from other tiles, and compared."""
    fill: bool = False
    """Whether labels that depend on a tile that cannot be decoded become 0; if not, such a tile is an error."""


@dataclass(frozen=True)
class PredictedBlock:
    """The labels of one block, and what computing them took."""

    prediction: Prediction
    """(..., height, width) of the block, cut to the slide; its labels are valid until this thread predicts another."""
    computed: int
    """Pixels that went through the network, margins included; once for each pass over a tile."""
    skipped: int
    """Pixels of the region in tiles that were skipped, because they are glass."""
    blank: bool
    """Whether every pixel that was read is zero, which no scanner writes; False if none was read."""
    spent: Spent
    """Seconds spent on each stage except writing."""
    unread: tuple[Box, ...] = ()
    """Tiles that could not be decoded and that labels of the block depend on, in pixels of the plane."""
    unseen: int = 0
    """Pixels whose label is 0 because of `unread`."""
    pixels: Pixels | None = None
    """(y, x, channel) of `seen`, as they were read, valid as long as the labels; None if none were read."""
    seen: Box | None = None
    """The part of the block, relative to its origin, whose pixels were read; beyond it all labels are 0."""
    compared: Compared = NOTHING
    """Labels that were computed twice, from different tiles."""
    outside: int = 0
    """Pixels outside the region that was asked for."""

    def pixels_in(self, box: Box, level: Level) -> Pixels:
        """The pixels of ``box`` of the block, (y, x, channel) in the dtype of ``level``; 0 where none were read."""
        found = np.zeros((*box.shape, level.channels), level.dtype)
        if self.pixels is not None and self.seen is not None and (met := self.seen.overlap(box)) is not None:
            there = self.pixels[met.seen_from(self.seen).slices]
            if met == box:
                return there
            found[met.seen_from(box).slices] = there
        return found


OnTile = Callable[[int], None]
SPARSE = 64
"""Step, in pixels, of a first search for one that is not zero; the others are searched only if it finds none."""
LEAST_PART_PX = 256
"""Smallest part of a core; smaller tiles are mostly margin. Quarters save the network 8 % of a skin biopsy."""
_memory = threading.local()


def memory_of_thread(use: str, count: int) -> Memory:
    """Memory for ``use``, (count,) uint8, which every block of this thread uses again.

    New memory costs time, as the system clears its pages: 11 to 50 ms for the 55 MB of a block of 4096 px, which
    decodes in 160 ms.
    """
    memory: Memory | None = getattr(_memory, use, None)
    if memory is None or memory.size < count:
        memory = np.empty(count, np.uint8)
        setattr(_memory, use, memory)
    return memory[:count]


def predict_block(
    work: BlockWork,
    index: tuple[int, int],
    rows: Indices,
    cols: Indices,
    mask: TissueMask | None = None,
    region: Region | None = None,
    on_tile: OnTile | None = None,
) -> PredictedBlock:
    """Predict block ``index``, (row, column), from ``rows`` and ``cols``, int64; its box, as `predict_box` does."""
    return predict_box(work, work.grid.block_box(index), rows, cols, mask, region, on_tile)


def predict_box(
    work: BlockWork,
    box: Box,
    rows: Indices,
    cols: Indices,
    mask: TissueMask | None = None,
    region: Region | None = None,
    on_tile: OnTile | None = None,
) -> PredictedBlock:
    """Predict ``box`` of the slide, a block or a part of one, from the pixel indices of its mirror-padded tile.

    Labels outside ``mask`` and ``region`` are 0. Only the parts of cores that meet them are computed, and only what
    those need is read.

    Parameters
    ----------
    work
        The slide, its grid, and the pool.
    box
        What to predict: it begins on the pooling grid, ends there or with the slide, and lies in one block.
    rows, cols
        Indices, (n,) int64, of the pixels in and around the box, from half a margin before it to at least half
        a margin beyond the part of it that is computed.
    mask, region
        Where to predict, in pixels of the grid; None: everywhere.
    on_tile
        Called after each tile with the pixels that went through the network for it, in a thread of the pool.

    Raises
    ------
    SlideReadError
        If pixels cannot be read, or cannot be decoded and ``work.fill`` is False.
    SlideError
        If the network gives values whose labels mean nothing.
    ModelError
        If the model was replaced since the run began, or its network is not what it says.
    MachineError
        If the device fails.
    """
    grid, started, spent = work.grid, time.perf_counter(), Spent()
    margin, (height, width) = grid.receptive.margin, box.shape
    sides = round_up(height, grid.receptive.stride), round_up(width, grid.receptive.stride)
    every, searched = list(grid.cores(sides)), searched_in(box, mask, region)
    cores = list(cores_met(every, grid, searched))
    labels = memory_of_thread("labels", prod(sides)).reshape(sides)
    if cores != every:
        labels[...] = 0
    found, blank, pixels, around, compared = Prediction(labels, None), False, None, None, NOTHING
    unread: Unread = {}
    if cores:
        around = _around(cores)
        tiled, found = _compute(work, cores, (rows, cols), labels, spent, unread, on_tile)
        if any(found.undefined):
            raise SlideError(_undefined(work, cores[found.undefined.index(True)].moved(box.y0, box.x0)))
        blank = not (unread or tiled[::SPARSE, ::SPARSE].any() or tiled.any())
        compared = _compare(work, box, tiled, cores, labels, spent)
        half = margin // 2
        pixels = tiled[half : half + around.shape[0], half : half + around.shape[1]]
    cut = found.each(lambda values: values[..., :height, :width])
    for values in cut.arrays:
        searched.clear_outside(values)
    reached, unseen = _clear(cut, grid, searched, sorted(unread)) if unread else ((), 0)
    through = work.pool.passes * sum((core.shape[0] + margin) * (core.shape[1] + margin) for core in cores)
    skipped = searched.count([box]) - searched.count(_on_slide(core, box) for core in cores)
    spent.other = time.perf_counter() - started - spent.threads
    return PredictedBlock(
        cut, through, skipped, blank, spent, reached, unseen, pixels, around, compared, outside=searched.outside
    )


def _compare(work: BlockWork, box: Box, pixels: Pixels, cores: list[Box], labels: Labels, spent: Spent) -> Compared:
    """Compute a part of the box again, if its block is to be compared; raise a ModelError if it should not differ."""
    index = box.y0 // work.grid.block, box.x0 // work.grid.block
    if not is_compared(work.compare, work.pool, work.level.identity, index):
        return NOTHING
    with spent.on("wait"):
        most = CHECKED_PX if work.compare == Compare.ONCE else None
        compared = compare_tiles(resident_pool(work.pool), work.grid, pixels, cores, _around(cores), labels, most=most)
    if work.compare == Compare.ONCE:
        check_exact(compared, work.pool.model)
    return compared


def _clear(cut: Prediction, grid: Grid, searched: Searched, tiles: list[Box]) -> tuple[tuple[Box, ...], int]:
    """Set to 0 the pixels of ``cut``, the prediction of the box of ``searched``, that depend on ``tiles``.

    Returns
    -------
    tuple
        The tiles that pixels that are searched depend on, and the number of these pixels.
    """
    box = searched.box
    inside = np.ones(box.shape, np.uint8)
    searched.clear_outside(inside)
    seen, reaching = inside.copy(), []
    for tile in tiles:
        met = grid.reached_from(tile).overlap(box)
        if met is not None and inside[met.seen_from(box).slices].any():
            seen[met.seen_from(box).slices] = 0
            reaching.append(tile)
    for values in cut.arrays:
        np.multiply(values, seen, out=values)
    return tuple(reaching), int(inside.sum(dtype=np.int64) - seen.sum(dtype=np.int64))


def _compute(
    work: BlockWork,
    cores: list[Box],
    at: tuple[Indices, Indices],
    labels: Labels,
    spent: Spent,
    unread: Unread,
    on_tile: OnTile | None,
) -> tuple[Pixels, Prediction]:
    """Predict ``cores`` of a block into its ``labels``; ``at`` are the indices (rows, columns) of its tile's pixels.

    Returns
    -------
    tuple
        The pixels of the smallest box that holds the cores and half a margin on each side, (y, x, channel); and the
        prediction for the block, whose labels are ``labels``, and all else 0 beyond the cores.
    """
    margin, around, whole = work.grid.receptive.margin, _around(cores), None
    undefined: tuple[bool, ...] = ()
    rows, cols = at[0][around.y0 : around.y1 + margin], at[1][around.x0 : around.x1 + margin]
    count = len(rows) * len(cols) * work.level.channels * np.dtype(work.level.dtype).itemsize
    memory = memory_of_thread("pixels", count)
    pixels = read_mirrored(work.level, rows, cols, spent=spent, memory=memory, keep=work.keep, unread=unread)
    if unread and not work.fill:
        reasons = tuple(unread[tile] for tile in sorted(unread))
        error = SlideReadError("; ".join(reasons))
        error.tiles = reasons
        raise error
    pool = resident_pool(work.pool)
    futures = []
    with spent.on("wait"):
        for core in cores:
            tile = pixels[core.y0 - around.y0 : core.y1 - around.y0 + margin]
            futures.append(pool.submit(tile[:, core.x0 - around.x0 : core.x1 - around.x0 + margin]))
            if on_tile is not None:
                through = work.pool.passes * prod(side + margin for side in core.shape)
                futures[-1].add_done_callback(partial(_tell, on_tile, through))
    for core, future in zip(cores, futures, strict=True):
        with spent.on("wait"):
            prediction = future.result()
        spent.infer += prediction.seconds
        undefined += prediction.undefined
        if whole is None:
            zeros = prediction.each(lambda values: np.zeros((*values.shape[:-2], *labels.shape), np.uint8))
            whole = replace(zeros, labels=labels)
        for values, of_core in zip(whole.arrays, prediction.arrays, strict=True):
            values[..., *core.slices] = of_core
    assert whole is not None, "there are cores"
    return pixels, replace(whole, undefined=undefined)


def _tell(on_tile: OnTile, through: int, done: Future[Prediction]) -> None:
    if not done.cancelled() and done.exception() is None:
        on_tile(through)


def _undefined(work: BlockWork, core: Box) -> str:
    """What is wrong where the network gives values whose labels mean nothing in ``core``, in pixels of the plane."""
    wider = {FLOAT16: f"--precision {BFLOAT16} or {FLOAT32}, ", BFLOAT16: f"--precision {FLOAT32}, "}
    return (
        f"{work.level.path}: model {work.pool.model} gives values that are not finite in rows {core.y0} to {core.y1} "
        f"and columns {core.x0} to {core.x1} of what is segmented; use {wider.get(work.pool.precision, '')}another "
        "--engine, or another model"
    )


def cores_met(cores: list[Box], grid: Grid, searched: Searched) -> Iterator[Box]:
    """The part of each of ``cores`` of a block that is ``searched``, to quarters of a side; each is a core, too."""
    if searched.everywhere:
        yield from cores
        return
    step = round_up(max(grid.core // 4, LEAST_PART_PX), grid.receptive.stride)
    for core in cores:
        parts = [part.moved(core.y0, core.x0) for part in boxes(core.shape, step)]
        if met := [part for part in parts if searched.meets(_on_slide(part, searched.box))]:
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
    """The slide's pixels in ``core``, which is relative to the origin of ``block`` and may reach beyond the slide."""
    met = core.moved(block.y0, block.x0).overlap(block)
    assert met is not None, "a core begins on the slide"
    return met
