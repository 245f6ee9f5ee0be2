"""Polygons as GeoJSON (RFC 7946), many at once.

`shapely.to_geojson` takes them one by one, and writes a decimal for every whole number. Here all points become texts at
once, and then lists of points, of rings and of polygons are joined, level by level, in compiled code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from wsipipe.objects.numbers import Counts


def geojson_of(polygons: npt.NDArray[Any]) -> pa.Array:
    """The GeoJSON of each geometry, (n,) strings, with coordinates of one decimal.

    Parameters
    ----------
    polygons
        (n,), objects of shapely: each a Polygon or a MultiPolygon, not empty; the dtype is object.
    """
    parts, owner = shapely.get_parts(polygons, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    x, y = map(_numbers, np.round(points, 1).T)
    texts = _joined(pc.binary_join_element_wise(x, y, ","), np.bincount(ring), "[[", "],[", "]]")
    texts = _joined(texts, np.bincount(part), "[", ",", "]")
    count = np.bincount(owner, minlength=len(polygons))
    several = pa.array(shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON)
    first = texts.take(pa.array(np.cumsum(count) - count))
    kind = pc.if_else(several, "MultiPolygon", "Polygon")
    coordinates = pc.if_else(several, _joined(texts, count, "[", ",", "]"), first)
    return pc.binary_join_element_wise('{"type":"', kind, '","coordinates":', coordinates, "}", "")


def _numbers(values: npt.NDArray[np.float64]) -> pa.Array:
    """Numbers as texts; whole ones, as those along the edges of pixels are, take a third of the time as integers."""
    whole = values.astype(np.int64)
    return pa.array(whole if np.array_equal(whole, values) else values).cast(pa.string())


def _joined(texts: pa.Array, count: Counts, begin: str, between: str, end: str) -> pa.Array:
    """Texts of so many ``texts`` each, with something before, between and after them."""
    offsets = pa.array(np.append(0, np.cumsum(count)), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), between)
    return pc.binary_join_element_wise(begin, joined, end, "")
