"""Annotations of Aperio's ImageScope: XML of layers, their regions, and vertices in pixels of level 0.

::

    Annotations > Annotation (a layer) > Attributes > Attribute Name= Value=
                                       > Regions > Region Type= NegativeROA= > Vertices > Vertex X= Y=

A layer's class is its ``Name``; if that is empty, the name of its attribute (as MoNuSAC has it), or the value of the
attribute ``Description``. A negative region (``NegativeROA="1"``) is cut out of the others of its layer.
"""

from __future__ import annotations

from typing import Any
from xml.parsers import expat

import numpy as np

from wsipipe.errors import LabelError
from wsipipe.rasters.features import REGIONS, UNCLASSIFIED, Features, Points, tidy_name

POLYGON, RECTANGLE, ELLIPSE = "0", "1", "2"
"""Types of regions with an area; others are arrows and rulers."""
ELLIPSE_POINTS = 180
"""Corners of the polygon that is drawn for an ellipse: within 0.02 % of its radius."""


def features_of(data: bytes, file: str) -> Features:
    """The regions with an area in the XML ``data``.

    Raises
    ------
    LabelError
        If it is not ImageScope's XML, or has no regions with an area; the message names ``file``.
    """
    reader = _Reader(file)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = reader.doctype  # entities can only be declared there
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as err:
        raise LabelError(f"{file} is not XML ({err}); export it again from ImageScope") from err
    if not reader.found.numbers:
        raise LabelError(
            f"{file} has no regions with an area ({reader.regions} regions in all); if there is nothing to annotate, "
            f"draw one in a layer called {REGIONS[1]} around what was examined"
        )
    return reader.found


class _Reader:
    """What the parser tells of elements, as features."""

    def __init__(self, file: str) -> None:
        self.file, self.found, self.regions, self.depth = file, Features(), 0, 0
        self.layer, self.region, self.points = "", dict[str, str](), list[tuple[float, float]]()

    def doctype(self, *_: Any) -> None:
        raise LabelError(f"{self.file} declares a document type, which ImageScope never writes; it is not read")

    def start(self, tag: str, values: dict[str, str]) -> None:
        if not self.depth and tag != "Annotations":
            raise LabelError(f"{self.file} is XML of {tag}, not of Annotations as ImageScope writes it")
        self.depth += 1
        if tag == "Annotation":
            self.layer = values.get("Name", "").strip()
        elif tag == "Attribute" and not self.region and not self.layer:
            name, value = (values.get(key, "").strip() for key in ("Name", "Value"))
            self.layer = value if name == "Description" else name
        elif tag == "Region":
            self.regions += 1
            self.region, self.points = {"Type": POLYGON, "NegativeROA": "0", **values}, []
        elif tag == "Vertex" and self.region:
            self._vertex(values)

    def end(self, tag: str) -> None:
        self.depth -= 1
        if tag != "Region":
            return
        outline = _outline(self.region["Type"], np.array(self.points, np.float64).reshape(-1, 2))
        if outline is not None:
            name = tidy_name(self.layer) or UNCLASSIFIED
            self.found.add(self.regions - 1, name, [[outline]], hole=self.region["NegativeROA"] == "1")
        self.region = {}

    def _vertex(self, values: dict[str, str]) -> None:
        try:
            x, y = float(values["X"]), float(values["Y"])
        except (KeyError, ValueError):
            x = y = np.nan
        if not np.isfinite([x, y]).all():
            raise LabelError(
                f"{self.file}: region {self.region.get('Id', self.regions)} has the vertex {values}; "
                "X and Y must be numbers"
            )
        self.points.append((x, y))


def _outline(kind: str, points: Points) -> Points | None:
    """The outline of a region, (n, 2), or None if it covers nothing."""
    if kind not in (POLYGON, RECTANGLE, ELLIPSE) or len(points) < 2:
        return None
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    if kind == ELLIPSE and len(points) <= 4:  # the corners of the box around it
        turn = np.arange(ELLIPSE_POINTS) * 2 * np.pi / ELLIPSE_POINTS
        return np.column_stack(
            [(x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(turn), (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(turn)]
        )
    if kind == RECTANGLE and len(points) == 2:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return points if len(np.unique(points, axis=0)) > 2 else None
