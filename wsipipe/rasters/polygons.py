"""Polygons with holes, drawn as masks box by box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsipipe.geometry.grid import Box

OFF_CENTRE = np.array([1.0, 0.618]) * 2.0**-20
"""(x, y) in px from the centre of a pixel to the point that is tested, in a direction that edges do not have."""
PIECE_PX = 64
"""Pixels are tested in pieces of this side: most pieces of a large annotation are inside or outside as a whole."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """Polygons in the order in which they are drawn, in pixels of the level."""

    wkb: npt.NDArray[np.object_]
    """(n,), bytes: each box parses the polygons that it needs, so threads share nothing and nothing is kept."""
    bounds: npt.NDArray[np.float64]
    """(n, 4): x0, y0, x1, y1, in Fortran order."""

    def over(self, box: Box) -> Iterator[tuple[int, tuple[slice, slice], npt.NDArray[np.bool_]]]:
        """(index, where, mask) of each polygon that may reach into ``box``: its pixels are ``array[where][mask]``.

        Parameters
        ----------
        box
            In pixels of the level.

        Yields
        ------
        tuple
            In drawing order. ``where`` is within the box; ``mask`` is (y, x), bool, of the shape of ``where``.
        """
        # All bounds are compared: 0.3 ms for 100 000 polygons, and no tree to build, to pickle or to share.
        x0, y0, x1, y1 = self.bounds.T
        hits = np.flatnonzero((x0 < box.x1) & (x1 > box.x0) & (y0 < box.y1) & (y1 > box.y0))
        first = np.ceil(self.bounds[hits, :2] - 0.5 - OFF_CENTRE) - [box.x0, box.y0]
        last = np.floor(self.bounds[hits, 2:] - 0.5 - OFF_CENTRE) - [box.x0, box.y0] + 1
        corners = np.concatenate([np.maximum(first, 0), np.minimum(last, box.shape[::-1])], axis=1).astype(int)
        polygons = shapely.from_wkb(self.wkb[hits])
        shapely.prepare(polygons)
        xs = np.arange(box.x0, box.x1) + 0.5 + OFF_CENTRE[0]
        ys = np.arange(box.y0, box.y1) + 0.5 + OFF_CENTRE[1]
        for index, polygon, (left, top, right, bottom) in zip(hits.tolist(), polygons, corners.tolist(), strict=True):
            if left < right and top < bottom:
                where = slice(top, bottom), slice(left, right)
                yield index, where, mask(polygon, xs[where[1]], ys[where[0]])


def shapes_of(polygons: npt.NDArray[np.object_]) -> Shapes:
    """Polygons, (n,) shapely geometries in drawing order, in compact form: their dtype is object."""
    return Shapes(
        np.asarray(shapely.to_wkb(polygons), object), np.asfortranarray(shapely.bounds(polygons).reshape(-1, 4))
    )


def mask(polygon: Any, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether the points ``xs`` x ``ys``, float64, are inside a prepared polygon: (y, x), bool."""
    if max(len(xs), len(ys)) <= PIECE_PX:
        return np.asarray(shapely.contains_xy(polygon, xs, ys[:, np.newaxis]))
    inside = np.zeros((len(ys), len(xs)), bool)
    for y in range(0, len(ys), PIECE_PX):
        for x in range(0, len(xs), PIECE_PX):
            where = slice(y, y + PIECE_PX), slice(x, x + PIECE_PX)
            inside[where] = _piece(polygon, xs[where[1]], ys[where[0]])
    return inside


def _piece(polygon: Any, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_] | bool:
    """Like `mask`, but a single value if all points are inside, or none."""
    extent = shapely.box(xs[0] - 0.5, ys[0] - 0.5, xs[-1] + 0.5, ys[-1] + 0.5)  # never without area
    if not shapely.intersects(polygon, extent):
        return False
    if shapely.contains_properly(polygon, extent):
        return True
    return np.asarray(shapely.contains_xy(polygon, xs, ys[:, np.newaxis]))
