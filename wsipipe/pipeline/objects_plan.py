"""The plan for the objects of a finished store: what is measured, from which slide, in which blocks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from wsipipe.errors import DamagedStoreError, MemoryLimitError, SlideReadError, StoreError, UsageError
from wsipipe.files import Location, Named, locate
from wsipipe.geometry.scale import stored_side
from wsipipe.model.min_areas import min_area_of_older
from wsipipe.objects.block import STRIP_PX, Counting
from wsipipe.objects.read import ObjectTable, open_objects
from wsipipe.objects.sums import SUMMED_AT_ONCE, Layout
from wsipipe.objects.table import Description, ObjectClass
from wsipipe.pipeline.machine import megabytes
from wsipipe.pipeline.slide_seen import is_same
from wsipipe.rasters.label_zarr import zarr_labels
from wsipipe.rasters.segmented_slide import open_as_segmented, segmented_level
from wsipipe.slides.pixels.mirrored import averaging_bytes
from wsipipe.slides.slide import Level, Slide
from wsipipe.store.finished import FinishedStore, open_complete, open_finished
from wsipipe.store.image_label import read_attributes
from wsipipe.store.instances import RULES
from wsipipe.store.spec import OBJECTS, OBJECTS_TABLE
from wsipipe.urls import Url

SLIDE_AUTO, SLIDE_OFF = "auto", "off"
"""Which slide intensities are measured in: the one that the store names, or none."""
BLOCK_PX = 2048
"""The largest side of a block, where it can be chosen."""
RUN_BLOCK_PX = 1024
"""The same in a run, where a network is in memory, too."""
SMALLEST_BLOCK_PX = 256
"""The smallest side that is chosen to save memory."""
SHAPE_BYTES = 140
"""Bytes for each pixel of a block: 10 for one region, 14 for nuclei, 131 for noise, as measured."""
SUMS_BYTES = 100 * 2**20
"""Bytes for `SUMMED_AT_ONCE` pixels whose intensities are summed, as measured."""
JOINING_BYTES = 100 * 2**20
"""Bytes for joining blocks and writing the table, as measured with a million nuclei, but for the longest outline."""
OUTLINE_BYTES = 64 * 2**20
"""The least that a run leaves for the longest outline: 190 000 corners."""
INSTANCE_BYTES = 24
"""Bytes for each pixel of a block whose ids are filled in and written, as measured with noise."""
PIECES_AT_ONCE = 10
"""Pieces of a file that are decoded at a time."""
COLOURS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


OPTION_OF_RULE = {"connectivity": "--connectivity", "split": "--split", "min_area_um2": "--min-area"}


@dataclass(frozen=True)
class ObjectsRequest:
    """What a user asks for."""

    min_area_um2: float | None = None
    """Area in square micrometres below which objects are left out; None: what the model says."""
    connectivity: int = 8
    """8: pixels that touch at a corner belong together; 4: only those that share a side."""
    split: bool = False
    """Whether objects are parted where they are narrow."""
    slide: str = SLIDE_AUTO
    """The slide to measure intensities in: ``auto``, the one that the store names; ``off``; or a path."""
    instances: bool = False
    """Whether the id of each pixel's object is written into the store, too (`wsipipe.pipeline.instances`)."""

    def __post_init__(self) -> None:
        if self.connectivity not in (4, 8):
            raise UsageError(f"--connectivity must be 4 or 8, not {self.connectivity}")
        if self.min_area_um2 is not None and not 0 <= self.min_area_um2 < float("inf"):
            raise UsageError(f"--min-area must be 0 um2 or more, not {self.min_area_um2}")


@dataclass(frozen=True)
class ObjectsPlan:
    """What is measured of the objects of a store."""

    store: FinishedStore
    counting: Counting
    """What makes an object."""
    description: Description
    """What the table will say of itself."""
    level: Level | None
    """The level of the slide whose intensities are measured; None: shapes only."""
    warning: str = ""
    """Why there are no intensities, if that was not asked for."""
    instances: bool = False
    """Whether ids are written into a store that has none; it keeps those that it has in step with its table."""

    @property
    def table(self) -> Path:
        """The table."""
        return Path(self.store.path) / OBJECTS_TABLE

    @property
    def run_block_px(self) -> int:
        """Side of the blocks of objects, in pixels, where they are measured as parts of the blocks of a run."""
        return block_side(self.store.block, RUN_BLOCK_PX)

    def folder(self, block_px: int) -> Path:
        """Where blocks of ``block_px`` px put what they give, until the table is made."""
        token = hashlib.sha256(repr((self.counting, block_px)).encode()).hexdigest()[:8]
        return Path(self.store.path) / OBJECTS / f"blocks-{token}"

    @property
    def counted(self) -> bool:
        """Whether the attributes of the store have counts, and these are of the planned objects."""
        noted = read_attributes(Path(self.store.path))["wsipipe"].get("objects")
        rules = {name: getattr(self.description, name) for name in RULES}
        return self.store.objects is not None and rules == {name: noted.get(name) for name in RULES}

    @property
    def other_rules(self) -> str:
        """The options that the objects of the store were made with, where they differ from the planned ones."""
        noted = read_attributes(Path(self.store.path))["wsipipe"].get("objects") or {}
        pairs = ((name, noted.get(name), getattr(self.description, name)) for name in RULES)
        differing = [
            f"{OPTION_OF_RULE[name]} {_said(old)} (now {_said(new)})" for name, old, new in pairs if old != new
        ]
        return ", ".join(differing) or "other options"

    def existing(self) -> ObjectTable | None:
        """The table that the store has already, if it says all that the planned one would.

        Raises
        ------
        StoreError
            If there is another one, which has intensities that cannot be measured again.
        """
        try:
            table = open_objects(self.table)
        except DamagedStoreError:  # or none
            return None
        intensities = table.description.layout
        if self.level is None and replace(table.description, layout=self.description.layout) == self.description:
            return table
        if self.warning and intensities.channels:
            raise StoreError(
                f"{self.table} has intensities that would be lost, because {self.warning}; give the slide "
                f"(--slide FILE), or do without them (--slide {SLIDE_OFF})"
            )
        return table if table.description == self.description else None


def _said(value: object) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else f"{value}"


def plan_objects(path: Named, request: ObjectsRequest) -> ObjectsPlan:
    """What is measured of the objects of the finished store at ``path``; nothing is written.

    Raises
    ------
    UsageError
        If the store is behind a URL.
    StoreError, DamagedStoreError
        If it is not a store of wsipipe, or not finished.
    SlideError
        If the slide is another one, or not a slide.
    """
    where = locate(path)
    if isinstance(where, Url):
        raise UsageError(f"{where}: objects are measured in stores on a disk; copy the store first")
    store = open_complete(where)
    shape = zarr_labels(where).shape  # raises where shards are missing
    slide, warning = _slide(store, request.slide)
    if slide is None:
        return _planned(store, request, shape, Layout(), warning=warning)
    way_out = f"measure shapes only (--slide {SLIDE_OFF}), or segment the slide again"
    level = segmented_level(slide, store, way_out=way_out)
    return _planned(store, request, shape, intensities_of(slide, level), level=level)


def plan_objects_of_run(store: Location, request: ObjectsRequest, slide: Slide, level: Level) -> ObjectsPlan:
    """The same for a store that a run works on, whether or not it is finished, from ``level`` of ``slide``.

    Raises
    ------
    DamagedStoreError
        If its attributes cannot be read.
    """
    return _planned(open_finished(store), request, level.shape, intensities_of(slide, level), level=level)


def _planned(
    store: FinishedStore,
    request: ObjectsRequest,
    shape: tuple[int, int],
    colours: Layout,
    *,
    level: Level | None = None,
    warning: str = "",
) -> ObjectsPlan:
    layout = replace(colours, probability=store.probable)
    smallest = request.min_area_um2
    if smallest is None:
        smallest = min_area_of_older(store.model_sha256) if store.min_area_um2 is None else store.min_area_um2
    counting = Counting(shape, request.connectivity, layout, request.split)
    description = Description(
        slide=store.slide,
        classes=tuple(ObjectClass(label, name, color) for name, label, color in store.classes),
        mpp=store.mpp,
        downsample=store.downsample,
        connectivity=request.connectivity,
        split=request.split,
        min_area_um2=smallest,
        layout=layout,
    )
    return ObjectsPlan(store, counting, description, level, warning, request.instances)


def intensities_of(slide: Slide, level: Level) -> Layout:
    """The intensities that are measured in ``level`` of ``slide``."""
    if level.axes != "cyx" and level.channels in COLOURS:
        return Layout(COLOURS[level.channels], stained=level.channels == 3)
    chosen = level.planes.indices or range(level.channels)
    names = [slide.channel_names[i] if i < len(slide.channel_names) else f"channel_{i}" for i in chosen]
    if len(set(names)) < len(names):
        names = [f"{name}_{i}" for name, i in zip(names, chosen, strict=True)]
    return Layout(tuple(names))


def fitted_blocks(plan: ObjectsPlan, threads: int, limit_bytes: int) -> tuple[int, int]:
    """Side of the blocks in pixels, and how many are measured at a time, so that they fit into ``limit_bytes``.

    Raises
    ------
    MemoryLimitError
        If not even one small block fits.
    """
    side, smallest = block_side(plan.store.block, BLOCK_PX), min(plan.store.block, SMALLEST_BLOCK_PX)
    while threads * block_measuring_bytes(plan, side) > limit_bytes:
        if (smaller := block_side(plan.store.block, side // 2)) >= smallest and smaller < side:
            side = smaller
        elif threads > 1:
            threads -= 1
        else:
            need = megabytes(block_measuring_bytes(plan, side), up=True)
            raise MemoryLimitError(
                f"{plan.store.path}: the objects of a block of {side} px need {need} of memory, and "
                f"{megabytes(max(limit_bytes, 0))} are left; raise --max-memory"
            )
    return side, threads


def block_side(block_px: int, most_px: int) -> int:
    """The side of the blocks of objects: the largest equal part of ``block_px`` that has at most ``most_px``.

    If that has less than a quarter of ``most_px``, as it may where ``block_px`` has few divisors, it is the smallest
    part that has more. It is never less than `STRIP_PX`, even if a block is.
    """
    sides = [block_px // n for n in range(1, block_px + 1) if block_px % n == 0]
    side = next(side for side in sides if side <= most_px)
    if 4 * side < min(most_px, block_px):
        side = min(side for side in sides if side > most_px)
    return max(side, STRIP_PX)


def block_measuring_bytes(plan: ObjectsPlan, side: int) -> int:
    """The most memory that reading and measuring a block of ``side`` px takes."""
    level = plan.level
    need = measuring_bytes(level, side, classes=len(plan.store.classes), probabilities=plan.store.probable)
    if level is not None:
        pieces = prod(-(-stored_side(side, level.shrink) // piece) + 1 for piece in level.tile)
        decoded = min(pieces, PIECES_AT_ONCE) * prod(level.tile) * level.channels * np.dtype(level.dtype).itemsize
        need += averaging_bytes(level, (side, side)) + decoded
    return need


def measuring_bytes(level: Level | None, side: int, *, classes: int, probabilities: bool) -> int:
    """The most memory that measuring a block of ``side`` px takes, whose pixels are of ``level``, once they are read.

    Parameters
    ----------
    level
        The level; None if shapes only are measured.
    side
        The side of the block in pixels.
    classes
        Number of classes.
    probabilities
        Whether their probabilities are measured.
    """
    area = side * side
    need = SHAPE_BYTES * area + probabilities * 2 * classes * area
    if level is not None:
        summed = SUMS_BYTES * min(area, SUMMED_AT_ONCE) // SUMMED_AT_ONCE
        need += summed + 2 * area * level.channels * np.dtype(level.dtype).itemsize
    return need


def _slide(store: FinishedStore, wanted: str) -> tuple[Slide | None, str]:
    """The slide to measure intensities in, or why there is none although one was wanted."""
    if wanted == SLIDE_OFF:
        return None, ""
    path = store.slide_path if wanted == SLIDE_AUTO else wanted
    try:
        slide = open_as_segmented(store, path)
        same = slide.identity == store.slide and is_same(slide, store.seen)
    except SlideReadError as err:
        if wanted != SLIDE_AUTO:
            raise
        return None, f"the slide cannot be read ({err})"
    if not same:
        raise StoreError(
            f"{path} is not the slide that {store.path} was made from; give that one (--slide FILE), or measure shapes "
            f"only (--slide {SLIDE_OFF})"
        )
    return slide, ""
