"""Annotations against shapely's own answer for each single point, and the raster of a box against that of the whole."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.errors import LabelError, SlideReadError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.annotations import Annotations, open_annotations
from wsipipe.rasters.features import REGIONS
from wsipipe.rasters.polygons import OFF_CENTRE

SHAPE = (40, 50)
Polygon = list[list[tuple[float, float]]]


def square(x: float, y: float, side: float) -> Polygon:
    """The outline of a square whose upper left corner is at ``x``, ``y``."""
    return [[(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]]


def feature(rings: Any, name: Any = "Tumor", kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    """As QuPath 0.5 writes it."""
    classification = {} if name is None else {"classification": {"name": name, "color": [200, 0, 0]}}
    return {
        "type": "Feature",
        "id": "0a1f",
        "geometry": {"type": kind, "coordinates": rings},
        "properties": {"objectType": "annotation"} | classification | properties,
    }


def written(path: Path, *features: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def opened(folder: Path, *features: Any, classes: tuple[str, ...] = ("Tumor", "Stroma"), **options: Any) -> Annotations:
    path = written(folder / "case-17.geojson", *features)
    return open_annotations(path, options.pop("shape", SHAPE), classes, **options)


def whole(annotations: Annotations) -> Any:
    return annotations.read(Box(0, annotations.shape[0], 0, annotations.shape[1]))


def star(rng: np.random.Generator, points: int = 12) -> Polygon:
    """A ragged polygon around a random centre, often with a hole, sometimes with whole coordinates."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    if np.diff(angles, append=angles[0] + 2 * np.pi).max() > 3:
        angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = rng.uniform(6, 14, points)
    centre = rng.uniform(-3, 50, 2)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rings = [centre + radius[:, np.newaxis] * rays]
    if rng.random() < 0.6:
        rings.append(centre + rng.uniform(1, 3) * rays[::-1])
    if rng.random() < 0.3:
        rings = [np.round(ring) for ring in rings]
    return [[tuple(point) for point in [*ring.tolist(), ring[0].tolist()]] for ring in rings]


def stars(seed: int, count: int) -> list[dict[str, Any]]:
    """Random features of three classes, one of them a region; some of them are not valid."""
    rng = np.random.default_rng(seed)
    names = ["Tumor", "Stroma", "Region*"]
    return [feature(star(rng), names[rng.choice(3, p=[0.5, 0.4, 0.1])]) for _ in range(count)]


def brute(features: list[dict[str, Any]], shape: tuple[int, int], downsample: float) -> tuple[np.ndarray, np.ndarray]:
    """Class ids, and whether a region is there: every pixel is tested against every polygon by itself."""
    shapes = [
        (shapely.make_valid(shapely.geometry.shape(one["geometry"]), method="structure", keep_collapsed=False), one)
        for one in features
    ]
    classes, inside = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    ids = {"Tumor": 1, "Stroma": 2}
    for i, j in np.ndindex(shape):
        point = shapely.Point(*((np.array([j, i]) + 0.5 + OFF_CENTRE) * downsample))
        there = [(polygon.area, one) for polygon, one in shapes if polygon.contains(point)]
        names = [(area, one["properties"]["classification"]["name"]) for area, one in there]
        inside[i, j] = any(name == "Region*" for _, name in names)
        drawn = [(area, ids[name]) for area, name in names if name in ids]
        classes[i, j] = min(drawn)[1] if drawn else 0
    regions = any(one["properties"]["classification"]["name"] == "Region*" for one in features)
    return classes, inside if regions else np.ones(shape, bool)


@pytest.mark.parametrize(("seed", "downsample"), [(0, 1.0), (1, 1.0), (2, 2.0), (3, 1.7)])
def test_every_pixel_is_what_a_point_in_polygon_test_says(tmp_path: Path, seed: int, downsample: float) -> None:
    features = stars(seed, 9)
    shape = (int(40 / downsample), int(50 / downsample))
    drawn = whole(opened(tmp_path, *features, shape=shape, downsample=downsample))
    classes, inside = brute(features, shape, downsample)
    np.testing.assert_array_equal(drawn.classes, classes)
    np.testing.assert_array_equal(drawn.inside, inside)
    assert len(np.unique(classes)) == 3


@given(st.data())
def test_raster_of_a_box_is_the_crop_of_that_of_the_whole(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    features = stars(data.draw(st.integers(0, 10**6)), 12)
    annotations = opened(tmp_path_factory.mktemp("a"), *features)
    everything = whole(annotations)
    y0, x0 = (data.draw(st.integers(0, size - 1)) for size in SHAPE)
    box = Box(y0, data.draw(st.integers(y0 + 1, SHAPE[0])), x0, data.draw(st.integers(x0 + 1, SHAPE[1])))
    part = annotations.read(box)
    for name in ("classes", "instances", "inside"):
        np.testing.assert_array_equal(getattr(part, name), getattr(everything, name)[box.slices], name)
    assert (part.classes.dtype, part.instances.dtype, part.inside.dtype) == (np.uint8, np.int32, np.bool_)


def test_large_polygon_is_drawn_in_pieces_as_it_is_drawn_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = rng.uniform(100, 130, 400)
    points = np.stack([135 + radius * np.cos(angles), 140 + radius * np.sin(angles)], axis=1)
    ring = [tuple(point) for point in [*points.tolist(), points[0].tolist()]]
    hole = square(120, 130, 9)[0]
    annotations = opened(tmp_path, feature([ring, hole]), shape=(257, 270))
    ys, xs = np.mgrid[:257, :270]
    expected = shapely.contains_xy(shapely.Polygon(ring, [hole]), xs + 0.5 + OFF_CENTRE[0], ys + 0.5 + OFF_CENTRE[1])
    np.testing.assert_array_equal(whole(annotations).classes, expected)
    strip = annotations.read(Box(3, 257, 135, 136))  # pieces of one pixel's width
    np.testing.assert_array_equal(strip.classes, expected[3:257, 135:136])


def test_pixel_covers_its_square_of_level_0(tmp_path: Path) -> None:
    drawn = whole(opened(tmp_path, feature(square(3, 5, 2))))
    expected = np.zeros(SHAPE, np.uint8)
    expected[5:7, 3:5] = 1
    np.testing.assert_array_equal(drawn.classes, expected)
    np.testing.assert_array_equal(drawn.instances, expected)
    assert drawn.inside.all()


def test_annotations_that_share_an_edge_through_centres_leave_no_gap_and_do_not_overlap(tmp_path: Path) -> None:
    # At a downsample of 2 the edges x = 5, 7, 9 go through the centres of the pixels 2, 3 and 4.
    columns = [feature([[(x, 0), (x + 2, 0), (x + 2, 8), (x, 8), (x, 0)]]) for x in (5, 7, 9)]
    drawn = whole(opened(tmp_path, *columns, shape=(4, 8), downsample=2.0))
    np.testing.assert_array_equal(drawn.instances, np.tile([0, 0, 1, 2, 3, 0, 0, 0], (4, 1)))


def test_smaller_annotation_is_on_top_whatever_the_order(tmp_path: Path) -> None:
    large, small = feature(square(0, 0, 20)), feature(square(5, 5, 5), "Stroma")
    for features in ([large, small], [small, large]):
        drawn = whole(opened(tmp_path, *features))
        assert drawn.classes[7, 7] == 2
        assert drawn.classes[2, 2] == 1
        assert drawn.instances[7, 7] == 1 + features.index(small)


def test_of_equal_areas_the_later_is_on_top(tmp_path: Path) -> None:
    drawn = whole(opened(tmp_path, feature(square(0, 0, 4)), feature(square(0, 0, 4), "Stroma")))
    assert set(drawn.instances[:4, :4].flat) == {2}


def test_background_covers_what_is_below_it(tmp_path: Path) -> None:
    features = [feature(square(0, 0, 20)), feature(square(5, 5, 5), "Ignore*")]
    drawn = whole(opened(tmp_path, *features, background=("Ignore*",)))
    assert (drawn.classes[7, 7], drawn.instances[7, 7], drawn.classes[2, 2]) == (0, 0, 1)


def test_regions_say_what_was_examined_and_are_not_a_class(tmp_path: Path) -> None:
    features = [feature(square(0, 0, 10), "Region*"), feature(square(5, 5, 10), "ROI"), feature(square(6, 6, 3))]
    drawn = whole(opened(tmp_path, *features))
    expected = np.zeros(SHAPE, bool)
    expected[:10, :10] = expected[5:15, 5:15] = True
    np.testing.assert_array_equal(drawn.inside, expected)
    assert drawn.instances.max() == 3
    as_class = opened(tmp_path, features[0], classes=("Region*",))
    assert whole(as_class).inside.all()
    assert whole(as_class).classes.sum() == 100


def test_annotation_that_crosses_itself_covers_what_its_loops_surround(tmp_path: Path) -> None:
    eight = [[(0, 0), (10, 10), (10, 0), (0, 10), (0, 0)]]
    corners = 20 + 10 * np.exp(1j * np.arange(6) * 4 * np.pi / 5)
    pentagram = [[(z.real, z.imag + 12) for z in corners]]  # its middle is surrounded twice
    drawn = whole(opened(tmp_path, feature(eight), feature(pentagram, "Stroma")))
    assert [drawn.classes[at] for at in ((5, 0), (5, 9), (0, 5), (9, 5), (12, 20))] == [1, 1, 0, 0, 2]


def test_slide_with_nothing_but_a_region_is_examined_background(tmp_path: Path) -> None:
    drawn = whole(opened(tmp_path, feature(square(0, 0, 5), "Region*")))
    assert (drawn.classes.max(), drawn.inside.sum()) == (0, 25)


def test_multipolygon_is_one_object_with_holes(tmp_path: Path) -> None:
    ring = [*square(0, 0, 10), *square(2, 2, 3)]
    drawn = whole(opened(tmp_path, feature([ring, square(20, 20, 4)], kind="MultiPolygon")))
    assert set(np.unique(drawn.instances)) == {0, 1}
    assert drawn.classes.sum() == 100 - 9 + 16


CLASSIFICATIONS = {
    "0.4 and later": {"name": "Tumor", "color": [200, 0, 0]},
    "before 0.4": {"name": "Tumor", "colorRGB": -3670016},
    "a string": "Tumor",
}
DERIVED = {
    "0.4 and later": {"names": ["Tumor", "Positive"], "color": [1, 2, 3]},
    "before 0.4": {"name": "Positive", "parentClass": {"name": "Tumor", "colorRGB": -1}, "colorRGB": -1},
    "by hand": {"name": "Tumor:Positive"},
}


def drawn_objects(annotations: Annotations) -> set[tuple[int, int]]:
    """Id and class of every object that covers a pixel."""
    found = whole(annotations)
    there = found.instances > 0
    return set(zip(found.instances[there].tolist(), found.classes[there].tolist(), strict=True))


@pytest.mark.parametrize("version", CLASSIFICATIONS)
def test_class_name_is_read_as_every_version_writes_it(tmp_path: Path, version: str) -> None:
    one = feature(square(0, 0, 4), None, classification=CLASSIFICATIONS[version])
    assert drawn_objects(opened(tmp_path, one, classes=("Tumor",))) == {(1, 1)}


@pytest.mark.parametrize("version", DERIVED)
def test_derived_class_is_called_as_qupath_shows_it(tmp_path: Path, version: str) -> None:
    one = feature(square(0, 0, 4), None, classification=DERIVED[version])
    assert whole(opened(tmp_path, one, classes=("Tumor", "Tumor: Positive"))).classes.max() == 2


def test_collection_list_and_single_feature_are_all_read(tmp_path: Path) -> None:
    one = feature(square(0, 0, 4))
    for document in ({"type": "FeatureCollection", "features": [one]}, [one], one):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(document))
        assert drawn_objects(open_annotations(path, SHAPE, ("Tumor",))) == {(1, 1)}
    path.write_text("\ufeff" + json.dumps([one]), encoding="utf-8")
    assert drawn_objects(open_annotations(path, SHAPE, ("Tumor",))) == {(1, 1)}


def test_objects_within_objects_and_outlines_of_cells_are_drawn_points_lines_and_cores_are_not(tmp_path: Path) -> None:
    cell = feature(square(2, 2, 6), "Stroma", objectType="cell") | {
        "nucleusGeometry": {"type": "Polygon", "coordinates": square(4, 4, 2)}
    }
    parent = feature(square(0, 0, 20), childObjects=[cell])
    others = [
        feature([[1, 1], [2, 2]], None, kind="LineString"),
        feature([1, 1], "Points", kind="Point"),
        feature(square(0, 0, 50), None, objectType="tmaCore"),
        feature([], None),
    ]
    drawn = whole(opened(tmp_path, *others, parent))
    assert (drawn.classes == 2).sum() == 36
    assert set(np.unique(drawn.instances)) == {0, 5, 6}


def test_pickled_annotations_draw_the_same(tmp_path: Path) -> None:
    annotations = opened(tmp_path, *stars(7, 10))
    Path(annotations.path).unlink()
    np.testing.assert_array_equal(
        whole(pickle.loads(pickle.dumps(annotations))).instances, whole(annotations).instances
    )


def test_class_that_was_not_asked_for_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    features = [feature(square(0, 0, 4)), feature(square(0, 0, 4), "tumor")]
    with pytest.raises(LabelError, match=r"case-17.geojson has annotations of 'tumor' \(1 objects\); allowed: 'Tumor'"):
        opened(tmp_path, *features)


def test_objects_without_class_are_refused_unless_asked_for(tmp_path: Path) -> None:
    features = [feature(square(0, 0, 4)), feature(square(8, 8, 4), None)]
    with pytest.raises(LabelError, match=r"'Unclassified' \(1 objects\).*give those called 'Unclassified' a class"):
        opened(tmp_path, *features)
    assert whole(opened(tmp_path, *features, classes=("Tumor", "Unclassified"))).classes[9, 9] == 2


def test_most_annotations_outside_the_slide_are_refused_a_few_are_not(tmp_path: Path) -> None:
    inside, outside = feature(square(0, 0, 4)), feature(square(100, 0, 4))
    with pytest.raises(LabelError, match=r"2 of 3 annotations are outside the slide.*50 wide x 40 high.*another level"):
        opened(tmp_path, inside, outside, outside)
    assert whole(opened(tmp_path, inside, inside, outside)).classes.sum() == 16
    assert opened(tmp_path, outside, shape=(40, 53), downsample=2.0).objects.bounds[0, 2] == 52


BAD = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "not JSON": (b"x,y\n1,2", "is not JSON"),
    "cut off": (b'{"type": "FeatureCollection", "features": [', "is not JSON"),
    "zipped": (b"PK\x03\x04....", "is compressed"),
    "other JSON": (b'{"type": "Topology"}', "its type is 'Topology'"),
    "a number": (b"3", "its type is 'int'"),
    "no objects": (b"[]", "holds no polygons.*Region"),
    "not a feature": (b"[3]", "feature 0 is not a polygon of GeoJSON"),
    "no geometry": (b'[{"type": "Feature"}]', "feature 0 is not a polygon of GeoJSON"),
    "only points": (
        json.dumps([feature([1, 2], kind="Point")]).encode(),
        r"holds no polygons \(feature 0 is a Point\)",
    ),
    "two points": (json.dumps([feature([[[0, 0], [1, 1], [0, 0]]])]).encode(), "feature 0 .*outline has only 2 points"),
    "NaN": (json.dumps([feature([[[0, 0], [1, float("nan")], [1, 1]]])]).encode(), "feature 0 .*pairs of numbers"),
    "words": (json.dumps([feature([[["a", "b"]] * 4])]).encode(), "feature 0 is not a polygon of GeoJSON"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_file_is_refused_by_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "case-17.geojson"
    path.write_bytes(BAD[what][0])
    with pytest.raises(LabelError, match=f"^case-17.geojson.*{BAD[what][1]}"):
        open_annotations(path, SHAPE, ("Tumor",))


def test_file_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SlideReadError, match=r"none.geojson cannot be opened"):
        open_annotations(tmp_path / "none.geojson", SHAPE, ("Tumor",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsample": 0.5}, "downsample .* not 0.5"),
        ({"classes": ()}, "0 classes"),
        ({"classes": ("Tumor", "Tumor")}, "'Tumor' is requested twice"),
        ({"background": ("Tumor",)}, "'Tumor' is requested twice"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, feature(square(0, 0, 4)), **options)


def test_the_first_region_is_qupaths_own() -> None:
    assert REGIONS[0] == "Region*"
