"""Predictions and labels in files as planes to compare, and the classes that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from wsipipe.errors import DamagedStoreError, LabelError, UsageError
from wsipipe.evaluation.blockwise import READ_BLOCK_PX, Labelled, LabelPlane
from wsipipe.evaluation.pairing import ANNOTATIONS
from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.numbers import MAX_CLASSES
from wsipipe.rasters.label_raster import LabelRaster
from wsipipe.rasters.labels import open_label_raster
from wsipipe.store.image_label import parse_image_label, read_attributes

if TYPE_CHECKING:
    from wsipipe.objects.read import ObjectTable
    from wsipipe.rasters.annotations import Annotations

Are = Literal["classes", "instances"]
"""Meaning of the values of a raster."""
PredictionsAre = Literal["objects", "classes", "instances"]
"""The same of predictions, which may be stores: ``objects`` are classes, and the table in the store has their
objects."""
Values = npt.NDArray[np.int32]
"""Values of pixels."""

NO_VALUES = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Classes:
    """The classes besides the background."""

    names: tuple[str, ...]
    """Names in the order of the ids, from 1."""
    values: tuple[int, ...]
    """The value of each in the pixels of the predictions, and of the labels unless they are mapped."""


ONE_CLASS = Classes(("object",), (1,))
"""The classes of predictions that are instances."""


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


def open_pairs(
    pairs: Sequence[tuple[Path, Path]],
    predictions_are: Are,
    labels_are: Are,
    *,
    mapped: Mapping[int, int],
    tables: Sequence[ObjectTable] = (),
) -> tuple[Classes, list[tuple[LabelPlane, LabelPlane]]]:
    """The classes, and the planes (prediction, truth) of each pair.

    ``tables`` are those with the predictions' objects; if there are none, what the pixels are says what an object is.

    Raises
    ------
    UsageError
        If the classes cannot be told, or predictions name different ones.
    SlideError
        If a file cannot be read, or is not a label raster.
    """
    rasters = [open_label_raster(prediction) for prediction, _ in pairs]
    named = ONE_CLASS if predictions_are == "instances" else common_classes([prediction for prediction, _ in pairs])
    sources = [_open_labels(pair, raster, named) for pair, raster in zip(pairs, rasters, strict=True)]
    classes = named or _found_classes(rasters, sources, labels_are, mapped)

    def truth(source: LabelRaster | Annotations) -> LabelPlane:
        if isinstance(source, LabelRaster):
            return RasterPlane(source, classes, labels_are, "--labels-are", mapped)
        return AnnotationPlane(source)

    labels = [RasterPlane(raster, classes, predictions_are, "--predictions-are", {}) for raster in rasters]
    planes: list[LabelPlane] = list(map(TablePlane, labels, tables)) if tables else list(labels)
    return classes, list(zip(planes, map(truth, sources), strict=True))


def stored_classes(path: Path) -> Classes | None:
    """The classes that the image-label at ``path`` names, whoever wrote it; None if it names none.

    Raises
    ------
    DamagedStoreError
        If its attributes cannot be read.
    """
    named = {value: name for name, value, _ in parse_image_label(read_attributes(path)).classes}
    return Classes(tuple(named[value] for value in sorted(named)), tuple(sorted(named))) if named else None


def stored_downsample(path: Path) -> float:
    """Pixels of the slide's finest level that one pixel of the image-label at ``path`` spans; 1 if it does not say.

    Raises
    ------
    DamagedStoreError
        If its attributes cannot be read.
    """
    return parse_image_label(read_attributes(path)).downsample


def common_classes(predictions: Sequence[Path]) -> Classes | None:
    """The classes that all predictions name; None if none does.

    Raises
    ------
    UsageError
        If they differ.
    """
    first = stored_classes(predictions[0])
    for path in predictions[1:]:
        if (other := stored_classes(path)) != first:
            names = [", ".join(classes.names) if classes else "no classes" for classes in (first, other)]
            raise UsageError(
                f"{predictions[0].name} names {names[0]}, but {path.name} names {names[1]}; evaluate them separately"
            )
    return first


def _open_labels(pair: tuple[Path, Path], raster: LabelRaster, classes: Classes | None) -> LabelRaster | Annotations:
    """The labels of a pair; outlines are drawn in the pixels of the prediction, which is ``raster``."""
    prediction, path = pair
    if path.suffix.lower() not in ANNOTATIONS:
        return open_label_raster(path)
    if classes is None or classes is ONE_CLASS:
        raise UsageError(
            f"{path.name} has named classes, but {prediction.name} names none; give predictions of wsipipe run, or "
            "labels that are a raster"
        )
    from wsipipe.rasters.annotations import open_annotations  # imports shapely, for outlines only

    return open_annotations(path, raster.shape, classes.names, downsample=stored_downsample(prediction))


def read_values(raster: LabelRaster, box: Box, mapped: Mapping[int, int]) -> Values:
    """The pixels of ``box``, int32 (y, x), with the values that are ``mapped`` replaced.

    Raises
    ------
    SlideReadError
        If they cannot be read.
    """
    values = raster.read(box)
    if not mapped:
        return values
    out = values.copy()
    for value, meant in mapped.items():
        out[values == value] = meant
    return out


def _found_classes(
    rasters: Sequence[LabelRaster],
    sources: Sequence[LabelRaster | Annotations],
    labels_are: Are,
    mapped: Mapping[int, int],
) -> Classes:
    """The classes as the values that occur, if predictions do not name any; every raster is read once for that.

    Raises
    ------
    UsageError
        If there are too many values, or predictions and labels have no value in common.
    """
    predicted, truth = NO_VALUES, NO_VALUES
    for raster, source in zip(rasters, sources, strict=True):
        predicted = np.union1d(predicted, distinct_values(raster, {}, "--predictions-are"))
        if labels_are == "classes" and isinstance(source, LabelRaster):
            truth = np.union1d(truth, distinct_values(source, mapped, "--labels-are"))
    if predicted.size and truth.size and not np.intersect1d(predicted, truth).size:
        raise UsageError(
            f"predictions have the values {_listed(predicted)}, and labels {_listed(truth)}, with none in common; "
            f"say which is which, e.g. --map {truth[0]}={predicted[0]}, or give --labels-are instances"
        )
    values = np.union1d(predicted, truth).tolist() or [1]
    return Classes(tuple(map(str, values)), tuple(values))


def distinct_values(raster: LabelRaster, mapped: Mapping[int, int], option: str) -> Values:
    """The values of a raster but 0, ascending, (values,), int32.

    Raises
    ------
    UsageError
        If there are more than `MAX_CLASSES`.
    """
    found: Values = NO_VALUES
    for box in boxes(raster.shape, READ_BLOCK_PX):
        found = np.union1d(found, read_values(raster, box, mapped))
        if np.count_nonzero(found) > MAX_CLASSES:
            raise UsageError(
                f"{raster.name} has more than {MAX_CLASSES} values, the maximum number of classes; if they "
                f"are object ids, give {option} instances"
            )
    return np.setdiff1d(found, [0]).astype(np.int32)


def _listed(values: Values) -> str:
    return ", ".join(map(str, values[:5].tolist())) + (", ..." if len(values) > 5 else "")
