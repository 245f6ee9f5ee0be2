"""A raster of labels: one integer per pixel, whatever file they are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.opened import RASTERS, Opened, RasterSource, check_inside

MAX_LABEL = int(np.iinfo(np.int32).max)
SAVE_AS_INTEGERS = "save the labels as one channel of integers: 8- or 16-bit grey PNG, or TIFF"
RasterLabels = npt.NDArray[np.int32]
"""Labels as they are read, (y, x)."""


@dataclass(frozen=True)
class LabelRaster:
    """An image of labels: 0 for nothing, else the pixel's class or object."""

    name: str
    """File name, for messages."""
    path: str
    """Absolute path."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    mpp: float | None
    """Micrometres per pixel, or None if the file does not say."""
    source: RasterSource
    """Place of the labels."""
    corner_um: tuple[float, float] | None = None
    """(y, x) of its upper left corner in micrometres, where the file has such coordinates."""

    def read(self, box: Box) -> RasterLabels:
        """The labels of ``box``, (y, x), int32, as a copy that the caller may change.

        Raises
        ------
        LabelError
            If a label is negative or above 2**31 - 1.
        SlideError
            If they cannot be read or decoded, or the file was replaced.
        """
        check_inside(box, self.shape)
        return as_labels(self.name, box, RASTERS.get(self.source).read(box))


@dataclass(frozen=True)
class OneChannel:
    """A source of one channel, (y, x), without the axis of the channels."""

    source: RasterSource

    def open(self) -> Opened:
        """See `Source.open`."""
        one = self.source.open()
        return Opened(lambda box: one.read(box)[:, :, 0], one.held_bytes)


def as_labels(name: str, box: Box, values: npt.NDArray[Any]) -> RasterLabels:
    """``values`` of ``box``, (y, x), any integer dtype, as int32.

    Raises
    ------
    LabelError
        If a value is below 0, or does not fit into int32.
    """
    if values.dtype.kind == "i" and values.min() < 0:
        raise LabelError(
            f"{name} holds the label {values.min()} at {box}; labels must be 0 (nothing here) or more; "
            "save it without negative labels"
        )
    if values.dtype.itemsize >= 4 and values.max() > MAX_LABEL:
        raise LabelError(
            f"{name} holds the label {values.max()} at {box}; the largest allowed is {MAX_LABEL}; renumber them"
        )
    return values.astype(np.int32)


def refuse_channels(path: Path, channels: int) -> None:
    """Raise the LabelError for an image with several channels."""
    raise LabelError(f"{path.name} has {channels} channels; labels have one; {SAVE_AS_INTEGERS}")


def refuse_dtype(path: Path, dtype: str) -> None:
    """Raise the LabelError for values that are not integers."""
    raise LabelError(f"{path.name} holds {dtype} values; labels are integers of 8 to 64 bits; {SAVE_AS_INTEGERS}")
