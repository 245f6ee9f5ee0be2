"""A finished store, as everything that reads one opens it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from wsipipe.arrays import Labels
from wsipipe.errors import DamagedStoreError, StoreError
from wsipipe.events import ClassCount
from wsipipe.files import Location, Named, locate, zarr_store
from wsipipe.geometry.grid import Box
from wsipipe.store.documents import is_described
from wsipipe.store.image_label import parse_image_label, read_attributes
from wsipipe.store.record import parse_record
from wsipipe.store.shards import read_box
from wsipipe.store.spec import PROBABILITIES, REGION, ROOT, TISSUE, Seen
from wsipipe.urls import Url


@dataclass(frozen=True)
class FinishedStore:
    """The attributes of a finished store, and the way to its labels; made by `open_finished`."""

    path: str
    """Path or URL of the store."""
    version: str
    """Version of the wsipipe that made it; empty if unknown."""
    model: str
    """Name of the model; empty if unknown."""
    model_sha256: str
    """Identity of the model file."""
    slide: str
    """Identity of the slide file (sha256)."""
    slide_path: str
    """Path of the slide when it was segmented."""
    seen: Seen | None
    """The slide's files, as they were then; older stores do not name them."""
    level: int
    """Level of the slide that was segmented."""
    shrink: float
    """Pixels of that level that one pixel of the store spans, along a side."""
    block: int
    """Side of its blocks in pixels."""
    min_area_um2: float | None
    """Area in square micrometres below which the model's finds are not objects; older stores do not say."""
    probable: bool
    """Whether it has probabilities."""
    reading: str
    """Reader and planes of the slide, as `wsipipe.slides.planes.parse_reading` takes them; empty for the default."""
    mpp: float | None
    """Micrometres per pixel of the store's finest level; None if unknown."""
    downsample: float
    """Pixels of the slide's finest level that one pixel of the store's finest level spans, along a side."""
    levels: int
    """Number of levels of labels."""
    classes: tuple[tuple[str, int, str], ...]
    """(name, label, #rrggbb) of each class but the background."""
    counts: Mapping[int, int]
    """Pixels of each label at the finest level; empty if the run did not record them."""
    complete: bool
    """Whether the run that made it came to its end; False in a copy of an unfinished store."""
    tissue_share: float | None
    """Share of the slide, or of the region that was asked for, that is tissue, 0 to 1; None without a tissue mask."""
    region_share: float | None
    """Share of the slide that lies in the region that was asked for, 0 to 1; None without a region."""
    objects: tuple[ClassCount, ...] | None
    """Counts of its objects, class by class; None if it has none."""

    def labels(self, level: int) -> zarr.Array[Any]:
        """The labels of ``level``, 0 the finest: (y, x), uint8, not yet read.

        Damaged metadata of the array raise what zarr raises.

        Raises
        ------
        StoreError
            If the array does not have two axes.
        """
        array = zarr.open_array(zarr_store(locate(self.path) / str(level)), mode="r")
        if array.ndim != 2:
            raise StoreError(f"{self.path}: array {level} has shape {array.shape}; labels have the axes (y, x)")
        return array

    def read_labels(self, box: Box) -> Labels:
        """The labels of ``box`` at the finest level, (y, x), uint8.

        Damage raises what zarr or a codec raises, and a missing shard an OSError.

        Raises
        ------
        StoreError
            If the array does not have two axes.
        """
        where = locate(self.path)
        if self._sides is None or isinstance(where, Url):
            return np.asarray(self.labels(0)[box.slices])
        chunk_px, shard_px = self._sides
        return read_box(where / "0", box, chunk_px=chunk_px, shard_px=shard_px)

    @cached_property
    def _sides(self) -> tuple[int, int] | None:
        """Sides of a chunk and of a shard of the finest level, if it is stored as this wsipipe stores it."""
        array = self.labels(0)
        return (array.chunks[0], array.shards[0]) if array.shards and is_described(array) else None

    def probabilities(self) -> tuple[zarr.Array[Any], dict[int, int]]:
        """The probabilities (class, y, x), uint8, not yet read, and the index of each label's class along that axis.

        Damaged metadata raise what zarr raises, or a LookupError.
        """
        folder, name = PROBABILITIES.split("/")
        group = zarr.open_group(zarr_store(locate(self.path) / folder), mode="r")
        array = zarr.open_array(zarr_store(locate(self.path) / folder / name), mode="r")
        described: Any = group.attrs["wsipipe"]
        names: list[str] = list(described["classes"])
        return array, {label: names.index(class_name) for class_name, label, _ in self.classes}

    def tissue(self, level: int = 0) -> zarr.Array[Any] | None:
        """The cells of ``level`` of the tissue mask, (y, x), uint8, 1 in tissue, not yet read; None if it has none."""
        folder = locate(self.path) / TISSUE / str(level)
        return zarr.open_array(zarr_store(folder), mode="r") if (folder / ROOT).is_file() else None

    def region(self) -> bytes | None:
        """The region that was asked for, as GeoJSON in pixels of the slide's level 0; None: the whole slide.

        What the file system raises stays as it is.
        """
        path = locate(self.path) / REGION
        return path.read_bytes() if self.region_share is not None else None

    @property
    def searched_share(self) -> float:
        """Share of the slide that was searched for objects, 0 to 1: its region, and the tissue there."""
        return math.prod(share for share in (self.region_share, self.tissue_share) if share is not None)

    @property
    def slide_mpp(self) -> float | None:
        """Micrometres per pixel of the slide's finest level, as the store was made; None if unknown."""
        return None if self.mpp is None else self.mpp / self.downsample

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of each level in pixels, from fine to coarse."""
        return [(height, width) for height, width in (self.labels(level).shape for level in range(self.levels))]


def is_store(path: Location) -> bool:
    """Whether ``path`` is a store of wsipipe, finished or not.

    Raises
    ------
    DamagedStoreError
        If it has attributes that cannot be read.
    StoreError
        If it may not be looked at.
    """
    try:
        made = read_attributes(path).get("wsipipe") if (path / ROOT).is_file() else None
    except PermissionError as err:
        raise StoreError(f"{path} cannot be read: {err.strerror}") from err
    return isinstance(made, dict) and "fingerprint" in made  # the probabilities in a store have others


def open_complete(path: Named) -> FinishedStore:
    """As `open_finished`, of a store whose run came to its end.

    Raises
    ------
    StoreError
        If ``path`` is not a store of wsipipe, or not finished.
    DamagedStoreError
        If its attributes cannot be read.
    """
    store = open_finished(path)
    if not store.complete:
        raise StoreError(f"{store.path} is not finished; the same wsipipe run completes it")
    return store


def open_finished(path: Named) -> FinishedStore:
    """The finished store at ``path``, a folder or a URL.

    Does not check that the store is complete (`FinishedStore.complete`), nor that its shards exist. A store of a newer
    wsipipe opens too, with keys that this one does not know.

    Raises
    ------
    StoreError
        If ``path`` is not a store of wsipipe.
    DamagedStoreError
        If its attributes cannot be read.
    """
    where = locate(path)
    attributes = read_attributes(where)
    if "wsipipe" not in attributes:
        raise StoreError(
            f"{where} is not a store that wsipipe made; give a folder that a run has written, such as "
            "segmentations/case-17.zarr"
        )
    image = parse_image_label(attributes)
    try:
        record = parse_record(attributes["wsipipe"])
        fingerprint = record.fingerprint
        return FinishedStore(
            path=str(where),
            version=record.version,
            model=record.model,
            model_sha256=str(fingerprint.model_sha256),
            slide=str(fingerprint.slide),
            slide_path=str(record.slide),
            seen=record.seen,
            block=int(record.block),
            min_area_um2=record.min_area_um2,
            probable=bool(fingerprint.probabilities),
            level=int(fingerprint.level),
            shrink=float(fingerprint.shrink),
            reading=str(fingerprint.reading),
            mpp=None if fingerprint.mpp is None else float(fingerprint.mpp),
            downsample=image.downsample,
            levels=image.levels,
            classes=image.classes,
            counts=record.counts,
            complete=bool(record.complete),
            tissue_share=record.tissue_share,
            region_share=record.region_share,
            objects=record.objects,
        )
    except (LookupError, TypeError, ValueError) as err:
        raise DamagedStoreError(
            f"the attributes of {where} cannot be read ({type(err).__name__}: {err}); write the store again"
        ) from err
