"""The polygons of an annotation file, whatever its format: their classes, and their coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsipipe.errors import LabelError, SlideReadError

REGIONS = ("Region*", "Region", "Region of interest", "ROI")
"""Classes of regions that were examined; the first is QuPath's own (PathClass.StandardPathClasses.REGION)."""
UNCLASSIFIED = "Unclassified"
"""QuPath's name for an object without a class."""

Names = tuple[str, ...]
Points = npt.NDArray[np.float64]
"""(n, 2), float64: x, y."""


@dataclass(frozen=True)
class Features:
    """The objects of a file that are polygons, as coordinates in pixels of level 0."""

    numbers: list[int] = field(default_factory=list)
    """Index of each object in the file, of those that are not polygons too."""
    names: list[str] = field(default_factory=list)
    """Class of each object."""
    parts: list[list[list[Points]]] = field(default_factory=list)
    """Polygons of each object: each is a list of its outline, and then its holes."""
    holes: list[bool] = field(default_factory=list)
    """Whether each object is cut out of those of its class, rather than one itself."""
    unknown: list[bool] = field(default_factory=list)
    """Whether each covers objects that were not drawn one by one, so that its pixels teach nothing."""

    def add(
        self, number: int, name: str, parts: list[list[Points]], *, hole: bool = False, unknown: bool = False
    ) -> None:
        """Add an object of one or more polygons, each a list of rings, (n, 2), float64."""
        self.numbers.append(number)
        self.names.append(name)
        self.parts.append(parts)
        self.holes.append(hole)
        self.unknown.append(unknown)

    def polygons(self, downsample: tuple[float, float]) -> npt.NDArray[np.object_]:
        """A valid geometry of each object, (objects,), dtype object, in pixels of ``downsample`` (down, across).

        What is cut out of others is empty itself.
        """
        if not self.numbers:
            return np.empty(0, object)
        rings = [ring for parts in self.parts for part in parts for ring in part]
        part_of_ring = _numbered(len(part) for parts in self.parts for part in parts)
        object_of_part = _numbered(len(parts) for parts in self.parts)
        points = np.concatenate(rings) / downsample[::-1]
        closed = shapely.linearrings(points, indices=_numbered(map(len, rings)))
        polygons = shapely.polygons(closed, indices=part_of_ring)
        polygons = shapely.multipolygons(polygons, indices=object_of_part)
        broken = ~shapely.is_valid(polygons)
        polygons[broken] = shapely.make_valid(polygons[broken], method="structure", keep_collapsed=False)
        self._cut(polygons)
        return polygons  # type: ignore[no-any-return]

    def _cut(self, polygons: npt.NDArray[np.object_]) -> None:
        """Cut `holes` out of the ``polygons`` of their class, in place."""
        names, holes = np.array(self.names, object), np.array(self.holes, bool)
        for hole in np.flatnonzero(holes):
            others = np.flatnonzero((names == names[hole]) & ~holes)
            others = others[shapely.intersects(polygons[others], polygons[hole])]
            polygons[others] = shapely.difference(polygons[others], polygons[hole])
        polygons[holes] = shapely.Polygon()


def bytes_of(path: Path) -> bytes:
    """The content of an annotation file.

    Raises
    ------
    LabelError
        If it is empty, or compressed.
    SlideReadError
        If it cannot be opened.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise SlideReadError(f"{path.name} cannot be opened: {err.strerror or err} ({path})") from err
    if not data.strip():
        raise LabelError(f"{path.name} is empty ({len(data)} bytes); export it again")
    if data.startswith((b"PK", b"\x1f\x8b")):
        raise LabelError(f"{path.name} is compressed (its first bytes are {data[:4]!r}); unpack it")
    return data


def tidy_name(name: str) -> str:
    """The name with spaces around its parts as in QuPath: ``Tumor: Positive``."""
    return ": ".join(part.strip() for part in name.split(":"))


def ring_of(coordinates: Any) -> Points:
    """The points of one ring, (n, 2), float64, without altitudes.

    Parameters
    ----------
    coordinates
        Pairs of x and y, or longer.

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
        raise ValueError(f"an outline has only {different} points")
    return points[:, :2]


def _numbered(counts: Iterable[int]) -> npt.NDArray[np.int64]:
    """0 repeated as often as the first of ``counts`` says, then 1 as often as the second says, and so on."""
    every = np.fromiter(counts, np.int64)
    return np.repeat(np.arange(len(every)), every)
