"""A region as a user gives it, as polygons of the slide, and as pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from tests.slides.made import picture, pyramid
from wsipipe.errors import LabelError, ResolutionError, SlideError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.region import parse_region, read_region, region_identity, region_of
from wsipipe.slides.open import open_slide
from wsipipe.slides.slide import Slide, with_mpp

WHOLE = Box(0, 160, 0, 240)
LEAF = [[20.3, 10.2], [90.7, 30.1], [60.2, 140.9], [20.3, 10.2]]


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    pyramid(tmp_path / "s.tif", picture((160, 240, 3)), levels=2)
    return with_mpp(open_slide(tmp_path / "s.tif"), 0.25)


def drawn(path: Path, *rings: list[list[float]]) -> str:
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


@pytest.mark.parametrize("text", ["40,20,100,80", " 40 , 20px, 25um,0.02mm", "10um,5um,100,80.0", "10µm,20,100,20um"])
def test_lengths_are_pixels_of_level_0_unless_they_have_a_unit(slide: Slide, text: str) -> None:
    asked = parse_region(text)
    wanted = np.zeros(WHOLE.shape, bool)
    wanted[20:100, 40:140] = True
    region = region_of(asked, slide, slide.levels[0])
    assert np.array_equal(region.inside(WHOLE), wanted)
    assert region.share == pytest.approx(wanted.mean())
    assert region_identity(asked, slide) == "40,20,100,80"
    half = region_of(asked, slide, slide.levels[1])
    assert np.array_equal(half.inside(Box(0, 80, 0, 120)), wanted[::2, ::2])
    assert half.share == pytest.approx(wanted.mean())


def test_polygons_are_drawn_by_the_centres_of_pixels_in_any_box_and_are_the_same_when_read_back(
    tmp_path: Path, slide: Slide
) -> None:
    beside = [[80.0, 20.0], [230.0, 20.0], [230.0, 40.0], [80.0, 40.0]]  # overlaps the leaf
    region = region_of(parse_region(drawn(tmp_path / "r.geojson", LEAF, beside)), slide, slide.levels[0])
    both = shapely.union(shapely.Polygon(LEAF), shapely.Polygon(beside))
    x, y = np.meshgrid(np.arange(240) + 0.5, np.arange(160) + 0.5)
    inside = region.inside(WHOLE)
    assert np.array_equal(inside, shapely.contains_xy(both, x, y))
    box = Box(15, 77, 60, 111)
    assert np.array_equal(region.inside(box), inside[box.slices])
    assert region.share == pytest.approx(both.area / inside.size)
    again = read_region(region.as_geojson(), "region.geojson", region.plane, region.downsample)
    assert np.array_equal(again.inside(WHOLE), inside)
    few, bounds, step = region.sampled(4000)
    assert few.size <= 4000 < bounds.shape[0] * bounds.shape[1]
    assert step == 3
    assert few.mean() == pytest.approx(inside[bounds.slices].mean(), abs=0.02)


def test_what_reaches_beyond_the_slide_is_cut_off(slide: Slide) -> None:
    region = region_of(parse_region("200,150,1000,1000"), slide, slide.levels[0])
    assert region.bounds == Box(150, 160, 200, 240)
    assert region.share == pytest.approx(10 * 40 / (160 * 240))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", r"--roi '1,2,3' must be x,y,width,height in pixels of level 0"),
        ("1,2,3,4,5", "must be x,y,width,height"),
        ("-1,2,3,4", "must be x,y,width,height"),
        ("1,2,3in,4", "must be x,y,width,height"),
        ("mask.png", r"or a file of annotations \(.geojson, .json, .xml\)"),
        ("1,2,0,4", "--roi 1,2,0,4 is empty: width and height must be more than 0"),
        ("gone.geojson", "--roi gone.geojson cannot be read: No such file"),
    ],
)
def test_what_is_no_region_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_region(text)


def test_a_region_that_does_not_suit_the_slide_is_refused_by_name(tmp_path: Path, slide: Slide) -> None:
    def error(text: str, of: Slide = slide) -> SlideError:
        with pytest.raises(SlideError) as caught:
            region_of(parse_region(text), of, of.levels[-1])
        return caught.value

    beyond = error("240,0,10,20")
    assert isinstance(beyond, LabelError)
    assert str(beyond) == (
        "--roi 240,0,10,20 is outside s.tif: it spans x = 240 to 250 and y = 0 to 20 px, "
        "but the slide is 240 wide x 160 high at level 0"
    )
    far = [[x + 500, y] for x, y in LEAF]
    assert "r.geojson is outside s.tif: it spans x = 520 to 591" in str(error(drawn(tmp_path / "r.geojson", far)))
    assert "1.2,1.2,0.4,9 holds the centre of no pixel of s.tif" in str(error("1.2,1.2,0.4,9"))
    assert "r.geojson holds no polygons" in str(error(drawn(tmp_path / "r.geojson")))
    others = {"images": [{"id": 1, "file_name": "s.tif"}, {"id": 2, "file_name": "t.tif"}], "categories": []}
    (tmp_path / "r.json").write_text(json.dumps(others | {"annotations": []}))
    assert "r.json is empty: it has no polygon for s.tif" in str(error(str(tmp_path / "r.json")))
    unknown = open_slide(slide.path)
    assert unknown.mpp is None
    assert isinstance(error("0,0,1mm,1mm", unknown), ResolutionError)
    assert "s.tif has no micrometres per pixel" in str(error("0,0,1mm,1mm", unknown))
