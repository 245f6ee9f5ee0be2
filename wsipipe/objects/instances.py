"""The object that each pixel belongs to, from the outlines in a table.

Outlines run along the edges of pixels, clockwise on a screen around an object, counterclockwise around a hole. So where
one runs up, its object begins, and where it runs down, it ends. Objects do not overlap, and the ids of a row are the
running sum of what begins and ends in it::

    outline      ^7      v7 ^9  v9
    change     0 +7  0   -7 +9  -9  0
    id         0  7  7    0  9   0  0
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import shapely

from wsipipe.geometry.grid import Box
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import stretches
from wsipipe.objects.read import ObjectTable, geometries


def instances_within(table: ObjectTable, box: Box) -> Counts:
    """The id of the object that each pixel of ``box`` belongs to, (y, x), int64; 0 for none.

    Parameters
    ----------
    table
        The objects.
    box
        Which pixels of the labels.

    Raises
    ------
    DamagedStoreError
        If the table cannot be read.
    """
    scale = table.description.downsample
    ids: Counts = np.zeros(box.shape, np.int64)
    for part in table.meeting((box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale), ["id", "geometry"]):
        x, begin_y, end_y, change = _vertical_edges(part, scale)
        top = np.maximum(np.minimum(begin_y, end_y) - box.y0, 0)
        size = np.minimum(np.maximum(begin_y, end_y) - box.y0, box.shape[0]) - top
        here = (size > 0) & (x < box.x1)
        column = np.maximum(x[here] - box.x0, 0)  # what lies to the left has begun or ended before the first column
        at = stretches(top[here], size[here]), np.repeat(column, size[here])
        np.add.at(ids, at, np.repeat(change[here], size[here]))
    return np.cumsum(ids, axis=1, out=ids)


def _vertical_edges(part: pa.Table, scale: float) -> tuple[Counts, Counts, Counts, Counts]:
    """x, first and last y of the edges along columns, in pixels of the labels, and what each adds to the ids."""
    polygons, owner = shapely.get_parts(geometries(part), return_index=True)
    rings, polygon = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    x, y = np.rint(points / scale).astype(np.int64).T
    edge = np.flatnonzero((ring[1:] == ring[:-1]) & (x[1:] == x[:-1]))
    ids = part["id"].to_numpy()[owner[polygon[ring[edge]]]]
    return x[edge], y[edge], y[edge + 1], np.where(y[edge + 1] < y[edge], ids, -ids)
