"""The instances of a finished store: an OME-Zarr image-label with the id of each pixel's object, if asked for.

::

    case-17.zarr/
        labels/zarr.json            the labels that viewers find by themselves
        labels/instances/           multiscales; attributes.wsipipe_objects: what makes an object
            0/ 1/ 2/ ...            uint32 (y, x): ids of the table, 0 for none; shapes, shards and chunks of the labels

The folder ``instances`` appears whole, by rename. Other labels, which wsipipe did not make, stay as they are.

Source: https://ngff.openmicroscopy.org/0.5/#labels-md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import MemoryStore

from wsipipe.errors import DamagedStoreError, OutputError, StoreError
from wsipipe.files import RESUMES, Location, make_folder, remove_entry, write_whole, zarr_store
from wsipipe.geometry.grid import Box
from wsipipe.store.documents import describe_array, documents_in
from wsipipe.store.finished import FinishedStore
from wsipipe.store.image_label import read_attributes
from wsipipe.store.pyramid import halve_ids
from wsipipe.store.shards import damage_of_shard, write_shard
from wsipipe.store.spec import INSTANCES, ROOT, shard_name

NAME = INSTANCES.split("/")[-1]
KEY = "wsipipe_objects"
"""The attribute that says of which objects they are. A folder with an attribute ``wsipipe`` is a store."""
RULES = ("connectivity", "split", "min_area_um2")
"""What makes an object, of the labels of one slide."""


@dataclass(frozen=True)
class LevelLayout:
    """A level of the labels, and of the instances."""

    shape: tuple[int, int]
    """(height, width) in pixels."""
    shard: int
    """Side of a shard in pixels."""
    chunk: int
    """Side of a chunk in pixels."""

    @property
    def shards(self) -> tuple[int, int]:
        """Number of shards, (rows, columns)."""
        return -(-self.shape[0] // self.shard), -(-self.shape[1] // self.shard)

    def box(self, index: tuple[int, int]) -> Box:
        """The pixels of shard ``index``."""
        (y0, y1), (x0, x1) = (
            (i * self.shard, min((i + 1) * self.shard, size)) for i, size in zip(index, self.shape, strict=True)
        )
        return Box(y0, y1, x0, x1)


def layout_of(store: FinishedStore) -> list[LevelLayout]:
    """The levels of a store's labels, from fine to coarse.

    Raises
    ------
    StoreError
        If they have no shards.
    DamagedStoreError
        If their metadata cannot be read.
    """
    levels = []
    for level in range(store.levels):
        try:
            array = store.labels(level)
        except (OSError, ValueError, LookupError, TypeError) as err:  # whatever zarr raises on damaged metadata
            raise DamagedStoreError(f"{store.path}: array {level} cannot be read ({err}); segment it again") from err
        if array.shards is None:
            raise StoreError(f"{store.path}: array {level} has no shards")
        height, width = array.shape
        levels.append(LevelLayout((height, width), array.shards[0], array.chunks[0]))
    return levels


def rules_of_instances(store: Location) -> Mapping[str, Any] | None:
    """What makes an object of the instances that wsipipe wrote into a store (`RULES`); None if there are none.

    Raises
    ------
    DamagedStoreError
        If their attributes cannot be read.
    """
    if not (store / INSTANCES / ROOT).is_file():
        return None
    rules = read_attributes(store / INSTANCES).get(KEY)
    return rules if isinstance(rules, dict) else None


class InstancesWriter:
    """Instances on their way, in a folder of their own until they are complete.

    Parameters
    ----------
    store
        The store.
    folder
        Where they are put until then; what an earlier call left there is kept.
    rules
        What makes an object (`RULES`).

    Raises
    ------
    StoreError, DamagedStoreError
        If the labels have no shards, or cannot be read; if other instances are in the way.
    OutputError
        If the disk does not take them.
    """

    def __init__(self, store: FinishedStore, folder: Path, rules: Mapping[str, Any]) -> None:
        self._store, self._folder = Path(store.path), folder / NAME
        final = self._store / INSTANCES
        if final.exists() and rules_of_instances(self._store) is None:
            raise StoreError(f"{final} is in the way: wsipipe did not make it; rename it")
        self.levels = layout_of(store)
        for torn in [*self._folder.rglob("*.partial")]:
            torn.unlink(missing_ok=True)
        for name, blob in _documents(self._store, self.levels, rules).items():
            path = self._folder / name
            make_folder(path.parent, way_out=RESUMES)
            write_whole(path, blob, way_out=RESUMES, shared=True)

    @property
    def block_levels(self) -> int:
        """Number of levels, from the finest, whose shards are halves of the one before."""
        block = self.levels[0].shard
        return next((n for n, one in enumerate(self.levels) if one.shard << n != block), len(self.levels))

    def has(self, level: int, index: tuple[int, int]) -> bool:
        """Whether a shard is there, and each of its chunks fits its checksum.

        Raises
        ------
        OutputError
            If it cannot be read.
        """
        path, one = self._path(level, index), self.levels[level]
        try:
            return not damage_of_shard(path, chunks=(one.shard // one.chunk) ** 2, chunk_bytes=4 * one.chunk**2)
        except OSError as err:
            raise OutputError(f"{path} cannot be read: {err.strerror or err}; {RESUMES}") from err

    def has_block(self, index: tuple[int, int]) -> bool:
        """Whether all shards that a block writes are there and sound.

        Raises
        ------
        OutputError
            If one cannot be read.
        """
        return all(self.has(level, index) for level in range(self.block_levels))

    def write_block(self, index: tuple[int, int], ids: npt.NDArray[np.uint32]) -> None:
        """Write a block and its coarser levels, the finest last; ``ids`` is (y, x), uint32.

        Raises
        ------
        OutputError
            If the disk does not take it.
        """
        levels = [ids]
        while len(levels) < self.block_levels:
            levels.append(halve_ids(levels[-1]))
        for level in reversed(range(len(levels))):
            self._write(level, index, levels[level])

    def write_coarse(self, level: int, index: tuple[int, int]) -> None:
        """Write a shard that blocks do not write, from the level before.

        Raises
        ------
        OutputError
            If the disk does not take it, or cannot be read.
        """
        box, (height, width) = self.levels[level].box(index), self.levels[level - 1].shape
        before = Box(2 * box.y0, min(2 * box.y1, height), 2 * box.x0, min(2 * box.x1, width))
        self._write(level, index, halve_ids(self.read(level - 1, before)))

    def coarse(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Level and (row, column) of each shard that blocks do not write, in the order in which they are made."""
        for level in range(self.block_levels, len(self.levels)):
            for index in np.ndindex(self.levels[level].shards):
                yield level, index

    def read(self, level: int, box: Box) -> npt.NDArray[np.uint32]:
        """Ids that were written, (y, x), uint32.

        Raises
        ------
        OutputError
            If they cannot be read.
        """
        path = self._folder / str(level)
        try:
            return np.asarray(zarr.open_array(zarr_store(path), mode="r")[box.slices])
        except Exception as err:  # a codec may raise anything on bytes that rotted
            raise OutputError(f"{path} cannot be read ({err}); remove {self._folder}, and run again") from err

    def publish(self) -> None:
        """Give them their place in the store; older ones are removed only now.

        Raises
        ------
        DamagedStoreError
            If the list of labels cannot be read.
        OutputError
            If the disk does not take it.
        """
        final = self._store / INSTANCES
        make_folder(final.parent, way_out=RESUMES, within=self._store)
        _list_instances(final.parent)
        try:
            remove_entry(final)
            self._folder.rename(final)
        except OSError as err:
            raise OutputError(f"{final} cannot be written: {err.strerror or err}; {RESUMES}") from err

    def _path(self, level: int, index: tuple[int, int]) -> Path:
        return self._folder / shard_name(str(level), index)

    def _write(self, level: int, index: tuple[int, int], ids: npt.NDArray[np.uint32]) -> None:
        path, layout = self._path(level, index), self.levels[level]
        make_folder(path.parent, way_out=RESUMES)
        write_shard(path, ids.astype("<u4", copy=False), (layout.chunk,) * 2, (layout.shard,) * 2, way_out=RESUMES)


def _list_instances(labels: Path) -> None:
    """Add the instances to the labels that a store lists, by which viewers find them."""
    root, listed = labels / ROOT, list(read_attributes(labels).get("labels", []))
    if NAME not in listed:
        group: Any = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
        document = json.loads(root.read_bytes()) if root.is_file() else group
        document["attributes"].setdefault("ome", {"version": "0.5"})["labels"] = [*listed, NAME]
        write_whole(root, json.dumps(document, indent=2).encode(), way_out=RESUMES, shared=True)


def _documents(store: Path, levels: list[LevelLayout], rules: Mapping[str, Any]) -> dict[str, bytes]:
    """The metadata documents of the instances, by their path in their folder."""
    memory = MemoryStore()
    multiscale = read_attributes(store)["multiscales"][0] | {"name": NAME}
    ome = {"version": "0.5", "multiscales": [multiscale], "image-label": {"source": {"image": "../../"}}}
    zarr.create_group(memory, attributes={"ome": ome, KEY: dict(rules)}, zarr_format=3)
    for number, level in enumerate(levels):
        chunks, shards = (level.chunk,) * 2, (level.shard,) * 2
        describe_array(memory, str(number), level.shape, chunks, shards, dtype="uint32")
    return documents_in(memory)
