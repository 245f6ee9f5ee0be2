"""Measures of objects from their sums.

They are those of `skimage.measure.regionprops`, whose second moments leave out the extent of a pixel (1/12), with the
exception of the solidity. Sums are combined in integers before the first division, so that no digit depends on where an
object lies or on how it was put together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsipipe.objects.numbers import Counts
from wsipipe.objects.perimeter import KINDS, LENGTHS
from wsipipe.objects.stains import STAIN_UNIT, STAINS
from wsipipe.objects.sums import AREA, PERIMETER, SHAPE_COLUMNS, XX, YX, YY, AnyIntegers, Layout, Sums, X, Y

Floats = npt.NDArray[np.float64]
"""Measures, (objects,)."""


def shape_measures(sums: Sums, hulls: Counts) -> dict[str, Floats]:
    """Measures of shape, by name, (objects,) float64 each; lengths and areas in pixels of the labels.

    ``y``, ``x``: the centroid, where the first pixel's centre is at 0.5. ``perimeter``; ``major_axis``, ``minor_axis``,
    ``eccentricity``, ``orientation`` of the ellipse with the same second moments. ``circularity``: 4 pi area /
    perimeter**2, NaN where the perimeter is 0. ``solidity``: area over that of the convex hull of the outline, which is
    at most 1 (scikit-image counts the pixels within the hull of the pixels' centres instead).

    Parameters
    ----------
    sums
        (objects,); rows and columns are counted from those of each extent.
    hulls
        (objects,), int64: twice the area of each convex hull, in pixels.
    """
    area = _floats(sums.added[:, AREA])
    y = sums.extent[:, 0] + (_floats(sums.added[:, Y]) / area + 0.5)
    x = sums.extent[:, 1] + (_floats(sums.added[:, X]) / area + 0.5)
    border = _floats(sums.added[:, PERIMETER : PERIMETER + KINDS])
    perimeter = border[:, 0] * LENGTHS[0] + border[:, 1] * LENGTHS[1] + border[:, 2] * LENGTHS[2]
    yy, xx, yx = (_spread(sums, *columns) / area / area for columns in ((Y, Y, YY), (X, X, XX), (Y, X, YX)))
    half, root = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + yx * yx)
    major, minor = half + root, np.maximum(half - root, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        eccentricity = np.where(major > 0, np.sqrt(1 - minor / major), 0.0)
        circularity = np.where(perimeter > 0, 4 * np.pi * area / (perimeter * perimeter), np.nan)
    equal = np.where(yx > 0, np.pi / 4, -np.pi / 4)  # as scikit-image has it where both axes are equal along y and x
    return {
        "y": y,
        "x": x,
        "perimeter": perimeter,
        "major_axis": 4 * np.sqrt(major),
        "minor_axis": 4 * np.sqrt(minor),
        "eccentricity": eccentricity,
        "orientation": np.where(yy == xx, equal, 0.5 * np.arctan2(2 * yx, yy - xx)),
        "circularity": circularity,
        "solidity": area / (hulls / 2),
    }


def intensity_measures(sums: Sums, layout: Layout) -> dict[str, Floats]:
    """Measures of intensity, by name, (objects,) float64 each.

    ``mean_NAME`` and ``std_NAME`` of each channel, the latter of the population; ``hematoxylin_od`` and ``eosin_od``,
    means of `skimage.color.rgb2hed` over the object; ``probability``, the mean probability of the class, 0 to 1.

    Parameters
    ----------
    sums
        (objects,), with the columns of ``layout``.
    layout
        Which there are.
    """
    area = _floats(sums.added[:, AREA])
    measures = {}
    for number, name in enumerate(layout.channels):
        column = SHAPE_COLUMNS + 2 * number
        measures[f"mean_{name}"] = _floats(sums.added[:, column]) / area
        measures[f"std_{name}"] = np.sqrt(_spread(sums, column, column, column + 1)) / area
    if layout.stained:
        for column, name in enumerate(STAINS, layout.stain_column):
            measures[f"{name}_od"] = _floats(sums.added[:, column]) * STAIN_UNIT / area
    if layout.probability:
        measures["probability"] = _floats(sums.added[:, layout.probability_column]) / 255 / area
    return measures


def _spread(sums: Sums, one: int, other: int, product: int) -> Floats:
    """N * sum(ab) - sum(a) * sum(b), computed in integers and rounded once."""
    area, a, b, ab = (sums.added[:, column] for column in (AREA, one, other, product))
    if area.dtype == object:
        return _floats(area * ab - a * b)
    spread = _floats(area * ab - a * b)
    large = np.maximum(_floats(area) * _floats(ab), _floats(a) * _floats(b)) >= 2.0**62
    if large.any():
        area, a, b, ab = (column[large].astype(object) for column in (area, a, b, ab))
        spread[large] = _floats(area * ab - a * b)
    return spread


def _floats(integers: AnyIntegers) -> Floats:
    return integers.astype(np.float64)
