"""One block of a slide, from its pixels to its labels."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from math import prod

import numpy as np

from wsipipe.events import Spent
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.mirror import Indices
from wsipipe.inference.pool import PoolSpec, resident_pool
from wsipipe.inference.replica import Prediction
from wsipipe.slides.reading import read_mirrored
from wsipipe.slides.slide import Level
from wsipipe.slides.tiles import NONE_KEPT, Keep, Memory


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


@dataclass(frozen=True)
class PredictedBlock:
    """The labels of one block, and what it took."""

    prediction: Prediction
    """Cut to the slide: (height, width) of the block; its labels are good until this thread predicts another."""
    computed: int
    """Pixels that went through the network, margins included."""
    blank: bool
    """Whether every pixel that was read is zero, which no scanner writes."""
    spent: Spent
    """All but what is written."""


SPARSE = 64
"""Every so many pixels are looked at first: where one of them is not zero, the others need not be looked at."""
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


def predict_block(work: BlockWork, index: tuple[int, int], rows: Indices, cols: Indices) -> PredictedBlock:
    """Block ``index`` of the slide, from the pixel indices of its mirror-padded tile.

    Parameters
    ----------
    work
        The slide, its grid, and the pool.
    index
        (row, column) of the block.
    rows, cols
        Indices, int64, of the pixels that stand in and around the block, from half a margin before it
        to at least half a margin behind what is computed of it.

    Raises
    ------
    SlideReadError
        If pixels can not be read or decoded.
    MachineError
        If the device failed.
    """
    grid, margin = work.grid, work.grid.receptive.margin
    box = grid.block_box(index)
    computed = grid.computed_sides(0)[index[0]], grid.computed_sides(1)[index[1]]
    started, spent = time.perf_counter(), Spent()
    rows, cols = rows[: computed[0] + margin], cols[: computed[1] + margin]
    count = len(rows) * len(cols) * work.level.channels * np.dtype(work.level.dtype).itemsize
    memory = memory_of_thread("pixels", count)
    pixels = read_mirrored(work.level, rows, cols, spent=spent, memory=memory, keep=work.keep)
    pool = resident_pool(work.pool)
    cores = list(grid.cores(computed))
    with spent.on("wait"):
        futures = [pool.submit(pixels[core.y0 : core.y1 + margin, core.x0 : core.x1 + margin]) for core in cores]
    labels = memory_of_thread("labels", prod(computed)).reshape(computed)
    probabilities = None
    for core, future in zip(cores, futures, strict=True):
        with spent.on("wait"):
            prediction = future.result()
        spent.infer += prediction.seconds
        labels[core.slices] = prediction.labels
        if prediction.probabilities is not None:
            if probabilities is None:
                probabilities = np.empty((len(prediction.probabilities), *computed), np.uint8)
            probabilities[:, *core.slices] = prediction.probabilities
    height, width = box.shape
    cut = Prediction(labels[:height, :width], None if probabilities is None else probabilities[:, :height, :width])
    blank = not pixels[::SPARSE, ::SPARSE].any() and not pixels.any()
    through = sum((core.shape[0] + margin) * (core.shape[1] + margin) for core in cores)
    spent.other = time.perf_counter() - started - spent.threads
    return PredictedBlock(cut, through, blank, spent)
