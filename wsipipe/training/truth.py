"""The labels of a field, read box by box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.rasters.annotations import Annotated
from wsipipe.rasters.label_raster import LabelRaster

PIECES = 4.0
"""Numbers of a raster that lie in more pieces each than this are classes, not objects."""


class Truth(Protocol):
    """Labels, read box by box."""

    def read(self, box: Box) -> Annotated:
        """The classes and objects in ``box``, and where both are known, each (y, x)."""
        ...


@dataclass(frozen=True, eq=False)
class HeldTruth:
    """Labels in memory."""

    classes: npt.NDArray[np.uint8]
    """(y, x); 0 is background."""
    instances: npt.NDArray[np.int32]
    """(y, x): the number of the object; 0 is background."""
    inside: npt.NDArray[np.bool_] | None = None
    """(y, x): where both are known; None: everywhere."""

    def read(self, box: Box) -> Annotated:
        """See `Truth.read`."""
        inside = np.ones(box.shape, bool) if self.inside is None else self.inside[box.slices]
        return Annotated(self.classes[box.slices], self.instances[box.slices], inside)


@dataclass(frozen=True)
class RasterTruth:
    """Labels of a raster, at the image's scale or another, that stay in their file."""

    raster: LabelRaster
    shape: tuple[int, int]
    """(height, width) of the image, px."""
    values: dict[int, int] | None
    """The class of each value; None if values are objects of class 1."""

    def read(self, box: Box) -> Annotated:
        """See `Truth.read`.

        Raises
        ------
        LabelError
            If a value does not stand for a class.
        """
        rows, cols = (
            (2 * np.arange(*span) + 1) * there // (2 * here)
            for span, there, here in zip(
                ((box.y0, box.y1), (box.x0, box.x1)), self.raster.shape, self.shape, strict=True
            )
        )
        source, ys, xs = bounding(rows, cols)
        return as_truth(self.raster.read(source)[ys[:, None], xs], self.values, self.raster.name)


def as_truth(labels: npt.NDArray[np.int32], values: dict[int, int] | None, name: str) -> Annotated:
    """The meaning of ``labels``, (y, x), int32: classes by ``values``, or objects of class 1 if that is None.

    Raises
    ------
    LabelError
        If a value does not stand for a class.
    """
    inside = np.ones(labels.shape, bool)
    if values is None:
        return Annotated((labels > 0).astype(np.uint8), labels, inside)
    there, which = np.unique(labels, return_inverse=True)
    if strange := [int(v) for v in there if int(v) not in values]:
        raise LabelError(
            f"{name} has pixels of value {', '.join(map(str, strange[:5]))}; the classes have "
            f"{', '.join(map(str, sorted(values)))}; add each to [[classes]] with its value, or fix [data] labels_are"
        )
    classes = np.array([values[int(v)] for v in there], np.uint8)[which].reshape(labels.shape)
    return Annotated(classes, np.zeros(labels.shape, np.int32), inside)


def check_objects(ids: npt.NDArray[np.int32], name: str) -> None:
    """Raise a LabelError if ``ids``, (y, x), int32, are classes rather than objects, by the number of their pieces."""
    there = np.unique(ids[ids > 0])
    pieces = sum(ndimage.label(ids == i)[1] for i in there[:20])
    if len(there) and pieces > PIECES * len(there[:20]):
        raise LabelError(
            f"{name}: its values {', '.join(map(str, there[:5]))} lie in {pieces / len(there[:20]):.0f} separate "
            "pieces each, so they are not objects; set labels_are = 'classes', or 'components' (--labels-are)"
        )


def bounding(rows: Indices, cols: Indices) -> tuple[Box, Indices, Indices]:
    """The box around all ``rows`` and ``cols``, (n,), int64, and both counted from its corner."""
    box = Box(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
    return box, rows - box.y0, cols - box.x0
