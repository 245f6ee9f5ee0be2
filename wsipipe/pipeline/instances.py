"""The instances of a finished store: the outlines of its table of objects, filled block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import psutil

from wsipipe.errors import MemoryLimitError, OutputError, SlideError
from wsipipe.files import RESUMES, Named, make_folder, remove_entry, remove_matching
from wsipipe.geometry.grid import Box
from wsipipe.objects.pixel_ids import EdgeFiles, Ids
from wsipipe.objects.read import open_objects
from wsipipe.objects.table import Description
from wsipipe.pipeline.machine import RUNTIME_BYTES, megabytes
from wsipipe.pipeline.objects_plan import INSTANCE_BYTES
from wsipipe.store.finished import open_finished
from wsipipe.store.instances import RULES, InstancesWriter, rules_of_instances
from wsipipe.store.spec import INSTANCES, OBJECTS
from wsipipe.store.zarr_settings import own_zarr_settings

WORK = "instances-"
"""What the names of folders begin with, within that of the objects, where instances are until they are complete."""


@dataclass(frozen=True)
class FilledBlock:
    """What the block to the right of one needs to know."""

    last: Ids | None
    """(y,), uint32: the ids of its last column; None if they are in the store already."""


@dataclass(frozen=True)
class InstancesWork:
    """The instances of one store on their way: blocks in any order, but for those of a row; then the rest."""

    store: Path
    """The store."""
    writer: InstancesWriter
    """Writes what is finished."""
    edges: EdgeFiles
    """The outlines, taken apart."""

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of blocks, (rows, columns)."""
        return self.writer.levels[0].shards

    def write_edges(self) -> None:
        """Take all outlines apart, anew: what an earlier call left may be short of some, and has no checksum.

        Raises
        ------
        DamagedStoreError
            If the table cannot be read.
        StoreError
            If an id does not fit into 32 bits.
        OutputError
            If there is no room.
        """
        folder = self.edges.folder
        try:
            remove_entry(folder)
            folder.mkdir()
            self.edges.write(open_objects(self.store))
        except SlideError:
            raise
        except OSError as err:
            raise OutputError(f"{folder} cannot be written: {err.strerror or err}; {RESUMES}") from err

    def fill_block(self, index: tuple[int, int], left: FilledBlock | None) -> FilledBlock:
        """Write one block, unless it is there.

        Parameters
        ----------
        index
            (row, column) of the block.
        left
            What came of the block on its left; None in the first column.

        Raises
        ------
        OutputError
            If the disk does not take it, or edges or earlier ids cannot be read.
        """
        if self.writer.has_block(index):
            return FilledBlock(None)
        box = self.writer.levels[0].box(index)
        before = np.zeros(box.shape[0], np.uint32)
        if left is not None:
            before = self._column(box.x0 - 1, box) if left.last is None else left.last
        try:
            ids = self.edges.fill(box, before)
        except OSError as err:
            raise OutputError(f"{self.edges.folder} cannot be read: {err.strerror or err}; {RESUMES}") from err
        self.writer.write_block(index, ids)
        return FilledBlock(ids[:, -1].copy())

    def complete(self) -> None:
        """Write the coarser levels that blocks do not write, and give the instances their place in the store.

        Raises
        ------
        DamagedStoreError
            If the list of labels cannot be read.
        OutputError
            If the disk does not take it.
        """
        for level, index in self.writer.coarse():
            if not self.writer.has(level, index):
                self.writer.write_coarse(level, index)
        self.writer.publish()
        remove_unfinished(self.store)

    def _column(self, x: int, box: Box) -> Ids:
        return self.writer.read(0, Box(box.y0, box.y1, x, x + 1))[:, 0]


def rules_of(description: Description) -> dict[str, Any]:
    """What makes an object, as the attributes of instances say it (`RULES`)."""
    return {name: getattr(description, name) for name in RULES}


def begin_instances(path: Named, *, wanted: bool) -> InstancesWork | None:
    """Make ready to write the id of each pixel's object into a store that has its objects; None if it needs no ids.

    The ids are those of its table; pixels of objects that it leaves out are 0. Ids that are there are kept if they are
    of this table, and else made again. What an earlier call has left unfinished is removed, unless it is of this table.

    Parameters
    ----------
    path
        The store, on a disk.
    wanted
        Whether to write ids into a store that has none.

    Raises
    ------
    DamagedStoreError
        If the store or the table is damaged.
    StoreError
        If it is not a store, or has no objects; if instances that wsipipe did not make are in the way.
    OutputError
        If there is no room.
    """
    store = open_finished(path)
    folder, rules = Path(store.path), rules_of(open_objects(path).description)
    found = rules_of_instances(folder)
    if found == rules or (found is None and not wanted):
        remove_unfinished(folder)
        return None
    work = _work_folder(folder, rules)
    remove_unfinished(folder, but=work)
    make_folder(work, way_out=RESUMES, within=folder)
    writer = InstancesWriter(store, work, rules)
    level = writer.levels[0]
    return InstancesWork(folder, writer, EdgeFiles(work / "edges", level.shape, level.shard))


def make_instances(
    path: Named, *, wanted: bool, threads: int, limit_bytes: int, progress: Callable[[int, int], None]
) -> Path | None:
    """Write the ids of a finished store, as `begin_instances` has it, and return where; None if it needs none.

    Killed and called again, it goes on with the next block, and ends in the same bytes.

    Parameters
    ----------
    path
        A finished store, on a disk.
    wanted
        Whether to write ids into a store that has none.
    threads
        The most rows of blocks that are filled at a time.
    limit_bytes
        The most memory that this process may take.
    progress
        Receives after each row of blocks how many blocks are done, and how many there are; called in this thread.

    Raises
    ------
    DamagedStoreError
        If the store or the table is damaged.
    StoreError
        If it is not a store, or has no objects; if an id does not fit into 32 bits; if instances that wsipipe did not
        make are in the way.
    MemoryLimitError
        If one block does not fit into the memory.
    OutputError
        If there is no room.
    """
    with own_zarr_settings():
        work = begin_instances(path, wanted=wanted)
        if work is not None:
            threads = _fitted_threads(work, threads, limit_bytes)
            work.write_edges()
            _fill(work, threads, progress)
            work.complete()
    store = Path(str(path))
    return None if rules_of_instances(store) is None else store / INSTANCES


def remove_unfinished(store: Path, but: Path | None = None) -> None:
    """Remove what earlier calls have left in a store of instances that they did not finish, ``but`` one folder.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    remove_matching(store / OBJECTS, f"{WORK}*", but=but)


def _work_folder(store: Path, rules: Mapping[str, Any]) -> Path:
    return store / OBJECTS / f"{WORK}{hashlib.sha256(repr(rules).encode()).hexdigest()[:8]}"


def _fill(work: InstancesWork, threads: int, progress: Callable[[int, int], None]) -> None:
    """Fill all blocks, ``threads`` rows of them at a time."""
    rows, columns = work.blocks
    progress(0, rows * columns)
    stopped = Event()
    pool = ThreadPoolExecutor(threads, "wsipipe-instances")
    try:
        for done, _ in enumerate(pool.map(partial(_fill_row, work, stopped), range(rows)), 1):
            progress(done * columns, rows * columns)
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _fill_row(work: InstancesWork, stopped: Event, row: int) -> None:
    """Fill a row of blocks, from left to right, until it is ``stopped``."""
    left = None
    for col in range(work.blocks[1]):
        if stopped.is_set():
            break
        left = work.fill_block((row, col), left)


def _fitted_threads(work: InstancesWork, threads: int, limit_bytes: int) -> int:
    block = work.writer.levels[0].shard
    limit_bytes -= psutil.Process().memory_info().rss + RUNTIME_BYTES
    need = INSTANCE_BYTES * block * block
    if need > limit_bytes:
        raise MemoryLimitError(
            f"instances of a block of {block} px need {megabytes(need, up=True)} of memory, and "
            f"{megabytes(max(limit_bytes, 0))} are left; raise --max-memory"
        )
    return min(threads, limit_bytes // need)
