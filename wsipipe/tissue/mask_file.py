"""A mask in a user's file: a raster of any size that covers the slide, or polygons in pixels of level 0.

It says what to segment, and is taken as it is: no holes are closed, and nothing is added around it.
"""

from __future__ import annotations

import hashlib
from math import ceil, sqrt
from pathlib import Path

import numpy as np

from wsipipe.arrays import Mask, size_text
from wsipipe.errors import LabelError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.annotations import open_outlines
from wsipipe.rasters.label_raster import LabelRaster
from wsipipe.rasters.labels import open_label_raster
from wsipipe.rasters.pairs import ANNOTATION_SUFFIXES
from wsipipe.slides.slide import Level
from wsipipe.tissue.detect import ALGORITHM
from wsipipe.tissue.mask import MOST_CELLS, TissueMask, mask_shape

TISSUE_OFF, TISSUE_AUTO = "off", "auto"
POLYGONS = ANNOTATION_SUFFIXES
"""Suffixes of files of polygons; all others are rasters."""
SAME_FORM = 0.02
"""Share, beside one pixel, by which a raster's proportions may differ from those of the slide."""
BAND_CELLS = 2**22
"""Pixels of a raster that are read together."""


def is_file(tissue: str) -> bool:
    """Whether ``tissue``, the value of ``--tissue``, is the path of a mask."""
    return tissue not in (TISSUE_OFF, TISSUE_AUTO)


def tissue_identity(tissue: str) -> str:
    """The identity of the mask that ``--tissue`` chooses: ``off``, ``auto`` and its version, or the file's sha256.

    Raises
    ------
    UsageError
        If it is a file that cannot be read.
    """
    if not is_file(tissue):
        return f"{TISSUE_AUTO} {ALGORITHM}" if tissue == TISSUE_AUTO else TISSUE_OFF
    try:
        with Path(tissue).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise UsageError(
            f"--tissue {tissue} cannot be read: {err.strerror or err}; "
            f"allowed: {TISSUE_AUTO}, {TISSUE_OFF}, or a mask file"
        ) from err


def given_shape(path: str, level: Level) -> tuple[int, int]:
    """(rows, columns) of cells of the mask in the file at ``path``, over ``level``.

    Raises
    ------
    SlideError
        If it is not a mask of this slide.
    """
    if _is_polygons(path):
        return mask_shape(level.shape)
    height, width = _raster_over(path, level).shape
    many = max(1, ceil(sqrt(height * width / MOST_CELLS)))
    return -(-height // many), -(-width // many)


def given_mask(path: str, level: Level) -> TissueMask:
    """The mask in the file at ``path``, over ``level``: polygons of any class, or what is not 0 in a raster.

    A cell is in if its centre is within a polygon, or if any pixel of the raster that reaches into it is not 0.

    Raises
    ------
    SlideError
        If it is not a mask of this slide, or cannot be read.
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
            f"{raster.name} is {size_text((height, width))}, and does not have the proportions of {level.name}, "
            f"{size_text((rows, cols))}; a mask may have any size, but must cover the whole slide"
        )
    return raster


def _cells_of(raster: LabelRaster, shape: tuple[int, int]) -> Mask:
    """Which of ``shape`` cells a pixel of ``raster`` that is not 0 reaches into; it has at least as many pixels."""
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
