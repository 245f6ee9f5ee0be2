"""GeoJSON as QuPath writes it: the objects of a file, their classes, and the coordinates of their polygons.

Source: https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html, and QuPath's
QuPathTypeAdapters.java and GsonTools.java.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wsipipe.errors import LabelError
from wsipipe.rasters.features import REGIONS, UNCLASSIFIED, Features, Points, ring_of, tidy_name

NOT_DRAWN = {"tmaCore", "tma_core", "TMACoreObject", "root", "PathRootObject"}
"""Types of objects that are a grid or a container, not a drawing."""


def features_of(document: Any, file: str) -> Features:
    """The objects of a GeoJSON ``document`` that are polygons; those within an object are counted right after it.

    Raises
    ------
    LabelError
        If it is not GeoJSON, or holds no polygons; the message names ``file``.
    """
    found, passed_over = Features(), ""
    for number, feature in enumerate(_flat(_listed(document, file))):
        try:
            properties = feature.get("properties") or {}
            if {properties.get("objectType"), properties.get("object_type"), feature.get("id")} & NOT_DRAWN:
                continue
            geometry = feature["geometry"] or {}
            name, parts = class_name(properties.get("classification")), list(parts_of(geometry))
        except (KeyError, TypeError, AttributeError, ValueError) as err:
            raise LabelError(
                f"{file}: feature {number} is not a polygon of GeoJSON ({type(err).__name__}: {err}); "
                "delete or redraw it in QuPath, and export it again"
            ) from err
        if parts:
            found.add(number, name, parts)
        else:
            passed_over = passed_over or f"feature {number} is a {geometry.get('type', 'feature without geometry')}"
    if not found.numbers:
        raise LabelError(
            f"{file} holds no polygons ({passed_over or 'it holds no objects'}); if there is nothing to "
            f"annotate, draw a polygon of the class {REGIONS[0]} around the region that was examined"
        )
    return found


def _listed(document: Any, file: str) -> list[Any]:
    """The features of ``document``. Raise a LabelError if it is not GeoJSON."""
    if isinstance(document, list):
        return document
    kind = document.get("type") if isinstance(document, dict) else type(document).__name__
    if kind == "Feature":
        return [document]
    if kind != "FeatureCollection" or not isinstance(document.get("features"), list):
        raise LabelError(
            f"{file} is JSON, but neither GeoJSON nor COCO: its type is {kind!r}; allowed: a FeatureCollection, a list "
            "of Features, or a Feature; in QuPath: File, Export objects as GeoJSON"
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
            yield [ring_of(ring) for ring in rings]
