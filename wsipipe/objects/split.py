r"""Objects parted where they are narrow: what touches is told apart by its shape alone.

Every pixel has its distance from the nearest pixel that is not of the object, and leads to the neighbour whose distance
is the largest. So it belongs to a basin of the distance transform, around a peak (the watershed of Vincent and Soille
1991, on steepest paths). Two basins become one unless the neck between them is narrower than `NECK` of the narrower
one::

        ____      ____
      /      \__/      \     the neck is 2 px to either side of the middle, the peaks are 4:
      \ ____ /  \ ____ /     two parts

Nothing beyond the object matters, and distances are squared integers, so that parts do not depend on blocks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Mask
from wsipipe.objects.numbers import Counts
from wsipipe.objects.paths import connected

NECK = (3, 4)
"""Numerator and denominator of the width of a neck over that of a part, above which they are one. Nuclei are convex,
and their outlines vary by about a pixel."""
SMALLEST_PEAK = 4
"""The smallest squared distance of a peak, in pixels: what is less than 2 px from its outline everywhere is not a
part."""
SPLIT_SIDE_PX = 1024
"""The largest height and width of an object that is parted; larger ones are left whole."""


def split_objects(objects: npt.NDArray[np.integer], which: Mask, *, connectivity: int) -> Counts:
    """The part that each pixel belongs to, (y, x), int64, from 1; 0 where an object is not parted.

    Parameters
    ----------
    objects
        (y, x), integers: the object of each pixel, from 0; -1 for none.
    which
        (objects,): whether it may be parted. Those objects touch no side of the array.
    connectivity
        4 or 8: which pixels are neighbours, and parts hang together by.
    """
    height, width = objects.shape
    plane = objects.ravel()
    parts = np.zeros(plane.size, np.int64)
    pixel = np.flatnonzero((plane >= 0) & np.append(which, False)[plane])
    if not len(pixel):
        return parts.reshape(height, width)
    squared = np.zeros(plane.size, np.int64)
    squared[pixel] = squared_distances(objects, pixel)
    steps = (1, width) if connectivity == 4 else (1, width, width + 1, width - 1)
    basin = _basins(plane, squared, pixel, steps)
    basins, number = np.unique(basin, return_inverse=True)
    label = np.zeros(plane.size, np.int64)
    label[pixel] = number
    merged = _merged(plane, squared, pixel, steps, label, squared[basins])
    # Objects of one part keep their pixels.
    owner = plane[basins]
    first = np.unique(merged, return_index=True)[1]
    count = np.bincount(owner[first], minlength=len(which))
    parted = count[plane[pixel]] > 1
    parts[pixel[parted]] = 1 + np.unique(merged[number[parted]], return_inverse=True)[1]
    return parts.reshape(height, width)


def squared_distances(objects: npt.NDArray[np.integer], pixel: Counts) -> Counts:
    """Squared distances to the nearest pixel of another object, (pixels,), int64, in pixels.

    As `scipy.ndimage.distance_transform_edt`, which takes three times as long: it sees the background too. First
    the distance along the column, then the least sum of squares along the row (Felzenszwalb and Huttenlocher 2012).

    Parameters
    ----------
    objects
        (y, x), integers: the object of each pixel.
    pixel
        (pixels,), int64: the positions, row by row, for which to find them, of objects that touch no side of the array.
    """
    plane, column = objects.ravel(), _along_columns(objects).ravel()
    own = plane[pixel]
    least = column[pixel] ** 2
    active, step = np.arange(len(pixel)), 1
    while len(active):
        for side in (-step, step):
            other = pixel[active] + side
            height = np.where(plane[other] == own[active], column[other], 0)
            least[active] = np.minimum(least[active], height * height + step * step)
        step += 1
        active = active[least[active] > step * step]
    return least


def _along_columns(objects: npt.NDArray[np.integer]) -> Counts:
    """The distance of each pixel to the nearest one above or below that is of another object, (y, x)."""
    turned = np.ascontiguousarray(objects.T)
    changes = np.ones(turned.shape, np.bool_)
    changes[:, 1:] = turned[:, 1:] != turned[:, :-1]
    starts = np.flatnonzero(changes)
    size = np.diff(np.append(starts, turned.size))
    offset = np.arange(turned.size) - np.repeat(starts, size)
    return np.minimum(offset + 1, np.repeat(size, size) - offset).reshape(turned.shape).T.copy()


def _basins(plane: npt.NDArray[np.integer], squared: Counts, pixel: Counts, steps: tuple[int, ...]) -> Counts:
    """The peak that each pixel leads to."""
    own, height, target = plane[pixel], squared[pixel], pixel.copy()
    for step in (*(-step for step in reversed(steps)), *steps):
        other = pixel + step
        higher = (plane[other] == own) & (squared[other] > height)
        target[higher], height[higher] = other[higher], squared[other[higher]]
    leads = np.zeros(plane.size, np.int64)
    # Peaks side by side of the same height are one.
    peak = np.zeros(plane.size, np.int64)
    peaks = pixel[target == pixel]
    peak[peaks] = 1 + np.arange(len(peaks))
    pairs = []
    for step in steps:
        level = (peak[peaks + step] > 0) & (plane[peaks + step] == plane[peaks])
        pairs.append(np.stack([peak[peaks[level]], peak[peaks[level] + step]], axis=1) - 1)
    one, other = np.concatenate(pairs).T
    same = squared[peaks[one]] == squared[peaks[other]]
    _, group = connected(len(peaks), one[same], other[same])
    leads[pixel] = target
    leads[peaks] = peaks[np.unique(group, return_index=True)[1]][group]
    found = leads[pixel]
    while not np.array_equal(found, onward := leads[found]):
        found = onward
    return found


def _merged(
    plane: npt.NDArray[np.integer],
    squared: Counts,
    pixel: Counts,
    steps: tuple[int, ...],
    label: Counts,
    peaks: Counts,
) -> Counts:
    """The part of each basin: basins are merged across necks, the widest first."""
    necks = []
    for step in steps:
        other = pixel + step
        meets = (plane[other] == plane[pixel]) & (label[other] != label[pixel])
        one, two = label[pixel[meets]], label[other[meets]]
        width = np.minimum(squared[pixel[meets]], squared[other[meets]])
        necks.append(np.stack([-width, np.minimum(one, two), np.maximum(one, two)], axis=1))
    order = np.unique(np.concatenate(necks), axis=0).tolist()
    parent, height = list(range(len(peaks))), peaks.tolist()
    (over, under) = (side * side for side in NECK)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for width, one, two in order:
        a, b = sorted((root(one), root(two)))
        lower = min(height[a], height[b])
        if a != b and (-width * under >= lower * over or lower < SMALLEST_PEAK):
            parent[b], height[a] = a, max(height[a], height[b])
    return np.array([root(node) for node in range(len(peaks))], np.int64)
