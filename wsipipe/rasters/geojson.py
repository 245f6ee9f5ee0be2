"""GeoJSON as QuPath writes it: the objects of a file, their classes, and the coordinates of their polygons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
NOT_DRAWN = {"tmaCore", "tma_core", "TMACoreObject", "root", "PathRootObject"}
"""Types of objects that are a grid or a container, not a drawing."""

Names = tuple[str, ...]
Points = npt.NDArray[np.float64]
"""(n, 2), float64: x, y."""


@dataclass(frozen=True)
class Features:
    """The objects of a file that are polygons, as coordinates."""

    numbers: list[int]
    """Index of each object in the file; objects within an object are counted right after it."""
    names: list[str]
    """Class of each object."""
    parts: list[list[list[Points]]]
    """Polygons of each object: each is a list of its outline, and then its holes."""

    @classmethod
    def read(cls, path: Path) -> Features:
        """Read the objects of a file that are polygons.

        Raises
        ------
        LabelError
            If it is not GeoJSON, or holds no polygons.
        SlideReadError
            If it cannot be opened.
        """
        found, passed_over = cls([], [], []), ""
        for number, feature in enumerate(_flat(read_document(path))):
            try:
                properties = feature.get("properties") or {}
                if {properties.get("objectType"), properties.get("object_type"), feature.get("id")} & NOT_DRAWN:
                    continue
                geometry = feature["geometry"] or {}
                name, parts = class_name(properties.get("classification")), list(parts_of(geometry))
            except (KeyError, TypeError, AttributeError, ValueError) as err:
                raise LabelError(
                    f"{path.name}: feature {number} is not a polygon of GeoJSON ({type(err).__name__}: {err}); "
                    "delete or redraw it in QuPath, and export it again"
                ) from err
            if parts:
                found.numbers.append(number)
                found.names.append(name)
                found.parts.append(parts)
            else:
                passed_over = passed_over or f"feature {number} is a {geometry.get('type', 'feature without geometry')}"
        if not found.numbers:
            raise LabelError(
                f"{path.name} holds no polygons ({passed_over or 'it holds no objects'}); if there is nothing to "
                f"annotate, draw a polygon of the class {REGIONS[0]} around the region that was examined"
            )
        return found

    def polygons(self, downsample: tuple[float, float]) -> npt.NDArray[np.object_]:
        """A valid geometry of each object, (objects,), dtype object, in pixels of ``downsample`` (down, across)."""
        rings = [ring for parts in self.parts for part in parts for ring in part]
        part_of_ring = _numbered(len(part) for parts in self.parts for part in parts)
        object_of_part = _numbered(len(parts) for parts in self.parts)
        points = np.concatenate(rings) / downsample[::-1]
        closed = shapely.linearrings(points, indices=_numbered(map(len, rings)))
        polygons = shapely.polygons(closed, indices=part_of_ring)
        polygons = shapely.multipolygons(polygons, indices=object_of_part)
        broken = ~shapely.is_valid(polygons)
        polygons[broken] = shapely.make_valid(polygons[broken], method="structure", keep_collapsed=False)
        return polygons  # type: ignore[no-any-return]


def read_document(path: Path) -> list[Any]:
    """The features of a GeoJSON file.

    Raises
    ------
    LabelError
        If it is not GeoJSON.
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
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise LabelError(f"{path.name} is not JSON ({err}); export it again as GeoJSON") from err
    if isinstance(document, list):
        return document
    kind = document.get("type") if isinstance(document, dict) else type(document).__name__
    if kind == "Feature":
        return [document]
    if kind != "FeatureCollection" or not isinstance(document.get("features"), list):
        raise LabelError(
            f"{path.name} is JSON, but not GeoJSON: its type is {kind!r}; allowed: a FeatureCollection, a list of "
            "Features, or a Feature; in QuPath: File, Export objects as GeoJSON"
        )
    features: list[Any] = document["features"]
    return features


def _flat(features: Iterable[Any]) -> Iterator[Any]:
    """``features``, each followed by those within it, as QuPath nests them in ``properties``."""
    for feature in features:
        yield feature
        properties = feature.get("properties") if isinstance(feature, dict) else None
        if isinstance(properties, dict):
            yield from _flat(properties.get("childObjects") or properties.get("children") or ())


def class_name(classification: Any) -> str:
    """The name of a class as QuPath shows it, from any form that its versions have written.

    These are a string; ``{"name"}``; for a derived class ``{"names": [...]}``, and before 0.4
    ``{"name", "parentClass": {...}}``.
    """
    if not classification:
        return UNCLASSIFIED
    if isinstance(classification, str):
        return tidy_name(classification)
    if names := classification.get("names"):
        return tidy_name(":".join(names))
    name, parent = classification.get("name"), classification.get("parentClass")
    if not name:
        return UNCLASSIFIED
    return tidy_name(f"{class_name(parent)}: {name}" if parent else name)


def tidy_name(name: str) -> str:
    """The name with spaces around its parts as in QuPath: ``Tumor: Positive``."""
    return ": ".join(part.strip() for part in name.split(":"))


def parts_of(geometry: Mapping[str, Any]) -> Iterator[list[Points]]:
    """The polygons of a geometry, each a list of rings (points, 2), float64; none if it is a point or a line.

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
    """The points of one ring, without altitudes.

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
