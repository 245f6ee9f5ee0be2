"""Images to train on, read box by box: PNG, JPEG, TIFF of any kind, and OME-Zarr.

They are opened as by `wsipipe run`. Every value here can be pickled; pixels stay in the file, and each process opens it
again at its first read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from wsipipe.arrays import Pixels
from wsipipe.errors import LabelError, PlaneError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.opened import MAX_WHOLE_BYTES, RASTERS, Opened, RasterSource, check_inside, keep, whole
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.readers.picture import PictureReader
from wsipipe.slides.readers.registry import named
from wsipipe.slides.slide import Level, Slide


@dataclass(frozen=True)
class Raster:
    """An image to train on: one level of a slide."""

    name: str
    """File name, for messages."""
    path: str
    """Absolute path."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    channels: int
    """1 for grey, 3 for RGB, or as many as the slide has."""
    dtype: str
    """``uint8`` or ``uint16``."""
    mpp: float | None
    """Micrometres per pixel."""
    source: RasterSource
    """Place of the pixels."""

    def read(self, box: Box) -> Pixels:
        """The pixels of ``box``, (y, x, channel), in `dtype`, as a copy that the caller may change.

        Raises
        ------
        SlideError
            If they cannot be read or decoded, or the file was replaced.
        """
        check_inside(box, self.shape)
        return RASTERS.get(self.source).read(box)


def open_raster(path: str | os.PathLike[str], *, mpp: float | None = None) -> Raster:
    """Open an image to train on: level 0 of a slide, such as a picture.

    A picture is decoded here once, so that a damaged one is found before the work begins; palettes become RGB, and an
    alpha channel that is opaque everywhere is left out.

    Parameters
    ----------
    path
        A PNG or JPEG, a TIFF file of any kind, or an OME-Zarr folder.
    mpp
        Micrometres per pixel, instead of those in the file.

    Raises
    ------
    SlideFormatError
        If it is anything else, or a picture that is partly transparent or too large.
    SlideReadError
        If it cannot be opened, or is damaged.
    UsageError
        If ``mpp`` is not a positive number.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    kind = kind_of(path, SlideFormatError, "images are read from")
    raster = raster_of(only_slide(path, mpp).levels[0])
    if kind == PictureReader.name:
        RASTERS.get(raster.source)
    return raster


def raster_of(level: Level) -> Raster:
    """One level of a slide as a raster."""
    return Raster(
        name=Path(level.path).name if level.index == 0 else level.name,
        path=level.path,
        shape=level.shape,
        channels=level.channels,
        dtype=level.dtype,
        mpp=level.mpp,
        source=SlideLevel(level),
    )


@dataclass(frozen=True)
class SlideLevel:
    """One level of a slide."""

    level: Level

    def open(self) -> Opened:
        """See `Source.open`; a picture is kept decoded, and so is a level that is small, in strips or in one piece."""
        level = self.level
        size = prod(level.shape) * level.channels * np.dtype(level.dtype).itemsize
        in_strips = size <= MAX_WHOLE_BYTES and level.tile[1] >= level.stored.shape[1]
        if in_strips or level.reader == PictureReader.name:
            return keep(read_box(level, whole(level.shape)))
        return Opened(lambda box: read_box(level, box), 0)


def kind_of(path: Path, error: type[SlideFormatError | LabelError], what: str) -> str:
    """The name of the slide reader that recognises the file.

    Raises
    ------
    SlideError
        An ``error`` if none does; a SlideReadError if it cannot be opened.
    """
    try:
        found = "is not an OME-Zarr image" if path.stat() and path.is_dir() else "is neither a file nor a folder"
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(16)
            found = f"begins with {start!r}" if start else "is empty (0 bytes)"
        if path.is_file() or path.is_dir():  # reading a pipe would wait
            for reader in named(None):
                if reader.recognises(path):
                    return reader.name
    except OSError as err:
        raise SlideReadError(f"{path.name} cannot be opened: {err.strerror or err} ({path})") from err
    raise error(f"{path.name} {found}; {what} PNG, JPEG, TIFF of many kinds, and OME-Zarr folders ({path})")


def only_slide(path: Path, mpp: float | None = None) -> Slide:
    """The slide in a file that holds one image of one plane.

    Raises
    ------
    SlideFormatError
        If it holds several.
    """
    try:
        return open_slide(path, mpp=mpp)
    except PlaneError as err:
        raise SlideFormatError(
            f"{path.name} holds several images or planes; images and labels need a file with only one ({path})"
        ) from err
