"""Closed outlines of objects, in an order that does not depend on how a slide was cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsipipe.arrays import Mask
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import Lines, Points, elements
from wsipipe.objects.paths import follow


@dataclass(frozen=True, eq=False)
class Rings:
    """The outlines of objects. Of each, piece by piece, the ring around it and then those around its holes.

    A ring begins with its first corner, row by row, and does not repeat it at the end. Pieces and holes are in the
    order of those corners.
    """

    count: Counts
    """(objects,): how many rings each object has."""
    size: Counts
    """(rings,): how many corners each ring has."""
    shell: Mask
    """(rings,): whether it runs around a piece, not around a hole."""
    points: Points
    """(corners, 2): y, x."""

    @staticmethod
    def none() -> Rings:
        """The rings of no objects."""
        return Rings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros((0, 2), np.int32))

    def moved(self, y: int, x: int) -> Rings:
        """The same rings, ``y`` px further down and ``x`` px further right."""
        return Rings(self.count, self.size, self.shell, self.points + np.array([y, x], np.int32))

    def taken(self, which: Counts) -> Rings:
        """Those of the objects at the indices ``which``, (n,), int64."""
        rings = elements(which, self.count)
        points = self.points.take(elements(rings, self.size), axis=0)
        return Rings(self.count[which], self.size[rings], self.shell[rings], points)


def together(several: list[Rings]) -> Rings:
    """The rings of all objects of ``several``, one after the other."""
    columns = ((rings.count, rings.size, rings.shell, rings.points) for rings in several)
    return Rings(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def close(lines: Lines) -> Lines:
    """Link chains to rings, by the keys of the edges that they begin and end with.

    Every chain must have its neighbours in ``lines``.
    """
    begin = np.argsort(lines.arrives, kind="stable")
    at = np.searchsorted(lines.arrives[begin], lines.leaves)
    successor = np.where(lines.leaves < 0, np.arange(len(lines.size)), begin[np.minimum(at, len(begin) - 1)])
    order, starts = follow(successor)
    points = lines.points.take(elements(order, lines.size), axis=0)
    size = np.add.reduceat(lines.size[order], starts[:-1])
    nowhere = np.full(len(size), -1)
    return Lines(lines.piece[order[starts[:-1]]], nowhere, nowhere, size, _rotated(points, size))


def arrange(lines: Lines, group: Counts, count: int) -> Rings:
    """Rings in their order.

    Parameters
    ----------
    lines
        Rings, each from its first corner on.
    group
        (pieces,), int64: the object that a piece belongs to.
    count
        Number of objects; all have rings.
    """
    first, _ = _bounds(lines.size)
    y, x = lines.points.take(first, axis=0).T.astype(np.int64)
    # From its first corner, a ring around a piece runs to the right, and one around a hole downwards.
    shell = lines.points[:, 0].take(first + 1) == y
    owner, begin = group[lines.piece], y << 32 | x
    # The ring around a piece has the piece's first corner, and so it is the first one of the piece.
    of_piece = np.empty(len(group), np.int64)
    of_piece[lines.piece[shell]] = begin[shell]
    order = np.lexsort((begin, of_piece[lines.piece], owner))
    return Rings(
        np.bincount(owner, minlength=count),
        lines.size[order],
        shell[order],
        lines.points.take(elements(order, lines.size), axis=0),
    )


def doubled_hull_areas(rings: Rings) -> Counts:
    """Twice the area of the convex hull of each object, (objects,), int64, in pixels.

    Of all corners in a row only the first and the last can be corners of the hull, and so an object has two chains, one
    on its left side and one on its right. A corner that lies on the line between the two beside it, or on the inner
    side of that, is none of the hull. All such are left out at once, until there is no more of them (Sklansky's scan,
    which is right for chains, though not for all polygons). 2.6 times as fast as `shapely.convex_hull`.
    """
    areas: Counts = np.zeros(len(rings.count), np.int64)
    if not len(areas):
        return areas
    owner, y, x = _sides(rings)
    while len(owner):
        chain_goes_on = owner[1:] == owner[:-1]
        along_y, along_x = np.diff(y), np.diff(x)
        inner = np.zeros(len(owner), np.bool_)
        inner[1:-1] = along_x[:-1] * along_y[1:] <= along_y[:-1] * along_x[1:]
        inner[1:-1] &= chain_goes_on[1:] & chain_goes_on[:-1]
        busy = np.zeros(2 * len(areas), np.bool_)
        busy[owner[inner]] = True
        goes_on = busy[owner]
        complete = np.flatnonzero(chain_goes_on & ~goes_on[1:])
        # Between two corners lies a trapezium; on the left side x is negative.
        np.add.at(areas, owner[complete] % len(areas), along_y[complete] * (x[complete] + x[complete + 1]))
        keep = np.flatnonzero(goes_on & ~inner)
        owner, y, x = owner[keep], y[keep], x[keep]
    return areas


def _sides(rings: Rings) -> tuple[Counts, Counts, Counts]:
    """The first and last corner of each object in each row: its chain, y and x; chain by chain, each downwards.

    Of n objects, chain i is the left side of object i, and chain n + i its right side. On the left side x is negative,
    so that the hull is where x is large.
    """
    y, x = rings.points.compress(np.repeat(rings.shell, rings.size), axis=0).T.astype(np.int64)
    count, top, left = len(rings.count), int(y.min()), int(x.min())
    height, width = int(y.max()) - top + 1, int(x.max()) - left + 1
    object_of_ring = np.repeat(np.arange(count), rings.count)
    owner = np.repeat(object_of_ring[rings.shell], rings.size[rings.shell])
    corner = np.sort((owner * height + y - top) * width + x - left, kind="stable")  # nearly sorted
    row = corner // width  # counted on from each object to the next
    changes = np.flatnonzero(row[1:] != row[:-1])
    row, first, last = row[np.append(0, changes + 1)], corner[np.append(0, changes + 1)], corner[np.append(changes, -1)]
    owner, begin = row // height, row * width
    return np.concatenate([owner, count + owner]), np.tile(row, 2), np.concatenate([begin - first, last - begin])


def _bounds(size: Counts) -> tuple[Counts, Counts]:
    """The indices of the first and last corner of each ring."""
    stop = np.cumsum(size)
    return stop - size, stop - 1


def _rotated(points: Points, size: Counts) -> Points:
    """The points of rings, each from its first one on, row by row."""
    first, _ = _bounds(size)
    ring = np.repeat(np.arange(len(size)), size)
    top = np.minimum.reduceat(points[:, 0], first)
    left = np.minimum.reduceat(np.where(points[:, 0] == top[ring], points[:, 1], np.iinfo(np.int32).max), first)
    (lead,) = np.nonzero((points[:, 0] == top[ring]) & (points[:, 1] == left[ring]))
    shift = np.arange(len(points)) - first[ring] + (lead - first)[ring]
    rotated: Points = points[first[ring] + shift % size[ring]]
    return rotated
