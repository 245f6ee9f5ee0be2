"""One block of a slide, from its pixels to its labels."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from wsipipe.geometry.grid import Grid
from wsipipe.geometry.mirror import Indices
from wsipipe.inference.pool import PoolSpec, resident_pool
from wsipipe.inference.replica import Prediction
from wsipipe.slides.reading import read_mirrored
from wsipipe.slides.slide import Level


@dataclass(frozen=True)
class BlockWork:
    """What every task of one slide knows: values only, opened anew in each process."""

    level: Level
    """Where the pixels are."""
    grid: Grid
    """Where the blocks lie."""
    pool: PoolSpec
    """Who predicts."""


@dataclass(frozen=True)
class PredictedBlock:
    """The labels of one block, and what it took."""

    prediction: Prediction
    """Cut to the slide: (height, width) of the block."""
    blank: bool
    """Whether every pixel that was read is zero, which no scanner writes."""
    read_seconds: float
    infer_seconds: float


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
    started = time.perf_counter()
    pixels = read_mirrored(work.level, rows[: computed[0] + margin], cols[: computed[1] + margin])
    read = time.perf_counter()
    pool = resident_pool(work.pool)
    cores = list(grid.cores(computed))
    futures = [pool.submit(pixels[core.y0 : core.y1 + margin, core.x0 : core.x1 + margin]) for core in cores]
    labels = np.empty(computed, np.uint8)
    probabilities = None
    for core, future in zip(cores, futures, strict=True):
        prediction = future.result()
        labels[core.slices] = prediction.labels
        if prediction.probabilities is not None:
            if probabilities is None:
                probabilities = np.empty((len(prediction.probabilities), *computed), np.uint8)
            probabilities[:, *core.slices] = prediction.probabilities
    height, width = box.shape
    cut = Prediction(labels[:height, :width], None if probabilities is None else probabilities[:, :height, :width])
    return PredictedBlock(cut, not pixels.any(), read - started, time.perf_counter() - read)
