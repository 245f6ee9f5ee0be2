"""The weight of each pixel in the loss: equation 2 of the U-Net paper (arXiv:1505.04597).

::

    w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))**2 / (2 * sigma**2))

    object 1 ######........#####  object 2      `w_c` balances the classes; d1 and d2 are the distances to the
                   |<-d1->|                     nearest and second nearest object, so that the second term makes
             |<d2>|                             a network learn the thin background between objects that meet.

Only the background has the second term, as in Falk et al. 2019 (doi:10.1038/s41592-018-0261-2): the cells of the
paper's figure 3d are dark.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Instances = npt.NDArray[np.int32]
Keys = npt.NDArray[np.int64]
Map = npt.NDArray[np.float32]

TOUCHING = 1.5
"""Radius, px, within which a pixel has its eight neighbours, and no other pixel."""
ID_BITS = 31
FAR = np.int64(1) << 30 + ID_BITS
"""The key where there is no object: id 0, and farther than any."""


def two_nearest(instances: Instances, reach: int, margin: int = 0) -> tuple[Map, Map]:
    """Euclidean distances in px to the nearest and to the second nearest object, float32 (y, x).

    The two objects have different ids. Distances are exact up to ``reach`` and infinite beyond; inside an object the
    first is 0. The time does not depend on how many objects there are.

    Let p be the pixel nearest to x of all objects but ``i``. None of them is nearer to x's row in p's column, or that
    pixel would be nearer to x; so p is in the column's nearest object but ``i``, and of the two nearest distinct
    objects of a column one, at most, is ``i``. Two candidates per column are therefore enough, for d1 (no ``i``) and
    for d2 (``i`` is the nearest object).

    Parameters
    ----------
    instances
        Id of the object at each pixel, int32 (y, x); 0 is background. An object may have several pieces.
    reach
        How far to look for objects, px.
    margin
        Pixels at each side of ``instances`` that are read, but left out of the result.
    """
    first, second = (_row_window(keys, reach, margin) for keys in _nearest_in_columns(instances, reach))
    width = instances.shape[1] - 2 * margin
    nearest: Keys = np.full((len(first), width), FAR)
    for dx in range(-reach, reach + 1):
        np.minimum(nearest, first[:, reach + dx : reach + dx + width] + (dx * dx << ID_BITS), out=nearest)
    ids = _ids(nearest)
    first_ids, first_squared, second_squared = _ids(first), _squared(first), _squared(second)
    other = np.full(nearest.shape, _squared(FAR))
    for dx in range(-reach, reach + 1):
        column = slice(reach + dx, reach + dx + width)
        squared = np.where(first_ids[:, column] != ids, first_squared[:, column], second_squared[:, column])
        squared += dx * dx
        np.minimum(other, squared, out=other)
    return _distances(_squared(nearest), reach), _distances(other, reach)


def separated(instances: Instances, ridge: float = TOUCHING) -> Instances:
    """``instances`` with a ridge of background between objects that are near each other, int32 (y, x).

    A pixel becomes background if a pixel of another object is within ``ridge`` of it. Objects that touch lose equally
    much; objects a little apart lose less, by the width of the gap. An object that is narrow there may be cut, or
    vanish.

    Parameters
    ----------
    instances
        Id of the object at each pixel, int32 (y, x); 0 is background.
    ridge
        Distance in px, at least `TOUCHING`: no two pixels of different objects then touch, not even by a corner, and
        no connected component holds two objects.
    """
    side = np.arange(-math.floor(ridge), math.floor(ridge) + 1)
    disc = side[:, None] ** 2 + side**2 <= ridge**2
    nothing = np.int32(np.iinfo(np.int32).max)
    highest = ndimage.maximum_filter(instances, footprint=disc, mode="nearest")
    lowest = ndimage.minimum_filter(np.where(instances > 0, instances, nothing), footprint=disc, mode="nearest")
    alone = (highest == instances) & (lowest == instances)
    return np.where(alone, instances, 0).astype(np.int32, copy=False)


def reach_of(sigma: float) -> int:
    """The largest d1 + d2, px, at which `border_weight` is more than 0: 6 sigma, rounded up.

    Beyond it equation 2 gives less than exp(-18) = 1.5e-8 of w0, too little for a float32 loss to show; here it is 0.
    """
    return math.ceil(6 * sigma)


def border_weight(instances: Instances, *, w0: float, sigma: float, margin: int = 0) -> Map:
    """The second term of equation 2 on the background, 0 inside objects, float32 (y, x).

    With at least ``reach_of(sigma)`` pixels of margin it is, bit for bit, the window of the map of a larger image.

    Parameters
    ----------
    instances
        Id of the object at each pixel, int32 (y, x); 0 is background. As `separated` returns them: the ridge between
        objects that touch is background, and weighs most.
    w0
        Weight of a pixel between two objects at no distance.
    sigma
        How slowly that falls with d1 + d2, px.
    margin
        Pixels at each side of ``instances`` that are read, but left out of the result.
    """
    reach = reach_of(sigma)
    nearest, second = two_nearest(instances, reach, margin)
    apart = nearest.astype(np.float64) + second
    near = (nearest > 0) & (apart <= reach)
    weight = np.zeros(apart.shape, np.float32)
    weight[near] = w0 * np.exp(-(apart[near] ** 2) / (2 * sigma**2))
    return weight


def class_weights(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """w_c: the weight of a pixel of each class, float64 (class,), by which each class counts as much as any other.

    It is the inverse of the class's frequency, normalised so that the mean weight of all pixels is 1. A class that does
    not occur has weight 0, because nothing can be learnt about it.

    Parameters
    ----------
    counts
        Pixels of each class, int64 (class,).
    """
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def _nearest_in_columns(instances: Instances, reach: int) -> tuple[Keys, Keys]:
    """Keys of the two nearest distinct objects in each pixel's own column, `FAR` beyond ``reach`` px."""
    above = _nearest_above(instances, reach)
    below = [keys[::-1] for keys in _nearest_above(instances[::-1], reach)]
    nearest = np.minimum(above[0], below[0])
    ids = _ids(nearest)
    others = [np.where(_ids(first) != ids, first, second) for first, second in (above, below)]
    return nearest, np.minimum(*others)


def _nearest_above(instances: Instances, reach: int) -> tuple[Keys, Keys]:
    """Keys of the two nearest distinct objects at or above each pixel, `FAR` beyond ``reach`` px."""
    rows = np.arange(len(instances))[:, None]
    first = np.maximum.accumulate(np.where(instances > 0, rows, -1), axis=0)
    before = np.pad(first, ((1, 0), (0, 0)), constant_values=-1)[:-1]
    # The nearest other object of a pixel is that of its object pixel above, and changes only where the id does.
    changes = (instances > 0) & (before >= 0) & (np.take_along_axis(instances, before, axis=0) != instances)
    second = np.maximum.accumulate(np.where(changes, before, -1), axis=0)
    return _keys(instances, rows, first, reach), _keys(instances, rows, second, reach)


def _keys(instances: Instances, rows: Keys, found: Keys, reach: int) -> Keys:
    """Squared distance and id in one integer that sorts by distance, of the pixels in rows ``found`` (-1: none)."""
    away = rows - found
    ids = np.take_along_axis(instances, found, axis=0)
    return np.where((found >= 0) & (away <= reach), (away * away << ID_BITS) + ids, FAR)


def _row_window(keys: Keys, reach: int, margin: int) -> Keys:
    """``keys`` without the margin, except ``reach`` columns at either side, `FAR` where there are none."""
    padded = np.pad(keys[margin : len(keys) - margin], ((0, 0), (reach, reach)), constant_values=FAR)
    return padded[:, margin : padded.shape[1] - margin]


def _ids(keys: Keys) -> Instances:
    """The id in each key."""
    return (keys & ((1 << ID_BITS) - 1)).astype(np.int32)


def _squared(keys: Keys | np.int64) -> npt.NDArray[np.int32]:
    """The squared distance in each key, px squared."""
    return np.asarray(keys >> ID_BITS, np.int32)


def _distances(squared: npt.NDArray[np.int32], reach: int) -> Map:
    """Distances in px, infinite beyond ``reach``."""
    away = np.sqrt(squared.astype(np.float64)).astype(np.float32)
    return np.where(squared <= reach * reach, away, np.float32(np.inf))
