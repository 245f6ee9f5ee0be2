"""The objects of a finished store: measured block by block, joined, written into the store, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from wsipipe.arrays import Labels, Pixels
from wsipipe.errors import DamagedStoreError, FingerprintError, OutputError, SlideReadError
from wsipipe.files import RESUMES, Location, make_folder, remove_entry
from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.block import measure_block
from wsipipe.objects.block_file import BlockFile, block_file, write_block_file
from wsipipe.objects.counts import ClassCount, count_classes
from wsipipe.objects.joining import MAX_CORNERS
from wsipipe.objects.read import open_objects
from wsipipe.objects.sums import Intensities
from wsipipe.objects.write import write_table
from wsipipe.pipeline.memory_need import RUNTIME_BYTES
from wsipipe.pipeline.objects_plan import ObjectsPlan, fitted_blocks
from wsipipe.rasters.opened import reading
from wsipipe.slides.pixels.mirrored import Unread, read_box
from wsipipe.slides.slide import Level
from wsipipe.store.lifecycle import note_objects
from wsipipe.store.zarr_settings import own_zarr_settings

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
        If one block does not fit into the memory, or an outline is too ragged.
    OutputError
        If there is no room.
    """
    with own_zarr_settings():
        small = None
        if (table := plan.existing()) is None:
            taken = psutil.Process().memory_info().rss + RUNTIME_BYTES
            block_px, threads = fitted_blocks(plan, threads, limit_bytes - taken)
            corners = min(MAX_CORNERS, (limit_bytes - taken) // CORNER_BYTES)
            small = _make_table(plan, progress, block_px=block_px, threads=threads, max_corners=corners)
            table = open_objects(plan.table)
        share = plan.store.tissue_share
        height, width = plan.counting.shape
        counts = count_classes(table, height * width * (1.0 if share is None else share))
        note_objects(
            Path(plan.store.path),
            {
                "connectivity": table.description.connectivity,
                "split": table.description.split,
                "min_area_um2": table.description.min_area_um2,
                "classes": [asdict(count) for count in counts],
            },
        )
        _remove_blocks(plan.table.parent)
    return StoreObjects(plan.store.path, str(plan.table), small is not None, small, counts, plan.warning)


def _make_table(plan: ObjectsPlan, progress: Progress, *, block_px: int, threads: int, max_corners: int) -> int:
    """Measure all blocks of ``block_px`` px that are left, and join them; returns how many objects were too small."""
    folder = plan.folder(block_px)
    _remove_blocks(plan.table.parent, but=folder)
    make_folder(folder, way_out=RESUMES, within=Path(plan.store.path))
    every = list(boxes(plan.counting.shape, block_px))
    left = [box for box in every if not _is_whole(_file(folder, box, block_px), plan)]
    progress(len(every) - len(left), len(every))
    todo = iter(left)
    done = len(every) - len(left)
    pool = ThreadPoolExecutor(threads, "wsipipe-objects")
    try:
        while some := list(islice(todo, threads * IN_HAND_PER_THREAD)):
            for _ in pool.map(partial(_measure, plan, folder, block_px), some):
                done += 1
                progress(done, len(every))
    finally:
        pool.shutdown(cancel_futures=True)
    return write_table(
        plan.table,
        folder,
        counting=plan.counting,
        block_px=block_px,
        description=plan.description,
        max_corners=max_corners,
    )


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


def _measure(plan: ObjectsPlan, folder: Location, block_px: int, box: Box) -> None:
    """Measure the objects of one block, and write its file."""
    layout = plan.counting.layout
    with reading(Path(plan.store.path), box):
        labels: Labels = np.asarray(plan.store.labels(0)[box.slices])
    pixels = None if plan.level is None else read_pixels(plan.level, box, labels)
    intensities = Intensities(layout, pixels, _probabilities(plan, box, labels) if layout.probability else None)
    write_block_file(
        _file(folder, box, block_px), measure_block(labels, box, plan.counting, intensities), plan.counting
    )


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
            raise SlideReadError(f"{message}; repair the slide, or measure shapes only (--slide off)")
    return pixels


def _probabilities(plan: ObjectsPlan, box: Box, labels: Labels) -> npt.NDArray[np.uint8]:
    """The probability of each pixel's class, (y, x), uint8; 0 where there is none."""
    with reading(Path(plan.store.path), box):
        array, index = plan.store.probabilities()
        every = np.asarray(array[:, *box.slices])
    found = np.zeros(labels.shape, np.uint8)
    for label, number in index.items():
        np.copyto(found, every[number], where=labels == label)
    return found


def _remove_blocks(folder: Path, but: Location | None = None) -> None:
    """Remove what blocks gave, and the debris of a process that was killed."""
    try:
        for entry in _debris(folder):
            if entry != but:
                remove_entry(entry)
    except OSError as err:
        raise OutputError(f"{folder} cannot be cleaned up: {err.strerror or err}; remove the folders in it") from err


def _debris(folder: Path) -> Iterable[Path]:
    """Entries of the folder of objects that are there only while its table is made."""
    return [entry for pattern in ("blocks-*", ".objects-*", "*.scratch", "*.partial") for entry in folder.glob(pattern)]
