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

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from wsipipe.errors import LabelError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.geojson import MAX_DRAWN_CLASSES, REGIONS, UNCLASSIFIED, Features, Names, tidy_name
from wsipipe.rasters.polygons import Shapes, shapes_of


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
    classes, background, regions = (tuple(map(tidy_name, names)) for names in (classes, background, regions))
    _check_options(classes, background, downsample)
    features = Features.read(path)
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
        objects=shapes_of(polygons[drawn]),
        class_ids=class_ids,
        instance_ids=instance_ids,
        regions=shapes_of(polygons[looked_at]),
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
    polygons = Features.read(path).polygons(downsample)
    _check_outside(path.name, polygons, shape, downsample)
    return shapes_of(polygons)


def _check_options(classes: Names, background: Names, downsample: float) -> None:
    """Refuse names that contradict each other, and a level finer than the finest.

    Raises
    ------
    UsageError
        Saying which.
    """
    if not 1 <= downsample < float("inf"):
        raise UsageError(f"downsample {downsample} of the annotations' level; 1 (level 0) or more is allowed")
    if not 1 <= len(classes) <= MAX_DRAWN_CLASSES:
        raise UsageError(f"{len(classes)} classes are asked for; 1 to {MAX_DRAWN_CLASSES} are allowed")
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
