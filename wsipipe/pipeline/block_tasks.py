"""What a worker does with one block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsipipe.events import BlockDone
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.inference.block import BlockWork, predict_block
from wsipipe.pipeline.tissue_tasks import resident_mask
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import Level
from wsipipe.store import content
from wsipipe.store.spec import StoreSpec


@dataclass(frozen=True)
class StoreWork:
    """What every task that writes a block knows."""

    block: BlockWork
    store: StoreSpec


def is_blank(level: Level, box: Box) -> bool:
    """Whether every pixel of ``box`` that can be read is zero."""
    return not read_box(level, box, unread={}).any()


def store_block(work: StoreWork, index: Index, rows: Indices, cols: Indices) -> npt.NDArray[np.object_]:
    """Predict one block and write its shards; the block's row of statistics, as an array of one object."""
    mask = None if work.store.tissue is None else resident_mask(work.store)
    block = predict_block(work.block, index, rows, cols, mask)
    labels, probabilities = block.prediction.labels, block.prediction.probabilities
    if probabilities is None and work.store.fingerprint.probabilities:  # no tile of the block was computed
        probabilities = np.zeros((len(work.store.classes), *labels.shape), np.uint8)
    with block.spent.on("write"):
        if block.unread:
            content.note_unread(work.store, index, block.unread, block.unseen)
        content.write_block(work.store, index, labels, probabilities)
    done = BlockDone(
        slide=work.store.slide,
        index=index,
        pixels=labels.size,
        computed=block.computed,
        skipped=block.skipped,
        labels=content.label_counts(work.store, labels),
        blank=block.blank,
        spent=block.spent,
    )
    row = np.empty((1, 1), object)
    row[0, 0] = done
    return row


Index = tuple[int, int]
