"""Polygons as well-known binary, many at once (OGC 06-103r4, section 8)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wsipipe.objects.rings import Rings

LITTLE_ENDIAN, POLYGON, MULTI_POLYGON = 1, 3, 6
_HEADER = np.dtype([("order", "u1"), ("kind", "<u4"), ("count", "<u4")])
_POINT = np.dtype([("x", "<f8"), ("y", "<f8")])


def write_wkb(rings: Rings, scale: float) -> pa.Array:
    """A Polygon for each object of one piece, and a MultiPolygon for the others; rings are closed.

    Parameters
    ----------
    rings
        The outlines of objects.
    scale
        What to multiply the coordinates by.

    Returns
    -------
    array
        Binary values, one for each object.
    """
    if not len(rings.count):
        return pa.array([], pa.binary())
    first_ring = np.cumsum(rings.count) - rings.count
    pieces = np.add.reduceat(rings.shell.astype(np.uint32), first_ring)
    leads = np.zeros(len(rings.size), np.bool_)  # the first ring of an object of several pieces
    leads[first_ring[pieces > 1]] = True
    shells = np.flatnonzero(rings.shell)

    # multi header, polygon header, number of points, points: where there are any
    closed = rings.size + 1
    before = _HEADER.itemsize * (leads.astype(np.int64) + rings.shell)
    end = np.cumsum(before + 4 + _POINT.itemsize * closed)
    begin = end - (before + 4 + _POINT.itemsize * closed)
    blob = np.empty(int(end[-1]), np.uint8)
    _put(blob, begin[leads], _headers(MULTI_POLYGON, pieces[pieces > 1]))
    holes = np.diff(np.append(shells, len(rings.size)))
    _put(blob, begin[shells] + _HEADER.itemsize * leads[shells], _headers(POLYGON, holes))
    _put(blob, begin + before, closed.astype("<u4"))
    points = np.empty(len(rings.points), _POINT)
    points["y"], points["x"] = rings.points[:, 0] * scale, rings.points[:, 1] * scale
    first_point = np.cumsum(rings.size) - rings.size
    place = np.repeat(begin + before + 4 - first_point * _POINT.itemsize, rings.size)
    _put(blob, place + np.arange(len(points)) * _POINT.itemsize, points)
    _put(blob, end - _POINT.itemsize, points[first_point])

    offsets = np.append(begin[first_ring], end[-1]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(rings.count), [None, pa.py_buffer(offsets), pa.py_buffer(blob)])


def _headers(kind: int, count: npt.NDArray[np.integer]) -> npt.NDArray[np.void]:
    headers = np.empty(len(count), _HEADER)
    headers["order"], headers["kind"], headers["count"] = LITTLE_ENDIAN, kind, count
    return headers


def _put(blob: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], values: npt.NDArray[np.generic]) -> None:
    """Copy values into ``blob``, each to the byte ``at`` which it begins."""
    size = values.dtype.itemsize
    windows = np.ndarray(len(blob) - size + 1, f"V{size}", blob, strides=(1,))
    windows[at] = np.ascontiguousarray(values).view(f"V{size}")
