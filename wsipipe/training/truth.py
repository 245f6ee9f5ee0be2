"""What a field is labelled with, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.rasters.annotations import Annotated
from wsipipe.rasters.label_raster import LabelRaster

PIECES = 4.0
"""If the numbers of a raster lie in so many pieces each, they are classes, not objects."""


class Truth(Protocol):
    """Labels, read box by box."""

    def read(self, box: Box) -> Annotated:
        """Classes, objects, and where both are known, (h, w)."""
        ...


@dataclass(frozen=True, eq=False)
class HeldTruth:
    """Labels in memory, known everywhere."""

    classes: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]

    def read(self, box: Box) -> Annotated:
        """See `Truth.read`."""
        return Annotated(self.classes[box.slices], self.instances[box.slices], np.ones(box.shape, bool))


@dataclass(frozen=True)
class RasterTruth:
    """Labels of a raster, at the image's scale or another, read when they are wanted."""

    raster: LabelRaster
    shape: tuple[int, int]
    """Of the image."""
    values: dict[int, int] | None
    """The class of each value; None where values are objects of class 1."""

    def read(self, box: Box) -> Annotated:
        """See `Truth.read`.

        Raises
        ------
        LabelError
            If there is a value that stands for no class.
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
    """What ``labels`` (y, x) say: ``values`` gives the class of each; without them they are objects of class 1.

    Raises
    ------
    LabelError
        If there is a value that stands for no class.
    """
    inside = np.ones(labels.shape, bool)
    if values is None:
        return Annotated((labels > 0).astype(np.uint8), labels, inside)
    there, which = np.unique(labels, return_inverse=True)
    if strange := [int(v) for v in there if int(v) not in values]:
        raise LabelError(
            f"{name} has pixels of value {', '.join(map(str, strange[:5]))}; the classes have "
            f"{', '.join(map(str, sorted(values)))}; add to [[classes]], with its value, or say what labels_are"
        )
    classes = np.array([values[int(v)] for v in there], np.uint8)[which].reshape(labels.shape)
    return Annotated(classes, np.zeros(labels.shape, np.int32), inside)


def bounding(rows: Indices, cols: Indices) -> tuple[Box, Indices, Indices]:
    """The box of all ``rows`` and ``cols``, and both counted from its corner."""
    box = Box(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
    return box, rows - box.y0, cols - box.x0
