"""The outlines of objects in a part of a slide, as the columns that a browser draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely

from wsipipe.objects.read import ObjectTable, geometries

MOST_OUTLINES = 1000
"""Where there are more objects in view than this, a browser has to zoom in to see outlines."""
NOT_SHOWN = ("bbox", "geometry", "x", "y", "x_um", "y_um")
"""Columns that are not shown when one points at an object."""


def outlines_in(table: ObjectTable, view: shapely.Geometry, unit: float, tolerance: float) -> dict[str, Any]:
    """The objects whose centroids lie in ``view``: measures, and outlines as glyphs of bokeh take them.

    Parameters
    ----------
    table
        The objects.
    view
        A region in pixels of the slide's finest level.
    unit
        What one such pixel measures in the browser; y is negative there, because it points up.
    tolerance
        How far an outline may be from the original, in such pixels.

    Returns
    -------
    dict
        ``objects``, their number; and if that is at most `MOST_OUTLINES` ``columns``: ``xs`` and ``ys``, of each object
        the polygons, of these the rings; the measures by name, as text; and the colours.
    """
    found = sum(len(part) for part in table.parts(columns=["id"], region=view))
    if found > MOST_OUTLINES:
        return {"objects": found}
    colors = table.description.colors
    shown = [name for name in table.columns if name not in NOT_SHOWN]
    columns: dict[str, list[Any]] = {name: [] for name in ("xs", "ys", "color", *shown)}
    for part in table.parts(region=view):
        for outline in shapely.simplify(geometries(part), tolerance):
            rings = [
                [np.asarray(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
                for polygon in shapely.get_parts(outline)
            ]
            for name, axis, sign in (("xs", 0, unit), ("ys", 1, -unit)):
                columns[name].append([[(ring[:-1, axis] * sign).tolist() for ring in one] for one in rings])
        for name in shown:
            columns[name] += [_as_text(value) for value in part[name].to_pylist()]
        columns["color"] += [colors[name] for name in part["class"].to_pylist()]
    return {"objects": found, "columns": columns}


def _as_text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
