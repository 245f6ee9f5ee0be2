"""A mask that the user gives: a raster of any size that covers the slide, or polygons in pixels of level 0.

It says where to look, and is taken as it is: nothing is closed, and nothing added around it.
"""

from __future__ import annotations

import hashlib
from math import ceil, sqrt
from pathlib import Path

import numpy as np

from wsipipe.arrays import Mask
from wsipipe.errors import LabelError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.annotations import open_outlines
from wsipipe.rasters.label_raster import LabelRaster
from wsipipe.rasters.labels import open_label_raster
from wsipipe.slides.slide import Level
from wsipipe.tissue.detect import ALGORITHM
from wsipipe.tissue.mask import MOST_CELLS, TissueMask, mask_shape

TISSUE_OFF, TISSUE_AUTO = "off", "auto"
POLYGONS = (".geojson", ".json")
"""Suffixes of files of polygons; all others are rasters."""
SAME_FORM = 0.02
"""Share, beside one pixel, by which a raster's sides may differ from the slide's form."""
BAND_CELLS = 2**22
"""Pixels of a raster that are looked at together."""


def is_file(tissue: str) -> bool:
    """Whether ``tissue``, as ``--tissue`` says it, is the path of a mask."""
    return tissue not in (TISSUE_OFF, TISSUE_AUTO)


def tissue_identity(tissue: str) -> str:
    """What decides the mask that ``--tissue`` asks for: ``off``, ``auto`` and its version, or the file's sha256.

    Raises
    ------
    UsageError
        If it is a file that can not be read.
    """
    if not is_file(tissue):
        return f"{TISSUE_AUTO} {ALGORITHM}" if tissue == TISSUE_AUTO else TISSUE_OFF
    try:
        with Path(tissue).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise UsageError(
            f"--tissue {tissue} can not be read: {err.strerror or err}; "
            f"allowed: {TISSUE_AUTO}, {TISSUE_OFF}, or a file of a mask"
        ) from err


def given_shape(path: str, level: Level) -> tuple[int, int]:
    """(rows, columns) of cells of the mask in the file at ``path``, over ``level``.

    Raises
    ------
    SlideError
        If it is no mask, or not one of this slide.
    """
    if _is_polygons(path):
        return mask_shape(level.shape)
    height, width = _raster_over(path, level).shape
    many = max(1, ceil(sqrt(height * width / MOST_CELLS)))
    return -(-height // many), -(-width // many)


def given_mask(path: str, level: Level) -> TissueMask:
    """The mask in the file at ``path``, over ``level``: polygons, whatever their classes, or what of a raster is not 0.

    A cell is in if the middle of it is within a polygon, or if any pixel of the raster that reaches into it is not 0.

    Raises
    ------
    SlideError
        If it is no mask, or not one of this slide, or can not be read.
    """
    shape = given_shape(path, level)
    if not _is_polygons(path):
        return TissueMask(_cells_of(_raster_over(path, level), shape), level.shape)
    y, x = (level.downsample * size / count for size, count in zip(level.shape, shape, strict=True))
    cells = np.zeros(shape, bool)
    for _, where, inside in open_outlines(path, shape, downsample=(y, x)).over(Box(0, shape[0], 0, shape[1])):
        cells[where] |= inside
    return TissueMask(cells, level.shape)


def _is_polygons(path: str) -> bool:
    return Path(path).suffix.lower() in POLYGONS


def _raster_over(path: str, level: Level) -> LabelRaster:
    raster = open_label_raster(path)
    (height, width), (rows, cols) = raster.shape, level.shape
    if abs(height * cols - width * rows) > max(rows, cols) + SAME_FORM * width * rows:
        raise LabelError(
            f"{raster.name} is {height} x {width} px, and does not have the form of {level.name}, {rows} x {cols} px; "
            "a mask is of any size, and covers the whole slide"
        )
    return raster


def _cells_of(raster: LabelRaster, shape: tuple[int, int]) -> Mask:
    """Of ``shape`` cells over ``raster``, which has as many pixels or more, those that a pixel reaches into."""
    (height, width), cells = raster.shape, np.zeros(shape, bool)
    ends = np.arange(shape[1] + 1) * width
    cols = np.stack([ends[:-1] // shape[1], -(-ends[1:] // shape[1])], 1).ravel()
    step = max(1, BAND_CELLS * shape[0] // (height * width))
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        y0, y1 = first * height // shape[0], -(-last * height // shape[0])
        band = raster.read(Box(y0, y1, 0, width)) != 0
        padded = np.pad(band, ((0, 0), (0, 1)))  # so that the last column may end there
        across = np.logical_or.reduceat(padded, cols, axis=1)[:, ::2]
        for row in range(first, last):
            cells[row] = across[row * height // shape[0] - y0 : -(-(row + 1) * height // shape[0]) - y0].any(0)
    return cells
