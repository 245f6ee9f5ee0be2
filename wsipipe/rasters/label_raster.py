"""A raster of labels: integers, one a pixel, whatever file they are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.opened import (
    RASTERS,
    Opened,
    RasterSource,
    check_inside,
)

MAX_LABEL = int(np.iinfo(np.int32).max)
SAVE_AS_INTEGERS = "save the labels as one channel of integers: PNG of 8 or 16 bit grey, or TIFF"
RasterLabels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LabelRaster:
    """An image of labels: 0 where there is nothing, else the pixel's class or object."""

    name: str
    """File name, as messages call it."""
    path: str
    """Absolute."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    mpp: float | None
    """Micrometres per pixel, or None where the file does not say."""
    source: RasterSource
    """Where the labels are."""

    def read(self, box: Box) -> RasterLabels:
        """The labels of ``box``, int32 (h, w), to keep and to change.

        Raises
        ------
        LabelError
            If there are negative ones, or some above 2**31 - 1.
        SlideError
            If they can not be read or decoded, or the file is not the one that it was.
        """
        check_inside(box, self.shape)
        return as_labels(self.name, box, RASTERS.get(self.source).read(box))


@dataclass(frozen=True)
class OneChannel:
    """A source of one channel as (h, w), without the axis of the channels."""

    source: RasterSource

    def open(self) -> Opened:
        """See `RasterSource.open`."""
        one = self.source.open()
        return Opened(lambda box: one.read(box)[:, :, 0], one.held_bytes)


def as_labels(name: str, box: Box, values: npt.NDArray[Any]) -> RasterLabels:
    """``values`` as int32.

    Raises
    ------
    LabelError
        If there are some that int32 has no room for, or below 0.
    """
    if values.dtype.kind == "i" and values.min() < 0:
        raise LabelError(
            f"{name} holds the label {values.min()} at {box}; labels are 0 (nothing here) or more; save it without"
        )
    if values.dtype.itemsize >= 4 and values.max() > MAX_LABEL:
        raise LabelError(
            f"{name} holds the label {values.max()} at {box}; up to {MAX_LABEL} are allowed; number them anew"
        )
    return values.astype(np.int32)


def refuse_channels(path: Path, channels: int) -> None:
    """Raise the error for an image of colours."""
    raise LabelError(f"{path.name} has {channels} channels; labels have one; {SAVE_AS_INTEGERS}")


def refuse_dtype(path: Path, dtype: str) -> None:
    """Raise the error for numbers that are not integers."""
    raise LabelError(f"{path.name} holds {dtype} values; labels are integers of 8 to 64 bit; {SAVE_AS_INTEGERS}")
