"""Annotations of a slide, as QuPath, ImageScope or COCO's tools write them, drawn into pixels box by box.

A pixel belongs to a polygon if its centre is inside. Coordinates are (x, y) in pixels of level 0, where pixel (i, j)
covers [j, j + 1) x [i, i + 1)::

    x = 0       1       2
        +-------+-------+       the centre of pixel (0, 1) is at x = 1.5, y = 0.5;
        |   .   |   .   |       at a downsample of 2 it would be at x = 3, y = 1 of level 0
        +-------+-------+

A centre on an edge counts as slightly to the right of it and below, so that annotations that share an edge leave
neither a gap nor an overlap. Centres lie on edges where QuPath's whole coordinates are divided by 2.

Where annotations overlap, the one of smaller area is on top, and of equal areas the later one: an annotation within
an annotation stays visible, as in QuPath.
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

from wsipipe.arrays import size_text
from wsipipe.errors import LabelError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.annotation_file import read_features
from wsipipe.rasters.features import REGIONS, UNCLASSIFIED, Names, tidy_name
from wsipipe.rasters.polygons import Shapes, shapes_of

MAX_DRAWN_CLASSES = 255
"""The most classes that uint8 holds beside the background."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """The annotations of one box; each array is (y, x)."""

    classes: npt.NDArray[np.uint8]
    """Class ids: 1 + index in the requested classes; 0 is the background."""
    instances: npt.NDArray[np.int32]
    """1 + index of the object in the file, the same in every box; 0 where `classes` is 0."""
    inside: npt.NDArray[np.bool_]
    """Whether the pixel was examined: the union of the regions, or everywhere if there are no regions; never where
    objects were marked as a crowd."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of one slide, at one of its levels; they can be pickled."""

    name: str
    """File name, for messages."""
    path: str
    """Absolute path."""
    shape: tuple[int, int]
    """(height, width) of the level in pixels."""
    classes: Names
    """Names of the classes 1, 2, ..."""
    objects: Shapes
    """All polygons but the regions."""
    class_ids: npt.NDArray[np.uint8]
    """Class id of each of `objects`."""
    instance_ids: npt.NDArray[np.int32]
    """Instance id of each of `objects`."""
    regions: Shapes
    """The examined regions; none if the whole slide was examined."""
    crowds: Shapes
    """Places with objects that were not drawn one by one."""

    def read(self, box: Box) -> Annotated:
        """The annotations within ``box``; a pixel has the same values in whichever box it is read.

        Parameters
        ----------
        box
            Pixels of the level, within `shape`.
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
        for _, where, mask in self.crowds.over(box):
            drawn.inside[where] &= ~mask | (drawn.instances[where] > 0)
        return drawn


def open_annotations(
    path: str | os.PathLike[str],
    shape: tuple[int, int],
    classes: Names,
    *,
    background: Names = (),
    regions: Names = REGIONS,
    downsample: float = 1.0,
    image: str | None = None,
) -> Annotations:
    """Read the annotations of a slide: GeoJSON of QuPath, XML of ImageScope, or COCO's JSON.

    Of GeoJSON the polygons, with their holes, of annotations, detections, tiles and cells are read (for cells the
    outline of the cell, not of the nucleus), and those of the objects within objects. Points, lines and the cores of a
    tissue microarray are skipped. Polygons that cross themselves, which QuPath exports, are repaired: they cover what
    any part of them surrounds (`shapely.make_valid`, ``structure``).

    Parameters
    ----------
    path
        The file; its content says which format it has.
    shape
        (height, width) in pixels of the level to draw.
    classes
        Names of the classes, as QuPath shows them; they get the ids 1, 2, ... A derived class is named with all its
        parts: ``Tumor: Positive``. An object without a class is called ``Unclassified``, but if no object has one, and
        a single class is asked for, all are of that class.
    background
        Names of classes that become 0, and cover what is below them.
    regions
        Names of classes that mark examined regions, unless they are in ``classes`` or ``background``.
    downsample
        Pixels of level 0 that one pixel of the level spans; at least 1.
    image
        File name of the slide, by which COCO tells its images; by default that of ``path``, but for the suffixes.

    Raises
    ------
    LabelError
        If it has none of these formats, no polygons, an invalid polygon or a class that was not asked for, or if most
        of its polygons are outside the slide.
    SlideReadError
        If it cannot be opened.
    UsageError
        If the names contradict each other, or the downsample is below 1.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    classes, background, regions = (tuple(map(tidy_name, names)) for names in (classes, background, regions))
    _check_options(classes, background, downsample)
    both = downsample, downsample
    features = read_features(path, image or path.name, _full_size(shape, both))
    outlines = set(regions) - set(classes) - set(background)
    names = _named(features.names, classes, background, outlines)
    _check_names(path.name, names, classes, background, outlines)
    polygons = features.polygons(both)
    _check_outside(path.name, polygons, shape, both)
    is_region = np.array([name in outlines for name in names], bool)
    is_crowd = np.array(features.unknown, bool)
    # A stable sort of the negative area, so that of the same area the later one is on top.
    order = np.argsort(-shapely.area(polygons), kind="stable")
    drawn, looked_at = order[~(is_region | is_crowd)[order]], order[is_region[order]]
    ids = dict.fromkeys(background, 0) | {name: index for index, name in enumerate(classes, start=1)}
    class_ids = np.array([ids[names[index]] for index in drawn], np.uint8)
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
        crowds=shapes_of(polygons[is_crowd]),
    )


def open_outlines(path: str | os.PathLike[str], shape: tuple[int, int], *, downsample: tuple[float, float]) -> Shapes:
    """Read the polygons of a file like `open_annotations`, whatever their classes.

    Parameters
    ----------
    path
        The file; its content says which format it has.
    shape
        (height, width) of the mask that they will be drawn into.
    downsample
        Pixels of level 0 that one pixel of the mask spans, (down, across).

    Raises
    ------
    LabelError
        If it has none of these formats, no polygons or an invalid one, or if most of its polygons are outside the
        slide.
    SlideReadError
        If it cannot be opened.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as open_slide
    polygons = read_features(path, path.name, _full_size(shape, downsample)).polygons(downsample)
    _check_outside(path.name, polygons, shape, downsample)
    return shapes_of(polygons)


def _named(names: list[str], classes: Names, background: Names, regions: set[str]) -> list[str]:
    """``names``, with the only one of ``classes`` for objects without a class if none of them has one."""
    nameless = set(names) - regions == {UNCLASSIFIED} and UNCLASSIFIED not in (*classes, *background)
    return [classes[0] if name == UNCLASSIFIED else name for name in names] if nameless and len(classes) == 1 else names


def _full_size(shape: tuple[int, int], downsample: tuple[float, float]) -> tuple[float, float]:
    """(height, width) in px of level 0 of a level of ``shape``."""
    return shape[0] * downsample[0], shape[1] * downsample[1]


def _check_options(classes: Names, background: Names, downsample: float) -> None:
    """Refuse names that contradict each other, and a level finer than the finest.

    Raises
    ------
    UsageError
        If it finds either; the message names the value, and what is allowed.
    """
    if not 1 <= downsample < float("inf"):
        raise UsageError(f"the downsample of the annotations' level must be 1 (level 0) or more, not {downsample}")
    if not 1 <= len(classes) <= MAX_DRAWN_CLASSES:
        raise UsageError(f"{len(classes)} classes are requested; 1 to {MAX_DRAWN_CLASSES} are allowed")
    twice = [name for name, count in Counter((*classes, *background)).items() if count > 1]
    if twice:
        raise UsageError(f"class {twice[0]!r} is requested twice, or also as background; name it once")


def _check_names(file: str, names: Iterable[str], classes: Names, background: Names, regions: set[str]) -> None:
    """Refuse a file with classes that were not requested: an annotation left out would be background.

    Raises
    ------
    LabelError
        If it has any; the message lists them, and the classes that are allowed.
    """
    found = Counter(names)
    foreign = sorted(set(found) - set(classes) - set(background) - regions)
    if not foreign:
        return
    listed = ", ".join(f"{name!r} ({found[name]} objects)" for name in foreign)
    allowed = ", ".join(map(repr, (*classes, *background, *sorted(regions))))
    classify = f"; give those called {UNCLASSIFIED!r} a class in QuPath" if UNCLASSIFIED in foreign else ""
    raise LabelError(
        f"{file} has annotations of {listed}; allowed: {allowed} (case matters); "
        f"request them as classes, or as background{classify}"
    )


def _check_outside(
    file: str, polygons: npt.NDArray[np.object_], shape: tuple[int, int], downsample: tuple[float, float]
) -> None:
    """Refuse annotations if most of them are outside the slide.

    Raises
    ------
    LabelError
        If they are; the message says how many, and how far they reach.
    """
    bounds = shapely.bounds(polygons)
    outside = (bounds[:, :2] >= shape[::-1]).any(axis=1) | (bounds[:, 2:] <= 0).any(axis=1)
    if 2 * outside.sum() > len(polygons):
        reach = np.nanmax(bounds[:, 2:], axis=0) * downsample[::-1]
        height, width = _full_size(shape, downsample)
        raise LabelError(
            f"{file}: {outside.sum()} of {len(polygons)} annotations are outside the slide: they reach y = "
            f"{reach[1]:.0f}, x = {reach[0]:.0f}, but the slide is {size_text((round(height), round(width)))} at level "
            "0; were they drawn on another slide, or exported at another level?"
        )
