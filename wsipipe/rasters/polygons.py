"""Polygons with holes, as coordinates, and drawn as masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsipipe.geometry.grid import Box

NOT_DRAWN = {"tmaCore", "tma_core", "TMACoreObject", "root", "PathRootObject"}
"""Types of objects that are a grid or a container, not something that anybody drew."""
OFF_CENTRE = np.array([1.0, 0.618]) * 2.0**-20
"""(x, y) in px from the centre of a pixel to the point that is tested; in no direction that edges have."""
PIECE_PX = 64
"""Pixels are tested in pieces of this side, for most pieces of a large annotation are inside or outside as a whole."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """Polygons in the order in which they are drawn, in pixels of the level."""

    wkb: npt.NDArray[np.object_]
    """(n,), bytes: what a box needs is parsed for it alone, so threads share nothing, and nothing is kept."""
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
            In the order in which they are drawn. ``where`` is within the box; ``mask`` has its shape.
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


def parts_of(geometry: Mapping[str, Any]) -> Iterator[list[Points]]:
    """The polygons of a geometry; none if it is a point or a line.

    Raises
    ------
    ValueError
        If one has too few points, or coordinates that are not numbers.
    """
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        for one in geometry["geometries"]:
            yield from parts_of(one)
    polygons: list[Any] = []
    if kind in ("Polygon", "MultiPolygon"):
        polygons = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
    for rings in polygons:
        if rings:
            yield [_ring(ring) for ring in rings]


def _ring(coordinates: Any) -> Points:
    """The points of one ring.

    Raises
    ------
    ValueError
        If they are too few, or not numbers.
    """
    points = np.array(coordinates, np.float64)
    if points.ndim != 2 or points.shape[1] < 2 or not np.isfinite(points).all():
        raise ValueError("its coordinates are not pairs of numbers")
    different = len(points) - bool((points[0] == points[-1]).all())
    if different < 3:
        raise ValueError(f"an outline of {different} points")
    return points[:, :2]


def shapes_of(polygons: npt.NDArray[np.object_]) -> Shapes:
    """Polygons, as they are kept."""
    return Shapes(
        np.asarray(shapely.to_wkb(polygons), object), np.asfortranarray(shapely.bounds(polygons).reshape(-1, 4))
    )


def mask(polygon: Any, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which of the points ``xs`` x ``ys`` are inside of a prepared polygon, bool (len(ys), len(xs))."""
    if max(len(xs), len(ys)) <= PIECE_PX:
        return np.asarray(shapely.contains_xy(polygon, xs, ys[:, np.newaxis]))
    mask = np.zeros((len(ys), len(xs)), bool)
    for y in range(0, len(ys), PIECE_PX):
        for x in range(0, len(xs), PIECE_PX):
            where = slice(y, y + PIECE_PX), slice(x, x + PIECE_PX)
            mask[where] = _piece(polygon, xs[where[1]], ys[where[0]])
    return mask


def _piece(polygon: Any, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_] | bool:
    """As `mask`, and a single value where all points are inside, or none."""
    extent = shapely.box(xs[0] - 0.5, ys[0] - 0.5, xs[-1] + 0.5, ys[-1] + 0.5)  # never without area
    if not shapely.intersects(polygon, extent):
        return False
    if shapely.contains_properly(polygon, extent):
        return True
    return np.asarray(shapely.contains_xy(polygon, xs, ys[:, np.newaxis]))


Points = npt.NDArray[np.float64]
"""(n, 2): x, y."""
