"""Tissue detection: which parts of a slide are tissue and which only glass, from a low-resolution overview.

A pixel is left out if it looks like glass; if that is not clear it is kept::

    brightfield     glass is bright, colourless and flat. Its darkness and its saturation are measured on such
                    pixels; pixels that are darker or more coloured by more than its noise are kept
    fluorescence    the ground is the darkest part of each channel; pixels brighter by more than its noise are kept

Otsu's threshold lies half way between glass and strong stain, and takes pale tissue for glass; without any glass it
cuts the tissue in two. Measured against the glass, pale tissue is kept, and pen and dirt, however dark, do not move a
threshold. A slide on which nothing is bright, colourless and flat is kept whole.
"""

from __future__ import annotations

from math import ceil, inf, prod
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsipipe.arrays import Mask
from wsipipe.slides.pixels.overview import BAND_BYTES, averaged_plane, choose_source
from wsipipe.slides.slide import Level, Slide
from wsipipe.tissue.mask import TissueMask, mask_shape, widened

BRIGHTFIELD, FLUORESCENCE, BLANK = "brightfield", "fluorescence", "blank"
ALGORITHM = 1
"""Version of the algorithm; increase it with any change that finds another mask, since masks decide labels."""
DIM = 0.3
"""Share of the full scale: if half of the pixels are below it, light is signal and not glass. For 16 bits the scale
runs from `GROUND` to `PEAK`, because the file does not say where it begins and ends."""
BRIGHT, COLOURLESS, FLAT = 0.75, 0.08, 0.02
"""Shares of the full scale: glass has at least the first in each channel, channels that differ by no more than the
second, and neighbours that differ by no more than the third."""
LEAST_GLASS = 0.01
"""Share of the pixels that must look like glass for a slide to have any: lumina and vacuoles look like it too."""
NOISE = 6.0
"""Standard deviations by which kept pixels differ from the ground, but at least `LEAST_CONTRAST` of the full scale."""
LEAST_CONTRAST = 0.02
LEAST_DARKNESS = 10.0
"""A part with less darkness than this many black pixels of the level is not a nucleus: these have 100 px or more."""
COLOURED, TINTED = 0.08, 0.15
"""Saturation that a stain exceeds, as a share of the full scale or of its darkness."""
SIGMA = 1.4826
"""Standard deviation of a normal distribution, in units of its median absolute deviation."""
GROUND, PEAK = 2.0, 99.9
"""Percentiles that stand for the ground, and for the full scale if that is not known."""
FINER = 2
"""A level needs at least this many pixels per mask cell, along each side, to be used."""
PART_PX = 2**26
"""Pixels of a level that are read in one part, which is at least a row of cells: 0.4 s."""
TIES = 2**-10
"""Means this little below a half are rounded up, because equal sums can differ in their last bits."""

Plane = npt.NDArray[Any]
"""Means of cells, (y, x, channel) or those of one channel, in the dtype of the level."""
CellValues = npt.NDArray[np.float32]
"""One value per cell, (y, x)."""


def find_tissue(slide: Slide, level: Level, *, halo: int) -> tuple[TissueMask, str]:
    """The tissue on ``level`` of ``slide``, and how it was found: brightfield, fluorescence or blank.

    Parameters
    ----------
    slide
        Its coarsest level with enough pixels is read, or else all of ``level``, in parts.
    level
        The level to segment.
    halo
        The network's halo in pixels of ``level``; the mask reaches this far around the tissue.

    Raises
    ------
    SlideReadError
        If pixels cannot be read or decoded.
    """
    return mask_of([see(slide, level, part) for part in parts(slide, level)], level, halo=halo)


def find_bytes(level: Level) -> int:
    """The most bytes that `see` or `mask_of` holds for a mask of ``level``: measured, 14 to 38 a cell, and 10 bands."""
    return prod(mask_shape(level.shape)) * (28 + 6 * level.channels) + 12 * BAND_BYTES


def parts(slide: Slide, level: Level) -> list[range]:
    """The rows of cells for each call of `see`, so that it reads at most `PART_PX`."""
    shape = mask_shape(level.shape)
    _, (height, width) = _source(slide, level)
    rows = max(1, int(PART_PX / (ceil(width) * height / shape[0])))
    return [range(first, min(first + rows, shape[0])) for first in range(0, shape[0], rows)]


def _source(slide: Slide, level: Level) -> tuple[Level, tuple[float, float]]:
    """The level to read instead of ``level``, and how many of its (rows, columns) span it."""
    rows, cols = mask_shape(level.shape)
    return choose_source(slide, level.index, (FINER * rows, FINER * cols), most_bytes=inf)


def see(slide: Slide, level: Level, part: range) -> Plane:
    """Means of the cells in rows ``part`` over ``level``, (y, x, channel), in its dtype; 0 only if every pixel is 0.

    Raises
    ------
    SlideReadError
        If pixels cannot be read or decoded.
    """
    plane = averaged_plane(*_source(slide, level), mask_shape(level.shape), part)
    something = plane > 0
    plane += np.float32(0.5 + TIES)
    rounded: Plane = np.maximum(plane.astype(level.dtype), something)  # a cast truncates
    return rounded


def mask_of(planes: list[Plane], level: Level, *, halo: int) -> tuple[TissueMask, str]:
    """Like `find_tissue`, from the arrays of `see` for all parts, each (y, x, channel), in the dtype of ``level``."""
    cell_px = prod(level.shape) / prod(mask_shape(level.shape))
    tissue, how = tissue_in(np.concatenate(planes), cell_px)
    return TissueMask(widened(tissue, level.shape, halo), level.shape), how


def tissue_in(plane: Plane, cell_px: float) -> tuple[Mask, str]:
    """Where ``plane`` shows tissue, bool (y, x), and how it was found: brightfield, fluorescence or blank.

    Parameters
    ----------
    plane
        (y, x, channel), uint8 or uint16: a slide at a low level.
    cell_px
        Pixels of the segmented level per pixel of ``plane``.
    """
    colors = plane[..., :3] if plane.shape[2] == 4 else plane
    brightest = colors.max(2)
    if not brightest.any():
        return np.zeros(brightest.shape, bool), BLANK
    eight_bits = plane.dtype == np.uint8
    scanned = brightest[brightest > 0]
    low, full = (0.0, 255.0) if eight_bits else np.percentile(scanned, (GROUND, PEAK)).tolist()
    if colors.shape[2] in (1, 3) and np.median(scanned) >= low + DIM * (full - low):
        return _in_brightfield(colors, full, cell_px), BRIGHTFIELD
    channels = [_above_ground(colors[..., i], 255.0 * eight_bits) for i in range(colors.shape[2])]
    return np.any(channels, axis=0), FLUORESCENCE


def _in_brightfield(colors: Plane, full: float, cell_px: float) -> Mask:
    """The pixels that are not glass."""
    low = colors.min(2)
    dark, saturation = full - low.astype(np.float32), (colors.max(2) - low).astype(np.float32)
    dark /= full
    saturation /= full
    scanned: Mask = (colors > 0).any(2) & (low < full)  # what was not scanned is all black or all white
    flat = ndimage.maximum_filter(low, 3) - ndimage.minimum_filter(low, 3) <= FLAT * full
    glass = scanned & flat & (dark <= 1 - BRIGHT) & (saturation <= COLOURLESS)
    if glass.sum() < LEAST_GLASS * scanned.sum():
        return scanned
    for values in (dark, saturation):
        values -= np.median(values[glass])
    kept = scanned & (_beyond(dark, glass) | _beyond(saturation, glass))
    return _without_dirt(kept, dark, saturation, cell_px)


def _beyond(values: CellValues, ground: Mask) -> Mask:
    """Which of ``values``, whose median over ``ground`` is 0, are above the noise of ``ground``."""
    beyond: Mask = values > max(NOISE * SIGMA * float(np.median(np.abs(values[ground]))), LEAST_CONTRAST)
    return beyond


def _without_dirt(kept: Mask, darker: CellValues, tinted: CellValues, cell_px: float) -> Mask:
    """``kept`` without the parts that are less than a nucleus or, if any part has colour, without colour.

    These are dust, bubbles, and the coverslip's edge. ``darker`` and ``tinted`` are shares of the full scale.
    """
    parts, count = ndimage.label(kept, np.ones((3, 3)))
    every = np.arange(count + 1)
    most = np.asarray(ndimage.maximum(tinted, parts, every))
    tint, darkness = (ndimage.sum_labels(values, parts, every) for values in (tinted, darker))
    enough = darkness * cell_px >= LEAST_DARKNESS
    enough[0] = False
    stained = enough & ((most > COLOURED) | (tint > TINTED * darkness))
    clean: Mask = (stained if stained.any() else enough)[parts]
    return clean


def _above_ground(values: Plane, full: float) -> Mask:
    """The pixels of one channel brighter than its ground; ``full`` is its full scale, or 0 if that is not known."""
    values = values.astype(np.float32)
    ground, peak = np.percentile(values, (GROUND, PEAK))
    dark = values[:, 1:] <= np.median(values)
    steps = np.abs(np.diff(values, axis=1))[dark]
    noise = SIGMA * float(np.median(steps)) / 2**0.5 if steps.size else 0.0
    mask: Mask = values > ground + max(NOISE * noise, LEAST_CONTRAST * max(peak - ground, full))
    return mask
