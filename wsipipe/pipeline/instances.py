"""The instances of a finished store, from its table of objects: whose outlines are filled, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import psutil

from wsipipe.errors import MemoryLimitError, OutputError, SlideError
from wsipipe.files import RESUMES, Named, make_folder, remove_entry
from wsipipe.geometry.grid import Box
from wsipipe.objects.edges import EdgeFiles
from wsipipe.objects.read import ObjectTable, open_objects
from wsipipe.objects.table import Description
from wsipipe.pipeline.machine import megabytes
from wsipipe.pipeline.memory_need import RUNTIME_BYTES
from wsipipe.store.finished import FinishedStore, open_finished
from wsipipe.store.instances import RULES, InstancesWriter, rules_of_instances
from wsipipe.store.spec import INSTANCES, OBJECTS
from wsipipe.store.zarr_settings import own_zarr_settings

INSTANCE_BYTES = 24
"""Bytes for each pixel of a block, as measured with noise."""
WORK = "instances-"
"""What the names of folders begin with, within that of the objects, where instances are until they are complete."""


def rules_of(description: Description) -> dict[str, Any]:
    """What makes an object, as the attributes of instances say it (`RULES`)."""
    return {name: getattr(description, name) for name in RULES}


def make_instances(
    path: Named, *, wanted: bool, threads: int, limit_bytes: int, progress: Callable[[int, int], None]
) -> Path | None:
    """Write the id of each pixel's object into a store that has its objects, and return where; None if it needs none.

    The ids are those of its table; pixels of objects that it leaves out are 0. Ids that are there are kept if they are
    of this table, and else made again. Killed and called again, it goes on with the next block, and ends in the same
    bytes.

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
    store, table = open_finished(path), open_objects(path)
    folder, rules = Path(store.path), rules_of(table.description)
    found = rules_of_instances(folder)
    if found is None and not wanted:
        return None
    if found != rules:
        _remove_work(folder, but=_work_folder(folder, rules))
        with own_zarr_settings():
            _make(store, table, threads, limit_bytes, progress)
    _remove_work(folder)
    return folder / INSTANCES


def _make(
    store: FinishedStore, table: ObjectTable, threads: int, limit_bytes: int, progress: Callable[[int, int], None]
) -> None:
    """Write all that is missing in the folder of work, and publish it."""
    rules = rules_of(table.description)
    folder = _work_folder(Path(store.path), rules)
    make_folder(folder, way_out=RESUMES, within=Path(store.path))
    writer = InstancesWriter(store, folder, rules)
    threads = _fitted_threads(writer, threads, limit_bytes)
    _fill(_Work(writer, _edge_files(writer, table, folder), Event()), threads, progress)
    for level, index in writer.coarse():
        if not writer.has(level, index):
            writer.write_coarse(level, index)
    writer.publish()


def _work_folder(store: Path, rules: Mapping[str, Any]) -> Path:
    return store / OBJECTS / f"{WORK}{hashlib.sha256(repr(rules).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class _Work:
    writer: InstancesWriter
    edges: EdgeFiles
    stopped: Event

    def fill_row(self, row: int) -> int:
        """Write what is missing of a row of blocks, from left to right; returns how many there are."""
        level = self.writer.levels[0]
        columns = level.shards[1]
        before = np.zeros(0, np.uint32)
        for col in range(columns):
            if self.stopped.is_set():
                break
            box = level.box((row, col))
            if self.writer.has_block((row, col)):
                before = np.zeros(0, np.uint32)
                continue
            if not len(before):
                before = self._left_of(box)
            try:
                ids = self.edges.fill(box, before)
            except OSError as err:
                raise OutputError(f"{self.edges.folder} cannot be read: {err.strerror or err}; {RESUMES}") from err
            self.writer.write_block((row, col), ids)
            before = ids[:, -1].copy()
        return columns

    def _left_of(self, box: Box) -> np.ndarray[Any, np.dtype[np.uint32]]:
        if not box.x0:
            return np.zeros(box.shape[0], np.uint32)
        return self.writer.read(0, Box(box.y0, box.y1, box.x0 - 1, box.x0))[:, 0]


def _fill(work: _Work, threads: int, progress: Callable[[int, int], None]) -> None:
    rows, columns = work.writer.levels[0].shards
    done = 0
    progress(done, rows * columns)
    pool = ThreadPoolExecutor(threads, "wsipipe-instances")
    try:
        for filled in pool.map(work.fill_row, range(rows)):
            done += filled
            progress(done, rows * columns)
    finally:
        work.stopped.set()
        pool.shutdown(cancel_futures=True)


def _edge_files(writer: InstancesWriter, table: ObjectTable, folder: Path) -> EdgeFiles:
    """The edges of all outlines, anew: what an earlier call left may be short of some, and they have no checksum."""
    level = writer.levels[0]
    files = EdgeFiles(folder / "edges", level.shape, level.shard)
    try:
        remove_entry(files.folder)
        files.folder.mkdir()
        files.write(table)
    except SlideError:
        raise
    except OSError as err:
        raise OutputError(f"{files.folder} cannot be written: {err.strerror or err}; {RESUMES}") from err
    return files


def _fitted_threads(writer: InstancesWriter, threads: int, limit_bytes: int) -> int:
    block = writer.levels[0].shard
    limit_bytes -= psutil.Process().memory_info().rss + RUNTIME_BYTES
    need = INSTANCE_BYTES * block * block
    if need > limit_bytes:
        raise MemoryLimitError(
            f"instances of a block of {block} px need {megabytes(need, up=True)} of memory, and "
            f"{megabytes(max(limit_bytes, 0))} are left; raise --max-memory"
        )
    return min(threads, limit_bytes // need)


def _remove_work(store: Path, but: Path | None = None) -> None:
    """Remove what earlier calls have left."""
    objects = store / OBJECTS
    try:
        for entry in objects.glob(f"{WORK}*"):
            if entry != but:
                remove_entry(entry)
    except OSError as err:
        raise OutputError(f"{objects} cannot be cleaned up: {err.strerror or err}; remove {WORK}* in it") from err
