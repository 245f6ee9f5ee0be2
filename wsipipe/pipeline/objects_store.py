"""The objects of a finished store: measured block by block, joined, written into the store, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import psutil

from wsipipe.arrays import Labels, Pixels
from wsipipe.errors import DamagedStoreError, FingerprintError, SlideReadError
from wsipipe.events import ClassCount
from wsipipe.files import RESUMES, Location, make_folder, remove_matching
from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.block import measure_block
from wsipipe.objects.block_file import BlockFile, block_file, write_block_file
from wsipipe.objects.counts import count_classes
from wsipipe.objects.joining import MAX_CORNERS
from wsipipe.objects.read import open_objects
from wsipipe.objects.sums import Intensities
from wsipipe.objects.write import write_table
from wsipipe.pipeline.ahead import map_ahead
from wsipipe.pipeline.machine import RUNTIME_BYTES
from wsipipe.pipeline.objects_plan import BLOCK_PX, ObjectsPlan, fitted_blocks
from wsipipe.rasters.opened import reading
from wsipipe.slides.pixels.mirrored import Unread, read_box
from wsipipe.slides.slide import Level
from wsipipe.store.lifecycle import note_objects
from wsipipe.store.spec import OBJECTS
from wsipipe.store.zarr_settings import own_zarr_settings

if TYPE_CHECKING:
    from wsipipe.inference.block import PredictedBlock

CORNER_BYTES = 350
"""Bytes for each corner of an outline that is joined from many blocks, as measured with noise."""
IN_HAND_PER_THREAD = 2
"""Blocks submitted at once for each thread."""
Progress = Callable[[int, int], None]
"""Receives how many blocks are done, and how many there are."""


@dataclass(frozen=True)
class StoreObjects:
    """The objects of one store."""

    store: str
    """Path of the store."""
    table: str
    """Path of the table."""
    made: bool
    """Whether they were made now; False if the store had them already."""
    small: int | None
    """How many were left out because they are small; None if the store had its objects already."""
    classes: tuple[ClassCount, ...]
    """Counts of each class."""
    warning: str = ""
    """What the table lacks, and why."""
    instances: str | None = None
    """Path of the ids of pixels (`wsipipe.pipeline.instances`); None if the store has none."""


def make_objects(plan: ObjectsPlan, threads: int, limit_bytes: int, progress: Progress) -> StoreObjects:
    """Measure the objects of a store, unless it has them, and write their table and counts into it.

    Killed and called again, it goes on with the next block, and ends in the same bytes.

    Parameters
    ----------
    plan
        What to measure.
    threads
        The most blocks that are measured at a time.
    limit_bytes
        The most memory that this process may take.
    progress
        Called after each block, in this thread.

    Raises
    ------
    SlideReadError
        If labels or pixels cannot be read.
    DamagedStoreError
        If the store is damaged.
    StoreError
        If its table has intensities that cannot be measured again.
    MemoryLimitError
        If one block does not fit into the memory.
    OutlineError
        If an outline has too many corners.
    OutputError
        If there is no room.
    """
    with own_zarr_settings():
        taken = psutil.Process().memory_info().rss + RUNTIME_BYTES
        block_px = BLOCK_PX
        if plan.existing() is None:
            block_px, threads = fitted_blocks(plan, threads, limit_bytes - taken)
            _measure_all(plan, progress, block_px=block_px, threads=threads)
        return finish_objects(plan, block_px, limit_bytes - taken)


def finish_objects(plan: ObjectsPlan, block_px: int, limit_bytes: int) -> StoreObjects:
    """Join what all blocks of ``block_px`` px gave to the table of a store, unless it has that, and note its counts.

    Parameters
    ----------
    plan
        What was measured.
    block_px
        Side of the blocks.
    limit_bytes
        The most memory that joining an outline may take.

    Raises
    ------
    DamagedStoreError
        If what a block gave is missing or damaged. All of it is removed then, to be measured again.
    OutlineError
        If an outline has too many corners.
    OutputError
        If there is no room.
    """
    small, folder = None, plan.folder(block_px)
    if (table := plan.existing()) is None:
        try:
            small = write_table(
                plan.table,
                folder,
                counting=plan.counting,
                block_px=block_px,
                description=plan.description,
                max_corners=min(MAX_CORNERS, limit_bytes // CORNER_BYTES),
            )
        except (SlideReadError, DamagedStoreError, FingerprintError) as err:
            remove_blocks(plan.store.path)
            raise DamagedStoreError(f"{err}; what the blocks gave was removed, the same command resumes") from err
        table = open_objects(plan.table)
    height, width = plan.counting.shape
    counts = count_classes(table, height * width * plan.store.searched_share)
    note_objects(
        Path(plan.store.path),
        {
            "connectivity": table.description.connectivity,
            "split": table.description.split,
            "min_area_um2": table.description.min_area_um2,
            "classes": [asdict(count) for count in counts],
        },
    )
    remove_blocks(plan.store.path)
    return StoreObjects(plan.store.path, str(plan.table), small is not None, small, counts, plan.warning)


def _measure_all(plan: ObjectsPlan, progress: Progress, *, block_px: int, threads: int) -> None:
    """Measure all blocks of ``block_px`` px that are left."""
    folder = plan.folder(block_px)
    remove_blocks(plan.store.path, but=folder)
    every = list(boxes(plan.counting.shape, block_px))
    left = [box for box in every if not _is_whole(_file(folder, box, block_px), plan)]
    progress(len(every) - len(left), len(every))
    pool = ThreadPoolExecutor(threads, "wsipipe-objects")
    measured = map_ahead(pool, partial(_measure_stored, plan, block_px), left, ahead=threads * IN_HAND_PER_THREAD)
    try:
        for done, _ in enumerate(measured, len(every) - len(left) + 1):
            progress(done, len(every))
    finally:
        pool.shutdown(cancel_futures=True)


def measure_left(plan: ObjectsPlan, box: Box) -> None:
    """Measure the parts of ``box``, a block of a run, that are left, from the labels in the store.

    Raises
    ------
    SlideReadError
        If labels or pixels cannot be read.
    OutputError
        If there is no room.
    """
    side = plan.run_block_px
    for part in _parts(box, side):
        if not _is_whole(_file(plan.folder(side), part, side), plan):
            _measure_stored(plan, side, part)


def measure_predicted(plan: ObjectsPlan, box: Box, block: PredictedBlock, channels: Mapping[int, int]) -> None:
    """Measure the parts of ``box``, a block of a run, from what was just predicted, and from the pixels read for that.

    Parameters
    ----------
    plan
        What to measure.
    box
        The block.
    block
        Its labels, pixels and probabilities.
    channels
        Index of each label's class along the axis of probabilities.

    Raises
    ------
    OutputError
        If there is no room.
    """
    side, layout, predicted = plan.run_block_px, plan.counting.layout, block.prediction
    for part in _parts(box, side):
        inside = part.seen_from(box)
        labels = np.ascontiguousarray(predicted.labels[inside.slices])
        pixels = block.pixels_in(inside, plan.level) if plan.level is not None else None
        probability = None
        if layout.probability:
            probability = np.zeros(labels.shape, np.uint8)
            if predicted.probabilities is not None:
                probability = _chosen(predicted.probabilities[:, *inside.slices], channels, labels)
        _write(plan, side, part, labels, Intensities(layout, pixels, probability))


def _parts(box: Box, side: int) -> Iterator[Box]:
    """The blocks of objects within a block of a run."""
    return (part.moved(box.y0, box.x0) for part in boxes(box.shape, side))


def _file(folder: Location, box: Box, block_px: int) -> Location:
    return block_file(folder, (box.y0 // block_px, box.x0 // block_px))


def _is_whole(path: Location, plan: ObjectsPlan) -> bool:
    """Whether the file of a block is there and begins as it should."""
    if not path.exists():
        return False
    try:
        return bool(BlockFile(path, plan.counting).origin)
    except (SlideReadError, DamagedStoreError, FingerprintError):
        return False


def _measure_stored(plan: ObjectsPlan, block_px: int, box: Box) -> None:
    """Measure the objects of one block of ``block_px`` px from the labels in the store, and write its file."""
    layout = plan.counting.layout
    with _reading(plan, box):
        labels = plan.store.read_labels(box)
    pixels = None if plan.level is None else read_pixels(plan.level, box, labels)
    probability = _probabilities(plan, box, labels) if layout.probability else None
    _write(plan, block_px, box, labels, Intensities(layout, pixels, probability))


@contextmanager
def _reading(plan: ObjectsPlan, box: Box) -> Iterator[None]:
    """As `reading` of the store; the message says how its damage is mended."""
    try:
        with reading(Path(plan.store.path), box):
            yield
    except SlideReadError as err:
        raise SlideReadError(
            f"{err}; wsipipe check names the file, delete it, and the run that made it makes it again"
        ) from err


def _write(plan: ObjectsPlan, block_px: int, box: Box, labels: Labels, intensities: Intensities) -> None:
    """Measure the objects of one block of ``block_px`` px, and write its file."""
    folder = plan.folder(block_px)
    make_folder(folder, way_out=RESUMES, within=Path(plan.store.path))
    measured = measure_block(labels, box, plan.counting, intensities)
    write_block_file(_file(folder, box, block_px), measured, plan.counting)


def read_pixels(level: Level, box: Box, labels: Labels) -> Pixels:
    """The pixels of ``box`` of ``level``, (y, x, channel), in its dtype; where there are no objects, zeros.

    Parameters
    ----------
    level
        The level to read.
    box
        Which pixels.
    labels
        Their labels, (y, x), uint8; pixels that have label 0 need not be readable.

    Raises
    ------
    SlideReadError
        If pixels of an object cannot be read.
    """
    unread: Unread = {}
    if not labels.any():
        return np.zeros((*box.shape, level.channels), level.dtype)
    pixels = read_box(level, box, unread=unread)
    for tile, message in unread.items():
        met = tile.overlap(box)
        if met is not None and labels[met.seen_from(box).slices].any():
            raise SlideReadError(f"{message}; repair the slide, or measure shapes only (wsipipe objects --slide off)")
    return pixels


def _probabilities(plan: ObjectsPlan, box: Box, labels: Labels) -> npt.NDArray[np.uint8]:
    """The probability of each pixel's class, (y, x), uint8; 0 where there is none."""
    with _reading(plan, box):
        array, index = plan.store.probabilities()
        every = np.asarray(array[:, *box.slices])
    return _chosen(every, index, labels)


def _chosen(every: npt.NDArray[np.uint8], index: Mapping[int, int], labels: Labels) -> npt.NDArray[np.uint8]:
    """Of the probabilities (class, y, x), uint8, those of each pixel's class."""
    found = np.zeros(labels.shape, np.uint8)
    for label, number in index.items():
        np.copyto(found, every[number], where=labels == label)
    return found


def remove_blocks(store: str | Path, but: Path | None = None) -> None:
    """Remove the files of blocks, ``but`` those in one folder, and the debris of a process that was killed.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    remove_matching(Path(store) / OBJECTS, "blocks-*", ".objects-*", "*.scratch", "*.partial", but=but)
