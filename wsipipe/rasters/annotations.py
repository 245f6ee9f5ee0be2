"""Annotations that QuPath exported as GeoJSON, drawn into pixels box by box.

A pixel belongs to a polygon if its centre is inside. Coordinates are (x, y) in pixels of level 0, where pixel (i, j)
covers [j, j + 1) x [i, i + 1)::

    x = 0       1       2
        +-------+-------+       the centre of pixel (0, 1) is at x = 1.5, y = 0.5;
        |   .   |   .   |       at a downsample of 2 it would be at x = 3, y = 1 of level 0
        +-------+-------+

A centre on an edge counts as a trifle to the right of it and below, as pixels are closed there and open on the other
side: annotations that share an edge leave neither a gap nor an overlap. That happens where QuPath's whole
coordinates are divided by 2.

Of annotations that overlap, the one of smaller area is on top, and of those of the same area the later one:
so an annotation within an annotation is seen, as it is in QuPath.

Source: https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html, and QuPath's
QuPathTypeAdapters.java and GsonTools.java.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsipipe.errors import LabelError, SlideReadError, UsageError
from wsipipe.geometry.grid import Box

REGIONS = ("Region*", "Region", "Region of interest", "ROI")
"""Classes that say where was looked; the first is QuPath's own (PathClass.StandardPathClasses.REGION)."""
UNCLASSIFIED = "Unclassified"
"""What QuPath calls an object that has no class."""
NOT_DRAWN = {"tmaCore", "tma_core", "TMACoreObject", "root", "PathRootObject"}
"""Types of objects that are a grid or a container, not something that anybody drew."""
OFF_CENTRE = np.array([1.0, 0.618]) * 2.0**-20
"""(x, y) in px from the centre of a pixel to the point that is tested; in no direction that edges have."""
PIECE_PX = 64
"""Pixels are tested in pieces of this side, for most pieces of a large annotation are inside or outside as a whole."""
MAX_CLASSES = 255

Points = npt.NDArray[np.float64]
"""(n, 2): x, y."""
Names = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Annotated:
    """The annotations of one box, each array (h, w)."""

    classes: npt.NDArray[np.uint8]
    """Class ids: 1 + index in the classes that were asked for; 0 is background."""
    instances: npt.NDArray[np.int32]
    """1 + index of the object in the file, the same in every box; 0 where `classes` is 0."""
    inside: npt.NDArray[np.bool_]
    """Whether somebody looked there: the union of the regions, or everywhere if there is none."""


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
                yield index, where, _mask(polygon, xs[where[1]], ys[where[0]])


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of one slide, at one of its levels; can be pickled."""

    name: str
    """File name, as messages call it."""
    path: str
    """Absolute."""
    shape: tuple[int, int]
    """(height, width) of the level in pixels."""
    classes: Names
    """Names of the classes 1, 2, ..."""
    objects: Shapes
    """All but the regions."""
    class_ids: npt.NDArray[np.uint8]
    """Of each of `objects`."""
    instance_ids: npt.NDArray[np.int32]
    """Of each of `objects`."""
    regions: Shapes
    """Where somebody looked; none if that is everywhere."""

    def read(self, box: Box) -> Annotated:
        """The annotations within ``box``: the same pixels as in a box that holds it.

        Parameters
        ----------
        box
            In pixels of the level, within `shape`.
        """
        assert 0 <= box.y0 < box.y1 <= self.shape[0], f"{box} is outside {self.shape}"
        assert 0 <= box.x0 < box.x1 <= self.shape[1], f"{box} is outside {self.shape}"
        drawn = Annotated(
            np.zeros(box.shape, np.uint8), np.zeros(box.shape, np.int32), np.full(box.shape, not len(self.regions.wkb))
        )
        for index, where, mask in self.objects.over(box):
            drawn.classes[where][mask] = self.class_ids[index]
            drawn.instances[where][mask] = self.instance_ids[index]
        for _, where, mask in self.regions.over(box):
            drawn.inside[where] |= mask
        return drawn


def open_annotations(
    path: str | os.PathLike[str],
    shape: tuple[int, int],
    classes: Names,
    *,
    background: Names = (),
    regions: Names = REGIONS,
    downsample: float = 1.0,
) -> Annotations:
    """Read the annotations of a slide from GeoJSON, as QuPath writes it.

    Taken are the polygons, with their holes, of annotations, detections, tiles and cells (of these the outline of the
    cell, not of the nucleus), and of the objects within objects. Points and lines are passed over, and
    so are the cores of a tissue microarray. Polygons that cross themselves, which QuPath exports, are
    mended: they cover what any part of them surrounds (`shapely.make_valid`, ``structure``).

    Parameters
    ----------
    path
        A FeatureCollection, a list of Features, or a single Feature.
    shape
        (height, width) in pixels of the level that is to be drawn.
    classes
        Names of the classes, as QuPath shows them, which get the ids 1, 2, ...; of a derived class all parts:
        ``Tumor: Positive``. An object without a class is called ``Unclassified``.
    background
        Names that become 0, and cover what is below them.
    regions
        Names that tell where somebody looked. Those in ``classes`` or ``background`` are none.
    downsample
        Pixels of level 0 that one of the level spans; at least 1.

    Raises
    ------
    LabelError
        If it is not GeoJSON, holds no polygon, one that is no polygon, a class that was not asked for, or
        polygons of which most are outside the slide.
    SlideReadError
        If it can not be opened.
    UsageError
        If the names contradict each other, or the downsample is below 1.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    classes, background, regions = (tuple(map(_tidy, names)) for names in (classes, background, regions))
    _check_options(classes, background, downsample)
    features = _Features.read(path)
    outlines = set(regions) - set(classes) - set(background)
    _check_names(path.name, features.names, classes, background, outlines)
    both = downsample, downsample
    polygons = features.polygons(both)
    _check_outside(path.name, polygons, shape, both)
    is_region = np.array([name in outlines for name in features.names])
    # A stable sort of the negative area, so that of the same area the later one is on top.
    order = np.argsort(-shapely.area(polygons), kind="stable")
    drawn, looked_at = order[~is_region[order]], order[is_region[order]]
    ids = dict.fromkeys(background, 0) | {name: index for index, name in enumerate(classes, start=1)}
    class_ids = np.array([ids[features.names[index]] for index in drawn], np.uint8)
    instance_ids = np.where(class_ids > 0, np.array(features.numbers, np.int32)[drawn] + 1, 0).astype(np.int32)
    return Annotations(
        name=path.name,
        path=str(path),
        shape=shape,
        classes=classes,
        objects=_shapes(polygons[drawn]),
        class_ids=class_ids,
        instance_ids=instance_ids,
        regions=_shapes(polygons[looked_at]),
    )


def open_outlines(path: str | os.PathLike[str], shape: tuple[int, int], *, downsample: tuple[float, float]) -> Shapes:
    """The polygons of a file of GeoJSON, as `open_annotations` takes them, whatever their classes.

    Parameters
    ----------
    path
        A FeatureCollection, a list of Features, or a single Feature.
    shape
        (height, width) of the pixels that they are to be drawn into.
    downsample
        Pixels of level 0 that one of these spans, (down, across).

    Raises
    ------
    LabelError
        If it is not GeoJSON, or holds no polygon, one that is no polygon, or polygons of which most are outside.
    SlideReadError
        If it can not be opened.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    polygons = _Features.read(path).polygons(downsample)
    _check_outside(path.name, polygons, shape, downsample)
    return _shapes(polygons)


@dataclass(frozen=True)
class _Features:
    """The polygons of a file, by their coordinates."""

    numbers: list[int]
    """Index of each object in the file; objects within an object are counted after it."""
    names: list[str]
    """Class of each object."""
    parts: list[list[list[Points]]]
    """Polygons of each object: each is its outline, and then its holes."""

    @classmethod
    def read(cls, path: Path) -> _Features:
        """The objects of a file that are polygons.

        Raises
        ------
        LabelError
            If it is not GeoJSON, or there is none.
        SlideReadError
            If it can not be opened.
        """
        found, passed_over = cls([], [], []), ""
        for number, feature in enumerate(_flat(_document(path))):
            try:
                properties = feature.get("properties") or {}
                if {properties.get("objectType"), properties.get("object_type"), feature.get("id")} & NOT_DRAWN:
                    continue
                geometry = feature["geometry"] or {}
                name, parts = _class_name(properties.get("classification")), list(_parts(geometry))
            except (KeyError, TypeError, AttributeError, ValueError) as err:
                raise LabelError(
                    f"{path.name}: feature {number} is not a polygon of GeoJSON ({type(err).__name__}: {err}); "
                    "delete or draw it anew in QuPath, and export it again"
                ) from err
            if parts:
                found.numbers.append(number)
                found.names.append(name)
                found.parts.append(parts)
            else:
                passed_over = passed_over or f"feature {number} is a {geometry.get('type', 'feature without geometry')}"
        if not found.numbers:
            raise LabelError(
                f"{path.name} holds no polygon ({passed_over or 'it holds no object'}); where there is nothing to "
                f"annotate, draw a polygon of the class {REGIONS[0]} around what was looked at"
            )
        return found

    def polygons(self, downsample: tuple[float, float]) -> npt.NDArray[np.object_]:
        """A valid geometry for each object, in pixels that span so many of level 0, (down, across)."""
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


def _numbered(counts: Iterable[int]) -> npt.NDArray[np.int64]:
    """0 as often as the first of ``counts`` says, 1 as often as the second, and so on."""
    every = np.fromiter(counts, np.int64)
    return np.repeat(np.arange(len(every)), every)


def _document(path: Path) -> list[Any]:
    """The features of a file.

    Raises
    ------
    LabelError
        If it is not GeoJSON.
    SlideReadError
        If it can not be opened.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise SlideReadError(f"{path.name} can not be opened: {err.strerror or err} ({path})") from err
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
            f"{path.name} is JSON, but not GeoJSON: its type is {kind!r}; a FeatureCollection, a list of Features "
            "and a Feature are allowed; in QuPath: File, Export objects as GeoJSON"
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


def _class_name(classification: Any) -> str:
    """The name as QuPath shows it, of any form in which its versions wrote it.

    A string; ``{"name"}``; for a derived class ``{"names": [...]}``, and before 0.4 ``{"name", "parentClass": {...}}``.
    """
    if not classification:
        return UNCLASSIFIED
    if isinstance(classification, str):
        return _tidy(classification)
    if names := classification.get("names"):
        return _tidy(":".join(names))
    name, parent = classification.get("name"), classification.get("parentClass")
    if not name:
        return UNCLASSIFIED
    return _tidy(f"{_class_name(parent)}: {name}" if parent else name)


def _tidy(name: str) -> str:
    """The name with the spaces around its parts as QuPath sets them."""
    return ": ".join(part.strip() for part in name.split(":"))


def _parts(geometry: Mapping[str, Any]) -> Iterator[list[Points]]:
    """The polygons of a geometry; none if it is a point or a line.

    Raises
    ------
    ValueError
        If one has too few points, or coordinates that are not numbers.
    """
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        for one in geometry["geometries"]:
            yield from _parts(one)
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


def _shapes(polygons: npt.NDArray[np.object_]) -> Shapes:
    """Polygons, as they are kept."""
    return Shapes(
        np.asarray(shapely.to_wkb(polygons), object), np.asfortranarray(shapely.bounds(polygons).reshape(-1, 4))
    )


def _mask(polygon: Any, xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
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
    """As `_mask`, and a single value where all points are inside, or none."""
    extent = shapely.box(xs[0] - 0.5, ys[0] - 0.5, xs[-1] + 0.5, ys[-1] + 0.5)  # never without area
    if not shapely.intersects(polygon, extent):
        return False
    if shapely.contains_properly(polygon, extent):
        return True
    return np.asarray(shapely.contains_xy(polygon, xs, ys[:, np.newaxis]))


def _check_options(classes: Names, background: Names, downsample: float) -> None:
    """Refuse names that contradict each other, and a level finer than the finest.

    Raises
    ------
    UsageError
        Saying which.
    """
    if not 1 <= downsample < float("inf"):
        raise UsageError(f"downsample {downsample} of the annotations' level; 1 (level 0) or more is allowed")
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise UsageError(f"{len(classes)} classes are asked for; 1 to {MAX_CLASSES} are allowed")
    twice = [name for name, count in Counter((*classes, *background)).items() if count > 1]
    if twice:
        raise UsageError(f"the class {twice[0]!r} is asked for twice, or as background too; name each once")


def _check_names(file: str, names: Iterable[str], classes: Names, background: Names, regions: set[str]) -> None:
    """Refuse a file with classes that nobody asked for: an annotation left out would be background.

    Raises
    ------
    LabelError
        Listing what was found, and what is allowed.
    """
    found = Counter(names)
    foreign = sorted(set(found) - set(classes) - set(background) - regions)
    if not foreign:
        return
    listed = ", ".join(f"{name!r} ({found[name]} objects)" for name in foreign)
    allowed = ", ".join(map(repr, (*classes, *background, *sorted(regions))))
    classify = f"; give those called {UNCLASSIFIED!r} a class in QuPath" if UNCLASSIFIED in foreign else ""
    raise LabelError(
        f"{file} has annotations of {listed}; allowed are {allowed} (upper and lower case differ); "
        f"ask for them as classes, or as background{classify}"
    )


def _check_outside(
    file: str, polygons: npt.NDArray[np.object_], shape: tuple[int, int], downsample: tuple[float, float]
) -> None:
    """Refuse annotations most of which are beyond the slide.

    Raises
    ------
    LabelError
        Saying how many, and what they reach.
    """
    bounds = shapely.bounds(polygons)
    outside = (bounds[:, :2] >= shape[::-1]).any(axis=1) | (bounds[:, 2:] <= 0).any(axis=1)
    if 2 * outside.sum() > len(polygons):
        reach = np.nanmax(bounds[:, 2:], axis=0) * downsample[::-1]
        height, width = (side * by for side, by in zip(shape, downsample, strict=True))
        raise LabelError(
            f"{file}: {outside.sum()} of {len(polygons)} annotations are outside the slide: they reach to y = "
            f"{reach[1]:.0f}, x = {reach[0]:.0f}, and it has {height:.0f} x {width:.0f} px at level 0; "
            "were they drawn on another slide, or exported at another level?"
        )
