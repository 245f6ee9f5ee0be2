"""GeoJSON as QuPath reads it: by the rules of ``qupath.lib.io.QuPathTypeAdapters``, and nothing is forgiven.

Where QuPath would guess (no ``objectType``: an annotation; no ``id``: a new one), or ignore what it does not know, this
raises.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

import shapely


@dataclass(frozen=True)
class PathObject:
    """An object as QuPath would show it."""

    uuid: UUID
    kind: str
    name: str
    color: tuple[int, int, int] | None
    measurements: dict[str, float]
    geometry: shapely.Geometry


def read_objects(text: bytes) -> list[PathObject]:
    """The objects of a FeatureCollection."""
    collection = json.loads(text, parse_constant=_not_a_number, object_pairs_hook=_no_key_twice)
    assert collection.keys() == {"type", "features"}
    assert collection["type"] == "FeatureCollection"
    return [_read_feature(feature) for feature in collection["features"]]


def _read_feature(feature: dict[str, Any]) -> PathObject:
    assert feature.keys() == {"type", "id", "geometry", "properties"}
    assert feature["type"] == "Feature"
    properties = feature["properties"]
    assert properties.keys() == {"objectType", "classification", "measurements"}
    assert properties["objectType"] in ("detection", "annotation")  # cells and tiles need more
    assert {"name"} <= properties["classification"].keys() <= {"name", "color"}
    color = properties["classification"].get("color")
    assert color is None or [type(one) for one in color] == [int] * 3
    assert all(0 <= one < 256 for one in color or [])
    assert all(type(value) in (int, float) for value in properties["measurements"].values())
    return PathObject(
        UUID(feature["id"]),
        properties["objectType"],
        properties["classification"]["name"],
        color and tuple(color),
        properties["measurements"],
        _read_geometry(feature["geometry"]),
    )


def _read_geometry(geometry: dict[str, Any]) -> shapely.Geometry:
    """A polygon, or several, of closed rings; JTS refuses others."""
    assert geometry.keys() == {"type", "coordinates"}
    assert geometry["type"] in ("Polygon", "MultiPolygon")
    pieces = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    for rings in pieces:
        assert rings
        assert all(len(ring) >= 4 and ring[0] == ring[-1] and all(len(point) == 2 for point in ring) for ring in rings)
    return shapely.MultiPolygon([(rings[0], rings[1:]) for rings in pieces])


def _not_a_number(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert Counter(key for key, _ in pairs).most_common(1)[0][1] == 1
    return dict(pairs)
