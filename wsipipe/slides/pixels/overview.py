"""A whole level as a small plane: the means over areas, for thumbnails and tissue detection.

Levels have pyramids of their own, so each plane is made from the level that fits it best::

    level that is segmented     |0    |1    |2    |3    |4    |5    |     H rows of pixels
    plane                       |0             |1             |           h rows: i is of [i, i + 1) * H / h
    a level of the slide        |0        |1        |2        |           the mean over just that stretch, fractions too
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import size_text
from wsipipe.errors import SlideFormatError
from wsipipe.geometry.grid import Box
from wsipipe.slides.pixels.mirrored import read_box

if TYPE_CHECKING:
    from wsipipe.slides.slide import Level, Slide

BAND_BYTES = 2**20
"""Bytes of a level that are read at once, unless a tile has more."""

Plane = npt.NDArray[np.float32]
"""(y, x, channels)."""
RgbImage = npt.NDArray[np.uint8]
"""(y, x, 3)."""


def choose_source(
    slide: Slide, segmented: int, shape: tuple[int, int], *, most_bytes: float
) -> tuple[Level, tuple[float, float]]:
    """The level to make a plane of ``shape`` from, and how many of its (rows, columns) level ``segmented`` spans.

    The coarsest level that has enough pixels, else the finest. Only levels of at most ``most_bytes`` count, and only
    those aligned with the finest level, as in a pyramid; level ``segmented`` always is.

    Raises
    ------
    SlideFormatError
        If no level counts.
    """
    spans = {level.index: of_finest for level, of_finest in aligned_levels(slide)}
    whole = spans.get(segmented)
    found = []
    for level in slide.levels:
        of_finest = spans.get(level.index)
        if not _readable(level, most_bytes):
            continue
        if level.index == segmented:
            found.append((level, (float(level.shape[0]), float(level.shape[1]))))
        elif whole is not None and of_finest is not None:
            reach = (n * w / f for n, w, f in zip(slide.levels[segmented].shape, whole, of_finest, strict=True))
            y, x = (min(r, float(n)) for r, n in zip(reach, level.shape, strict=True))
            found.append((level, (y, x)))
    if not found:
        level = slide.levels[-1]
        raise SlideFormatError(
            f"its coarsest level is {size_text(level.shape)}, {level.channels} x {level.dtype}; "
            f"wsipipe reads up to {most_bytes / 2**20:.0f} MiB, of a level aligned with the finest"
        )
    enough = [pair for pair in found if all(n >= wanted for n, wanted in zip(pair[1], shape, strict=True))]
    return enough[-1] if enough else found[0]


def _readable(level: Level, most_bytes: float) -> bool:
    """Whether the level, and each piece that its file decodes at once, is small enough."""
    a_pixel = level.channels * np.dtype(level.dtype).itemsize
    return max(prod(level.shape), prod(level.tile)) * a_pixel <= most_bytes


def aligned_levels(slide: Slide) -> list[tuple[Level, tuple[float, float]]]:
    """The levels that show what the finest shows, and how many (rows, columns) of its pixels each of theirs spans.

    Others, such as those that a scanner has cut, are left out.
    """
    finest, filled = slide.levels[0], slide.vendor == "philips"
    spans = [(level, span(level, finest, filled=filled)) for level in slide.levels]
    return [(level, of_finest) for level, of_finest in spans if of_finest is not None]


def fitted_shape(whole: tuple[int, int], side: int) -> tuple[int, int]:
    """``whole`` (height, width), shrunk so that neither exceeds ``side``, and neither is 0."""
    scale = max(1.0, max(whole) / side)
    return max(1, round(whole[0] / scale)), max(1, round(whole[1] / scale))


def span(level: Level, finest: Level, *, filled: bool) -> tuple[float, float] | None:
    """How many (rows, columns) of ``finest`` one of ``level`` spans; None if that does not follow from their shapes.

    In a pyramid both sides follow from one downsample, give or take a pixel. Philips' scanners write levels at powers
    of two, each ``filled`` up to whole tiles: they reach beyond the slide at the right and at the bottom.
    """
    for downsample in (2**n for n in range(16 * filled)):
        tiles = (ceil(n / downsample / t) for n, t in zip(finest.shape, level.tile, strict=True))
        if tuple(n * t for n, t in zip(tiles, level.tile, strict=True)) == level.shape:
            return float(downsample), float(downsample)
    sides = list(zip(finest.shape, level.shape, strict=True))
    if max(whole / (n + 1) for whole, n in sides) > min(whole / max(n - 1, 0.5) for whole, n in sides):
        return None
    y, x = (whole / n for whole, n in sides)
    return y, x


def averaged_plane(
    level: Level, extent: tuple[float, float], shape: tuple[int, int], part: range | None = None
) -> Plane:
    """The first ``extent`` (rows, columns) of ``level`` at ``shape``: the means over areas, (y, x, channels), float32.

    The level is read in pieces of whole tiles, so that memory does not depend on its size. ``part`` says which rows of
    the plane are made, by default all; except for rounding, their values do not depend on it.
    """
    part = range(shape[0]) if part is None else part
    tall = extent[0] / shape[0]
    top, bottom, width = int(part.start * tall), min(ceil(part.stop * tall), ceil(extent[0])), ceil(extent[1])
    rows, cols = _piece(level, width)
    total = np.zeros((len(part), shape[1], level.channels), np.float32)
    for start in range(top - top % rows, bottom, rows):
        y0, y1 = max(start, top), min(start + rows, bottom)
        met = range(max(int(y0 / tall), part.start), min(ceil(y1 / tall), part.stop))
        sums = np.empty((len(met), width, level.channels), np.float32)
        for x0 in range(0, width, cols):
            x1 = min(x0 + cols, width)
            piece = read_box(level, Box(y0, y1, x0, x1)).reshape(y1 - y0, -1).astype(np.float32)
            for i, row in zip(met, sums, strict=True):
                at = np.arange(max(y0, int(i * tall)), min(y1, ceil((i + 1) * tall)))
                shares = (np.minimum(at + 1, (i + 1) * tall) - np.maximum(at, i * tall)).clip(0).astype(np.float32)
                row[x0:x1] = (shares @ piece[at - y0]).reshape(x1 - x0, -1)
        for i, row in zip(met, sums, strict=True):
            total[i - part.start] += averaged(row, extent[1], shape[1]) / tall
    return total


def _piece(level: Level, width: int) -> tuple[int, int]:
    """(rows, columns) to read at once: whole tiles, as many as `BAND_BYTES` hold, or one; of a huge one a few rows."""
    a_pixel = level.channels * np.dtype(level.dtype).itemsize
    tile = level.tile[0], min(level.tile[1], width)
    if prod(tile) * a_pixel > 2 * BAND_BYTES:
        return max(1, BAND_BYTES // (width * a_pixel)), width
    rows = tile[0] * max(1, BAND_BYTES // (tile[0] * width * a_pixel))
    across = width if rows * width * a_pixel <= BAND_BYTES else tile[1]
    return rows, across * max(1, BAND_BYTES // (rows * across * a_pixel))


def averaged(values: Plane, extent: float, parts: int) -> npt.NDArray[np.float64]:
    """The means of ``values`` over ``parts`` equal stretches of their first ``extent``.

    ``values`` are (n, channels), float32, and the means (parts, channels), float64.
    """
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0, np.float64)])
    ends = np.linspace(0, extent, parts + 1)
    whole = np.minimum(ends.astype(int), len(values) - 1)
    at_ends = sums[whole] + (ends - whole)[:, None] * values[whole]
    means: npt.NDArray[np.float64] = np.diff(at_ends, axis=0) / (extent / parts)
    return means
