"""The task that a worker runs for one block."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsipipe.events import BlockDone
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.inference.block import BlockWork, predict_block
from wsipipe.pipeline.objects_plan import ObjectsPlan
from wsipipe.pipeline.objects_store import measure_left, measure_predicted
from wsipipe.pipeline.tile_reports import TileReporter
from wsipipe.pipeline.tissue_tasks import resident_mask, resident_region
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import Level
from wsipipe.store import content
from wsipipe.store.spec import StoreSpec

Index = tuple[int, int]
"""(row, column) of a block."""


@dataclass(frozen=True)
class StoreWork:
    """What every task that writes a block needs to know."""

    block: BlockWork
    """The work of predicting it."""
    store: StoreSpec
    """The store that it is written to."""
    objects: ObjectsPlan | None = None
    """What is measured of its objects; None: nothing."""


def is_blank(level: Level, box: Box) -> bool:
    """Whether every pixel of ``box`` that can be read is zero."""
    return not read_box(level, box, unread={}).any()


def count_block(work: StoreWork, index: Index) -> Counter[int]:
    """Pixels of each label in block ``index``, which an earlier run wrote; measures its objects, unless that run did.

    Raises
    ------
    DamagedStoreError
        If a shard is damaged. It is removed then, to be made again.
    SlideReadError
        If pixels of objects cannot be read.
    OutputError
        If the disk fails.
    """
    counts = content.count_labels(work.store, index)
    if work.objects is not None:
        measure_left(work.objects, work.block.grid.block_box(index))
    return counts


def store_block(work: StoreWork, index: Index, rows: Indices, cols: Indices) -> npt.NDArray[np.object_]:
    """Predict one block, measure its objects if that is asked for, and write its shards.

    Parameters
    ----------
    work
        What the tasks of all blocks have in common.
    index
        (row, column) of the block.
    rows, cols
        (tile rows,) and (tile columns,), int64: the pixels of the block's mirror-padded tile.

    Returns
    -------
    array
        Its `BlockDone`, in a (1, 1) object array, because dask tasks must return a block.
    """
    mask = None if work.store.tissue is None else resident_mask(work.store)
    told = TileReporter(work.store.slide, index)
    block = predict_block(work.block, index, rows, cols, mask, resident_region(work.store), told)
    found, asked = block.prediction, work.store.fingerprint
    labels, probabilities, uncertainty = found.labels, found.probabilities, found.uncertainty
    if probabilities is None and asked.probabilities:  # no tile of the block was computed
        probabilities = np.zeros((len(work.store.classes), *labels.shape), np.uint8)
    if uncertainty is None and asked.uncertainty:
        uncertainty = np.zeros(labels.shape, np.uint8)
    if work.objects is not None:
        channels = {label: number for number, (_, label, _) in enumerate(work.store.classes)}
        with block.spent.on("other"):
            measure_predicted(work.objects, work.block.grid.block_box(index), block, channels)
    with block.spent.on("write"):
        if block.unread:
            content.note_unread(work.store, index, block.unread, block.unseen)
        content.write_block(work.store, index, labels, probabilities, uncertainty)
    done = BlockDone(
        slide=work.store.slide,
        index=index,
        pixels=labels.size,
        computed=block.computed,
        skipped=block.skipped,
        labels=content.label_counts(work.store, labels),
        blank=block.blank,
        spent=block.spent,
        compared=(block.compared.labels, block.compared.differing),
        outside=block.outside,
    )
    row = np.empty((1, 1), object)
    row[0, 0] = done
    return row
