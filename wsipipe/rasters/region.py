"""A region of a slide that a user chose: a rectangle, or the polygons of an annotation file.

::

    1000,2000,4000,3000         x, y, width and height in pixels of level 0
    1000,2000,1mm,500um         each length may have a unit: px, um or mm
    case-17.geojson             annotations of any class, in pixels of level 0

It is cut to the slide, and drawn into the plane that is segmented: a pixel belongs to it if its centre does, as
`wsipipe.rasters.annotations` has it, so that labels and areas do not depend on blocks, tiles or cells.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsipipe.arrays import Mask, size_text
from wsipipe.errors import LabelError, ResolutionError, UsageError
from wsipipe.geometry.grid import Box, boxes
from wsipipe.rasters.annotation_file import read_features
from wsipipe.rasters.features import REGIONS
from wsipipe.rasters.geojson import features_of
from wsipipe.rasters.pairs import ANNOTATION_SUFFIXES
from wsipipe.rasters.polygons import Shapes, shapes_of
from wsipipe.slides.slide import Level, Slide

UNITS_UM = {"um": 1.0, "µm": 1.0, "mm": 1000.0}
"""Micrometres of each unit of a length; one without a unit, or in px, is in pixels of level 0."""
LENGTH = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*(px|{'|'.join(UNITS_UM)})?\s*")
SEARCHED_PX = 1024
"""Side of the boxes in which a first pixel of a region is searched for."""


@dataclass(frozen=True)
class RegionRequest:
    """A region as a user gives it, before it is known of which slide; made by `parse_region`."""

    text: str
    """As it was given."""
    lengths: tuple[tuple[float, str], ...] = ()
    """(number, unit) of x, y, width and height; empty for a file."""
    sha256: str = ""
    """Identity of the file; empty for a rectangle."""

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which belongs to one slide."""
        return not self.lengths


@dataclass(frozen=True, eq=False)
class Region:
    """The part of a plane that is segmented, in pixels of the slide's level 0; made by `region_of`."""

    polygons: npt.NDArray[np.object_]
    """(n,): shapely polygons that do not overlap, within the slide."""
    plane: tuple[int, int]
    """(height, width) in pixels of the plane into which it is drawn."""
    downsample: float
    """Pixels of level 0 that one pixel of the plane spans, along a side."""

    @property
    def share(self) -> float:
        """Share of the plane's area that lies within, 0 to 1."""
        return min(1.0, float(shapely.area(self.polygons).sum()) / (prod(self.plane) * self.downsample**2))

    @cached_property
    def bounds(self) -> Box:
        """The smallest box of whole pixels of the plane that holds it."""
        x0, y0, x1, y1 = shapely.total_bounds(self.polygons) / self.downsample
        (top, left), (height, width) = (max(0, int(y0)), max(0, int(x0))), self.plane
        return Box(top, min(height, int(np.ceil(y1))), left, min(width, int(np.ceil(x1))))

    def at(self, plane: tuple[int, int]) -> Region:
        """The same region, to be drawn into ``plane``, (height, width) px: the plane, larger or smaller."""
        return replace(self, plane=plane, downsample=self.downsample * self.plane[1] / plane[1])

    def inside(self, box: Box) -> Mask:
        """Which pixels of ``box`` of the plane are within, bool (y, x)."""
        return _drawn(self._shapes, box)

    def sampled(self, most: int) -> tuple[Mask, Box, int]:
        """Every n-th pixel of `bounds`, at most ``most``: which are within, bool (y, x), these bounds, and n."""
        step = max(1, int(np.ceil(np.sqrt(prod(self.bounds.shape) / most))))
        if step == 1:
            return self.inside(self.bounds), self.bounds, step
        rows, cols = (-(-side // step) for side in self.bounds.shape)
        origin = np.array([self.bounds.x0, self.bounds.y0])
        coarse = shapely.transform(self.polygons, lambda xy: (xy / self.downsample - origin) / step)
        return _drawn(shapes_of(coarse), Box(0, rows, 0, cols)), self.bounds, step

    def as_geojson(self) -> bytes:
        """The region as GeoJSON in pixels of level 0, which QuPath and `read_region` open."""
        features = [
            {
                "type": "Feature",
                "geometry": shapely.geometry.mapping(polygon),
                "properties": {"objectType": "annotation", "classification": {"name": REGIONS[0]}},
            }
            for polygon in self.polygons
        ]
        return json.dumps({"type": "FeatureCollection", "features": features}).encode()

    @cached_property
    def _shapes(self) -> Shapes:
        return shapes_of(shapely.transform(self.polygons, lambda xy: xy / self.downsample))


def _drawn(shapes: Shapes, box: Box) -> Mask:
    inside = np.zeros(box.shape, bool)
    for _, where, mask in shapes.over(box):
        inside[where] |= mask
    return inside


def is_region_file(text: str) -> bool:
    """Whether ``text``, the value of ``--roi``, is the path of a file, which belongs to one slide."""
    return Path(text).suffix.lower() in ANNOTATION_SUFFIXES


def parse_region(text: str) -> RegionRequest:
    """The region that ``text``, the value of ``--roi``, asks for: four lengths, or the path of an annotation file.

    Raises
    ------
    UsageError
        If it is neither, has no area, or is a file that cannot be read.
    """
    if is_region_file(text):
        try:
            with Path(text).open("rb") as file:
                return RegionRequest(text, sha256=hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as err:
            raise UsageError(f"--roi {text} cannot be read: {err.strerror or err}") from err
    found = [LENGTH.fullmatch(length) for length in text.split(",")]
    lengths = tuple((float(one[1]), one[2] or "px") for one in found if one)
    if len(found) != 4 or len(lengths) != 4:
        raise UsageError(
            f"--roi {text!r} must be x,y,width,height in pixels of level 0, such as 1000,2000,4000,3000, or with units "
            f"(250um,500um,1mm,1mm), or a file of annotations ({', '.join(ANNOTATION_SUFFIXES)})"
        )
    if not (lengths[2][0] and lengths[3][0]):
        raise UsageError(f"--roi {text} is empty: width and height must be more than 0")
    return RegionRequest(text, lengths)


def region_identity(request: RegionRequest | None, slide: Slide) -> str:
    """What a fingerprint has of a region: the rectangle in pixels of level 0, or the file's sha256; empty without one.

    Raises
    ------
    ResolutionError
        If a length is in micrometres, and those per pixel of ``slide`` are unknown.
    """
    if request is None or request.is_file:
        return "" if request is None else request.sha256
    return ",".join(f"{length:.10g}" for length in _in_pixels(request, slide))


def region_of(request: RegionRequest, slide: Slide, level: Level) -> Region:
    """The region that ``request`` asks for of ``slide``, to be drawn into ``level``.

    Raises
    ------
    LabelError
        If nothing of it is on the slide, it holds the centre of no pixel, or the file is not one of annotations.
    ResolutionError
        If a length is in micrometres, and those per pixel of the slide are unknown.
    SlideReadError
        If the file cannot be opened.
    """
    height, width = slide.levels[0].shape
    if request.is_file:
        path = Path(request.text)
        drawn = _polygons(read_features(path, slide.file, (height, width)).polygons((1.0, 1.0)))
        if not len(drawn):
            raise LabelError(
                f"--roi {request.text} is empty: it has no polygon for {slide.file}; draw one around the region"
            )
    else:
        x, y, across, down = _in_pixels(request, slide)
        drawn = np.array([shapely.box(x, y, x + across, y + down)], object)
    there = shapely.intersection(shapely.union_all(drawn), shapely.box(0, 0, width, height))
    region = Region(_polygons(there), level.shape, level.downsample)
    if not len(region.polygons):
        x0, y0, x1, y1 = shapely.total_bounds(drawn)
        raise LabelError(
            f"--roi {request.text} is outside {slide.file}: it spans x = {x0:.0f} to {x1:.0f} and y = {y0:.0f} to "
            f"{y1:.0f} px, but the slide is {size_text((height, width))} at level 0"
        )
    parts = (part.moved(region.bounds.y0, region.bounds.x0) for part in boxes(region.bounds.shape, SEARCHED_PX))
    if not any(region.inside(part).any() for part in parts):
        raise LabelError(
            f"--roi {request.text} holds the centre of no pixel of {slide.file}, which is segmented at "
            f"{size_text(level.shape)}; give a larger region"
        )
    return region


def read_region(document: bytes, name: str, plane: tuple[int, int], downsample: float) -> Region:
    """The region that `Region.as_geojson` wrote, to be drawn into a ``plane`` of (height, width) px; see `Region`.

    Raises
    ------
    LabelError
        If the ``document`` is damaged; the message names ``name``.
    """
    try:
        parsed: Any = json.loads(document)
    except ValueError as err:
        raise LabelError(f"{name} is not JSON ({err})") from err
    return Region(_polygons(features_of(parsed, name).polygons((1.0, 1.0))), plane, downsample)


def _in_pixels(request: RegionRequest, slide: Slide) -> list[float]:
    """x, y, width and height of a rectangle in pixels of level 0."""
    if slide.mpp is None and any(unit in UNITS_UM for _, unit in request.lengths):
        raise ResolutionError(
            f"--roi {request.text}: {slide.file} has no micrometres per pixel; give the region in pixels of level 0, "
            "or the resolution: --mpp, e.g. --mpp 0.25"
        )
    px_per_um = 1 / (slide.mpp or 1.0)
    return [value * UNITS_UM[unit] * px_per_um if unit in UNITS_UM else value for value, unit in request.lengths]


def _polygons(shapes: Any) -> npt.NDArray[np.object_]:
    """The polygons with an area in ``shapes``, one or an array of them: (n,)."""
    parts: npt.NDArray[np.object_] = shapely.get_parts(shapes)
    filled: npt.NDArray[np.object_] = parts[shapely.area(parts) > 0]
    return filled
