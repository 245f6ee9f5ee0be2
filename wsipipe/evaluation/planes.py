"""Files as planes to compare: label rasters, outlines, stores with tables of objects or with probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wsipipe.errors import DamagedStoreError, LabelError
from wsipipe.evaluation.blockwise import Labelled, LabelPlane
from wsipipe.evaluation.classes import Classes, read_values
from wsipipe.geometry.grid import Box
from wsipipe.rasters.label_raster import LabelRaster
from wsipipe.rasters.opened import damage_of, reading
from wsipipe.store.finished import open_finished

if TYPE_CHECKING:
    from wsipipe.objects.read import ObjectTable
    from wsipipe.rasters.annotations import Annotations

Are = Literal["classes", "instances"]
"""Meaning of the values of a raster."""


@dataclass(frozen=True, eq=False)
class RasterPlane:
    """A label raster as a plane: its values are those of classes, or ids of instances of class 1."""

    raster: LabelRaster
    """The pixels."""
    classes: Classes
    """The classes whose values are allowed besides 0."""
    are: Are
    """Meaning of the values."""
    option: str
    """The option that says so."""
    mapped: Mapping[int, int]
    """Values of the pixels that stand for another value."""

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.raster.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.raster.shape

    def read(self, box: Box) -> Labelled:
        """See `LabelPlane.read`.

        Raises
        ------
        LabelError
            If a value is not that of a class.
        SlideReadError
            If the pixels cannot be read.
        """
        values = read_values(self.raster, box, self.mapped)
        if self.are == "instances":
            return Labelled((values > 0).astype(np.uint8), values)
        known = np.array([0, *self.classes.values])
        order = np.argsort(known)
        at = order[np.minimum(np.searchsorted(known, values, sorter=order), len(known) - 1)]
        if (wrong := known[at] != values).any():
            raise LabelError(self._unknown(int(values[wrong][0]), box))
        return Labelled(at.astype(np.uint8))

    def _unknown(self, value: int, box: Box) -> str:
        allowed = ", ".join(f"{v} ({n})" for v, n in zip(self.classes.values, self.classes.names, strict=True))
        return (
            f"{self.name} has the value {value} in {box}; allowed: 0 and {allowed}; if its values are object "
            f"ids, give {self.option} instances; if they stand for other classes, give --map {value}=CLASS"
        )


@dataclass(frozen=True, eq=False)
class AnnotationPlane:
    """Annotated outlines as a plane."""

    annotations: Annotations
    """The outlines."""

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.annotations.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.annotations.shape

    def read(self, box: Box) -> Labelled:
        """See `LabelPlane.read`."""
        found = self.annotations.read(box)
        return Labelled(found.classes, found.instances, found.inside)


@dataclass(frozen=True, eq=False)
class TablePlane:
    """The labels of a store, whose objects are those of the table in it."""

    labels: RasterPlane
    """The labels."""
    table: ObjectTable
    """The objects."""

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.labels.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.labels.shape

    def read(self, box: Box) -> Labelled:
        """See `LabelPlane.read`.

        Raises
        ------
        LabelError
            If a value is not that of a class.
        SlideReadError
            If the pixels cannot be read.
        DamagedStoreError
            If the table cannot be read, or is not that of these labels.
        """
        from wsipipe.objects.pixel_ids import ids_within

        classes, ids = self.labels.read(box).classes, ids_within(self.table, box)
        if ((classes == 0) & (ids > 0)).any():
            raise DamagedStoreError(
                f"{self.table.path} has objects in {box} where {self.name} has background; remove it, and make the "
                "objects again (wsipipe objects)"
            )
        return Labelled(classes, ids)


@dataclass(frozen=True, eq=False)
class ProbablePlane:
    """The plane of a store that has probabilities, with them."""

    plane: LabelPlane
    """The labels."""
    path: Path
    """The store."""
    array: Any
    """(class, y, x), uint8, of zarr."""
    channels: tuple[int, ...]
    """Where each class but the background is along its first axis."""

    @property
    def name(self) -> str:
        """The name for messages."""
        return self.plane.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.plane.shape

    def read(self, box: Box) -> Labelled:
        """See `LabelPlane.read`.

        Raises
        ------
        SlideReadError
            If labels or probabilities cannot be read.
        """
        with reading(self.path, box):
            values = np.stack([np.asarray(self.array[(channel, *box.slices)]) for channel in self.channels])
        return replace(self.plane.read(box), probabilities=values)


def with_probabilities(plane: LabelPlane, path: Path, classes: Classes) -> LabelPlane:
    """The ``plane`` of the store at ``path``, with its probabilities.

    Raises
    ------
    SlideReadError
        If the store has none, or they are damaged.
    """
    with damage_of(path):
        array, channels = open_finished(path).probabilities()
        return ProbablePlane(plane, path, array, tuple(channels[value] for value in classes.values))
