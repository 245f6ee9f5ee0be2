"""Only a region is computed, and what is computed is what a run of the whole slide gives there."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr

import wsipipe
from tests.faults import assert_same_bytes, write_model, write_slide
from tests.report.nights import night
from tests.slides.made import patch, tile_at
from tests.tissue.drawn import disc, glass, on_glass
from wsipipe.errors import UsageError
from wsipipe.events import BlockDone, Event, SlideStarted, TissueFound, ignore
from wsipipe.geometry.grid import Box
from wsipipe.pictures.drawing import REGION_OUTLINE, inner_edge
from wsipipe.pictures.thumbnail import summarise
from wsipipe.pipeline.summary import DONE, FAILED, NO_TISSUE, SKIPPED, RunSummary
from wsipipe.report.page import page
from wsipipe.report.record import SlideReport
from wsipipe.store.check import check_store
from wsipipe.viewer.items import open_item
from wsipipe.viewer.plots import layers_of
from wsipipe.viewer.result_tiles import region_tile

SHAPE = (600, 800)
WHERE = disc((250, 150), 90, SHAPE) | disc((500, 700), 40, SHAPE)
ROI = "101,77,333.0,0.1mm"
REGION = np.s_[77:277, 101:434]
"""The same in pixels, at 0.5 micrometres per pixel."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("region") / "b.safetensors")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("region") / "case.tif", on_glass(WHERE))


def run(slide: Path, out: Path, model: Path, listener: Any = ignore, **options: Any) -> RunSummary:
    values = {"block": 256, "tile": 128, "threads": 2, "device": "cpu", "engine": "torch"} | options
    return wsipipe.run([slide], wsipipe.RunConfig(out=str(out), model=str(model), **values), listener)


def array(out: Path, name: str = "0") -> np.ndarray:
    return np.asarray(zarr.open_array(out / "case.zarr" / name, mode="r")[...])


@pytest.fixture(scope="module", params=["off", "auto"])
def tissue(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, slide: Path, model: Path, tissue: str) -> Path:
    """The results of a run of the whole slide, with probabilities."""
    out = tmp_path_factory.mktemp("whole")
    run(slide, out, model, tissue=tissue, probabilities=True)
    return out


def test_inside_labels_are_those_of_the_whole_slide_and_outside_they_are_0(
    tmp_path: Path, slide: Path, model: Path, whole: Path, tissue: str
) -> None:
    heard = list[Event]()
    options = {"tissue": tissue, "roi": ROI, "probabilities": True}
    (outcome,) = run(slide, tmp_path, model, heard.append, **options).slides
    inside = np.zeros(SHAPE, bool)
    inside[REGION] = True
    assert outcome.status == DONE
    assert np.array_equal(array(tmp_path), array(whole) * inside)
    assert array(whole)[~inside].any()
    assert array(tmp_path).any()
    found, wanted = array(tmp_path, "probabilities/0"), array(whole, "probabilities/0") * inside
    assert np.abs(found.astype(int) - wanted).max() <= 1, "small tiles add up in another order"
    assert not found[:, ~inside].any()

    # What is outside the region is counted by itself, and is not glass.
    blocks = [event for event in heard if isinstance(event, BlockDone)]
    assert outcome.outside == sum(block.outside for block in blocks) == (~inside).sum()
    assert outcome.skipped == sum(block.skipped for block in blocks) <= inside.sum()
    assert (outcome.skipped > 0) == (tissue == "auto")
    assert 0 < outcome.computed < prod(SHAPE) * 2
    (started,) = [event for event in heard if isinstance(event, SlideStarted)]
    assert outcome.region_share == started.region_share == pytest.approx(inside.mean())
    record = zarr.open_group(tmp_path / "case.zarr", mode="r").attrs["wsipipe"]
    assert record["run"]["region"] == {"share": outcome.region_share}
    assert record["run"]["outside"] == outcome.outside
    assert record["fingerprint"]["region"] == "101,77,333,200"
    if tissue == "auto":  # the mask is that of the whole slide, its share that of the region
        mask = array(tmp_path, "tissue/0")
        assert np.array_equal(mask, array(whole, "tissue/0"))
        rows, cols = (((2 * np.arange(n) + 1) * m) // (2 * n) for n, m in zip(SHAPE, mask.shape, strict=True))
        share = mask[rows][:, cols][REGION].mean()
        assert [event.share for event in heard if isinstance(event, TissueFound)] == [pytest.approx(share)]
        assert outcome.skipped <= (1 - share) * inside.sum()

    again = run(slide, tmp_path / "again", model, block=128, tile=64, **options)
    assert again.slides[0].status == DONE
    assert np.array_equal(array(tmp_path / "again"), array(tmp_path))
    assert check_store(tmp_path / "case.zarr", 1).damages == ()
    (tmp_path / "case.zarr" / "region.geojson").unlink()
    assert "region.geojson is gone" in check_store(tmp_path / "case.zarr", 1).damages[0]


def test_only_the_region_is_read(tmp_path: Path, model: Path) -> None:
    slide = write_slide(tmp_path / "case.tif", on_glass(WHERE))
    patch(slide, tile_at(slide, 3)[0], bytes(64))  # the tile [0:256, 768:800] of level 0 cannot be decoded any more
    assert run(slide, tmp_path / "a", model, tissue="off").slides[0].status == FAILED
    assert run(slide, tmp_path / "b", model, tissue="off", roi=ROI).slides[0].status == DONE


def two_lines(inside: np.ndarray) -> np.ndarray:
    """The pixels of ``inside`` at most two from its edge."""
    first = inner_edge(inside)
    return first | inner_edge(inside & ~first)


def test_polygons_of_a_file_are_one_slides_region_and_densities_are_those_of_the_region(
    tmp_path: Path, slide: Path, model: Path
) -> None:
    corners = [[101, 77], [434, 77], [434, 277], [101, 277], [101, 77]]
    document = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corners]}}
    (tmp_path / "roi.geojson").write_text(json.dumps(document))
    options = {"roi": str(tmp_path / "roi.geojson"), "tissue": "off", "objects": True, "min_area_um2": 0.0}
    (outcome,) = run(slide, tmp_path, model, **options).slides
    (other,) = run(slide, tmp_path / "b", model, **options | {"roi": ROI}).slides
    assert np.array_equal(array(tmp_path), array(tmp_path / "b"))
    mm2 = 333 * 200 * 0.25 / 1e6
    assert outcome.objects == other.objects
    assert any(one.objects for one in outcome.objects)
    for one in outcome.objects:
        assert one.per_mm2 == pytest.approx(one.objects / mm2)
    found = summarise(str(slide), str(tmp_path / "case.zarr"))
    assert found.region_share == pytest.approx(333 * 200 / prod(SHAPE))
    for area in found.classes:
        assert area.share == pytest.approx(area.pixels / (333 * 200))
    assert not found.notes

    # It is outlined wherever the result is shown, and called a region.
    inside = np.zeros(SHAPE, bool)
    inside[REGION] = True
    image = imagecodecs.jpeg8_decode(found.thumbnail.jpeg).astype(int)
    line = np.abs(image - REGION_OUTLINE).sum(2) < 150
    rows, cols = np.nonzero(line)
    scale = SHAPE[0] / found.thumbnail.shape[0]
    assert np.allclose(np.array([rows.min(), rows.max(), cols.min(), cols.max()]) * scale, [77, 277, 101, 434], atol=5)
    text = page(night(SlideReport(str(slide), DONE, store=outcome.store, pixels=100, outside=86)), {0: found}, ())
    for known in ("region on 13.9% of the slide", "of region", "86% outside the region"):
        assert known in text
    item = open_item(tmp_path / "case.zarr")
    assert layers_of(item) == ["slide", "labels", "region"]
    assert item.region is not None
    tile = region_tile(item.region, Box(0, 150, 0, 200), 4)
    assert np.array_equal(tile[..., 3] > 0, two_lines(inside[2::4, 2::4]))
    (drawn,) = [layer for layer in wsipipe.napari_layers(tmp_path / "case.zarr") if layer[2] == "shapes"][:1]
    assert drawn[1]["name"] == "case region"
    assert {tuple(corner) for corner in drawn[0][0]} == {(77, 101), (77, 434), (277, 101), (277, 434)}

    config = wsipipe.RunConfig(out=str(tmp_path), model=str(model), roi=options["roi"])
    second = write_slide(tmp_path / "other.tif", glass(SHAPE))
    with pytest.raises(UsageError, match=r"roi\.geojson is the region of one slide, but 2 slides are given"):
        wsipipe.run([slide, second], config)


def test_another_region_is_another_result_and_an_interrupted_one_resumes(
    tmp_path: Path, slide: Path, model: Path
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, BlockDone) and event.computed:
            raise KeyboardInterrupt

    run(slide, tmp_path / "a", model, roi=ROI)
    with pytest.raises(KeyboardInterrupt):
        run(slide, tmp_path / "b", model, interrupt, roi=ROI)
    (resumed,) = run(slide, tmp_path / "b", model, roi=ROI).slides
    assert resumed.status == DONE
    assert 0 < resumed.blocks_computed < resumed.blocks
    assert_same_bytes(tmp_path / "a" / "case.zarr", tmp_path / "b" / "case.zarr")
    assert run(slide, tmp_path / "b", model, roi="101px,77,333,200").slides[0].status == SKIPPED
    (refused,) = run(slide, tmp_path / "b", model, roi="0,0,50,50").slides
    assert "was made with --roi 101,77,333,200 (now 0,0,50,50)" in refused.message
    (refused,) = run(slide, tmp_path / "b", model).slides
    assert "was made with --roi 101,77,333,200 (now none)" in refused.message


def test_a_region_of_glass_has_no_tissue_and_one_beyond_the_slide_is_refused(
    tmp_path: Path, slide: Path, model: Path
) -> None:
    (outcome,) = run(slide, tmp_path, model, roi="600,10,100,100").slides
    assert (outcome.status, outcome.computed, outcome.skipped) == (NO_TISSUE, 0, 100 * 100)
    assert "no tissue found in the region" in outcome.message
    (outcome,) = run(slide, tmp_path / "b", model, roi="800,600,9,9").slides
    assert outcome.status == FAILED
    assert outcome.message.startswith("--roi 800,600,9,9 is outside case.tif")
    assert not (tmp_path / "b").exists() or not any((tmp_path / "b").iterdir())
