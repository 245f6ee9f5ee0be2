"""Only tissue is computed, and what is computed is what a run of the whole slide gives there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image_label import ImageLabel
from skimage import measure

import wsipipe
from tests.faults import assert_same_bytes, files, write_model, write_slide
from tests.real_data import data, needs_data
from tests.slides.made import patch, tile_at
from tests.soak import rounds
from tests.tissue.drawn import disc, glass, on_glass
from wsipipe.errors import UsageError
from wsipipe.events import BlockDone, Event, TissueFound, ignore
from wsipipe.geometry.grid import Box
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import read_model_info
from wsipipe.pipeline.run_plan import plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.summary import DONE, FAILED, NO_TISSUE, SKIPPED, RunSummary
from wsipipe.slides.slide import choose_level
from wsipipe.store import content, lifecycle
from wsipipe.store.pyramid import halve
from wsipipe.tissue.detect import find_tissue

SHAPE = (600, 800)
WHERE = disc((250, 150), 90, SHAPE) | disc((500, 700), 40, SHAPE)
LEFT_OUT = 0.001
"""Share of what a model finds on a slide that may lie beyond its tissue."""
SHARES = {"probabilities": True, "uncertainty": True}
"""What a run writes beside labels."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tissue") / "b.safetensors")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("tissue") / "case.tif", on_glass(WHERE))


def run(slide: Path, out: Path, model: Path, listener: Any = ignore, **options: Any) -> RunSummary:
    values = {"block": 512, "tile": 128, "threads": 2, "device": "cpu", "engine": "torch"} | options
    return wsipipe.run([slide], wsipipe.RunConfig(out=str(out), model=str(model), **values), listener)


def array(out: Path, name: str = "0") -> np.ndarray:
    return np.asarray(zarr.open_array(out / "case.zarr" / name, mode="r")[...])


def pixels_in(out: Path, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Which pixels of the slide are in by the mask in the store, by its scale and translation alone."""
    group = zarr.open_group(out / "case.zarr" / "tissue", mode="r")
    mpp = json.loads((out / "case.zarr" / "zarr.json").read_text())["attributes"]["wsipipe"]["fingerprint"]["mpp"]
    (multiscale,) = group.attrs["ome"]["multiscales"]
    scale, translation = (
        transformation[transformation["type"]]
        for transformation in multiscale["datasets"][0]["coordinateTransformations"]
    )
    mask = np.asarray(group["0"][...])
    rows, cols = (
        np.rint((np.arange(n) * mpp - offset) / step).astype(int).clip(0, count - 1)
        for n, offset, step, count in zip(shape, translation, scale, mask.shape, strict=True)
    )
    inside: np.ndarray = mask[rows][:, cols] > 0
    return inside


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, slide: Path, model: Path) -> Path:
    """The results of a run that looks everywhere."""
    out = tmp_path_factory.mktemp("whole")
    assert run(slide, out, model, tile=64, tissue="off", **SHARES).slides[0].skipped == 0
    assert not (out / "case.zarr" / "tissue").exists()
    return out


SIZES = [(128, 64), (128, 32), (1024, 512), (256, 256), (96, 48)]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", rounds(SIZES[:2], SIZES), ids=len)
@pytest.mark.parametrize(
    ("tissue", "probabilities"), [("auto", False), *rounds(("file", True), ("auto", True), ("file", False))]
)
def test_inside_labels_are_those_of_the_whole_slide_and_outside_they_are_0(
    tmp_path: Path,
    slide: Path,
    model: Path,
    whole: Path,
    tissue: str,
    probabilities: bool,
    sizes: list[tuple[int, int]],
) -> None:
    given = tmp_path / "mask.png"
    given.write_bytes(imagecodecs.png_encode((np.random.default_rng(0).random((9, 12)) < 0.1).astype(np.uint8)))
    masks = []
    for block, tile in sizes:
        out, heard = tmp_path / f"{block}-{tile}", list[Event]()
        options = {"block": block, "tile": tile, **(SHARES if probabilities else {})}
        options |= {"tissue": str(given) if tissue == "file" else tissue}
        (outcome,) = run(slide, out, model, heard.append, **options).slides
        assert outcome.status == DONE
        inside = pixels_in(out)
        masks.append(inside)
        assert 0.05 < inside.mean() < 0.5
        assert np.array_equal(array(out), array(whole) * inside)
        if probabilities:
            found, wanted = array(out, "probabilities/0"), array(whole, "probabilities/0") * inside
            assert np.abs(found.astype(int) - wanted).max() <= 1, "small tiles add up in another order"
            assert not found[:, ~inside].any()
            uncertain = array(out, "uncertainty/0")
            assert np.abs(uncertain.astype(int) - array(whole, "uncertainty/0") * inside).max() <= 1
            assert not uncertain[~inside].any()
        assert outcome.skipped == sum(event.skipped for event in heard if isinstance(event, BlockDone))
        assert outcome.skipped > 0
        assert outcome.skipped <= (~inside).sum()
        assert (outcome.tissue_share, outcome.tissue_by) == next(
            (event.share, event.how) for event in heard if isinstance(event, TissueFound)
        )
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    assert array(whole)[~masks[0]].any(), "else nothing is shown"
    if tissue == "auto" and not probabilities:
        assert masks[0][WHERE].all()
        assert_same_bytes(tmp_path / "128-64" / "case.zarr", tmp_path / "128-32" / "case.zarr")


def test_the_mask_is_an_image_label_over_the_whole_slide(tmp_path: Path, slide: Path, model: Path) -> None:
    run(slide, tmp_path, model)
    group = zarr.open_group(tmp_path / "case.zarr" / "tissue", mode="r")
    ImageLabel.from_zarr(group)
    (multiscale,) = group.attrs["ome"]["multiscales"]
    for dataset in multiscale["datasets"]:
        (scale, translation) = dataset["coordinateTransformations"]
        extent = np.array(scale["scale"]) * group[dataset["path"]].shape
        assert np.allclose(extent, np.array(SHAPE) * 0.5)
        assert np.allclose(translation["translation"], (np.array(scale["scale"]) - 0.5) / 2)


def test_of_a_large_mask_there_is_a_pyramid(tmp_path: Path, slide: Path, model: Path) -> None:
    mask = (np.random.default_rng(0).random((750, 1000)) < 0.5).astype(np.uint8)
    (tmp_path / "m.png").write_bytes(imagecodecs.png_encode(mask))
    run(slide, tmp_path, model, tissue=str(tmp_path / "m.png"))
    levels = [array(tmp_path, f"tissue/{level}") for level in range(2)]
    assert np.array_equal(levels[0], mask)
    assert np.array_equal(levels[1], halve(mask))
    assert levels[1].shape == (375, 500)
    ImageLabel.from_zarr(zarr.open_group(tmp_path / "case.zarr" / "tissue", mode="r"))


def test_without_tissue_a_slide_is_complete_but_not_done(tmp_path: Path, model: Path) -> None:
    slide = write_slide(tmp_path / "case.tif", glass(SHAPE))
    summary = run(slide, tmp_path / "out", model, **SHARES)
    (outcome,) = summary.slides
    assert (outcome.status, summary.exit_code, summary.count(DONE)) == (NO_TISSUE, 0, 0)
    assert [warning for warning in outcome.warnings if "no tissue found" in warning]
    assert (outcome.skipped, outcome.computed, outcome.pixels) == (600 * 800, 0, 600 * 800)
    assert not array(tmp_path / "out").any()
    assert not array(tmp_path / "out", "probabilities/0").any()
    assert not array(tmp_path / "out", "uncertainty/0").any()
    (again,) = run(slide, tmp_path / "out", model, **SHARES).slides
    assert (again.status, again.message) == (SKIPPED, "complete, no tissue found")
    everywhere = run(slide, tmp_path / "out", model, tissue="off", overwrite=True)
    assert everywhere.slides[0].status == DONE


def test_blocks_without_tissue_are_not_read(tmp_path: Path, model: Path, whole: Path) -> None:
    slide = write_slide(tmp_path / "case.tif", on_glass(WHERE))
    patch(slide, tile_at(slide, 3)[0], bytes(64))  # the tile [0:256, 768:800] of level 0 cannot be decoded any more
    broken = run(slide, tmp_path / "off", model, tissue="off", block=256)
    assert broken.slides[0].status == FAILED
    assert run(slide, tmp_path / "auto", model, block=256).slides[0].status == DONE
    assert np.array_equal(array(tmp_path / "auto"), array(whole) * pixels_in(tmp_path / "auto"))


def test_a_low_level_that_cannot_be_read_fails_the_slide_and_names_the_way_out(tmp_path: Path, model: Path) -> None:
    slide = write_slide(tmp_path / "case.tif", on_glass(WHERE))
    patch(slide, tile_at(slide, 0, page=1)[0], bytes(64))
    (outcome,) = run(slide, tmp_path / "out", model).slides
    assert outcome.status == FAILED
    assert "case.tif level 1 cannot be read" in outcome.message
    assert "segment all of it: --tissue off" in outcome.message
    assert run(slide, tmp_path / "out", model, tissue="off", overwrite=True).slides[0].status == DONE


def test_a_run_that_is_resumed_takes_the_mask_that_is_there(
    tmp_path: Path, slide: Path, model: Path, whole: Path
) -> None:
    (plan,) = plan_run([slide], resolve(wsipipe.RunConfig(out=str(tmp_path), model=str(model), block=128))).planned
    lifecycle.begin_store(plan.store)
    cells = np.zeros(plan.store.tissue or (), bool)
    cells[20:30, 10:15] = True
    content.write_tissue(plan.store, cells)
    (outcome,) = run(slide, tmp_path, model).slides
    assert (outcome.tissue_by, outcome.tissue_share) == ("found before", pytest.approx(cells.mean()))
    assert np.array_equal(array(tmp_path, "tissue/0"), cells)
    assert np.array_equal(array(tmp_path), array(whole) * pixels_in(tmp_path))


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_mask_that_was_lost_is_made_again(tmp_path: Path, slide: Path, model: Path, damage: str) -> None:
    run(slide, tmp_path, model)
    store = tmp_path / "case.zarr"
    before, shard = files(store), store / "tissue" / "0" / "c" / "0" / "0"
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-5])
    (outcome,) = run(slide, tmp_path, model).slides
    assert (outcome.status, outcome.blocks_computed) == (DONE, 0)
    assert files(store).keys() == before.keys()
    assert files(store)["tissue/0/c/0/0"] == before["tissue/0/c/0/0"]


def test_another_mask_is_another_result(tmp_path: Path, slide: Path, model: Path) -> None:
    run(slide, tmp_path, model)
    (refused,) = run(slide, tmp_path, model, tissue="off").slides
    assert refused.status == FAILED
    assert "was made with --tissue auto 1 (now off)" in refused.message
    assert run(slide, tmp_path, model, tissue="off", overwrite=True).slides[0].status == DONE
    assert not (tmp_path / "case.zarr" / "tissue").exists()


def test_stores_of_before_there_were_masks_looked_everywhere(tmp_path: Path, slide: Path, model: Path) -> None:
    run(slide, tmp_path, model, tissue="off")
    root = tmp_path / "case.zarr" / "zarr.json"
    document = json.loads(root.read_text())
    assert document["attributes"]["wsipipe"]["fingerprint"].pop("tissue") == "off"
    root.write_text(json.dumps(document))
    assert run(slide, tmp_path, model, tissue="off").slides[0].status == SKIPPED


def test_what_was_skipped_is_in_the_store(tmp_path: Path, slide: Path, model: Path) -> None:
    (outcome,) = run(slide, tmp_path, model).slides
    record = zarr.open_group(tmp_path / "case.zarr", mode="r").attrs["wsipipe"]["run"]
    assert record["skipped"] == outcome.skipped > 0
    assert record["tissue"] == {"share": outcome.tissue_share, "how": "brightfield"}


def test_the_mask_of_a_file_is_of_one_slide(tmp_path: Path, slide: Path, model: Path) -> None:
    other = write_slide(tmp_path / "other.tif", glass(SHAPE))
    (tmp_path / "m.png").write_bytes(imagecodecs.png_encode(np.ones((6, 8), np.uint8)))
    config = wsipipe.RunConfig(out=str(tmp_path), model=str(model), tissue=str(tmp_path / "m.png"))
    with pytest.raises(UsageError, match="is the mask of one slide, but 2 slides are given"):
        wsipipe.run([slide, other], config)


def share_left_out(path: Path, everywhere: np.ndarray, box: Box, mpp: float | None = None) -> float:
    """Share of the objects of the nuclei model in ``box`` of a slide, by area, that the slide's tissue mask leaves out.

    What is below the least area of the model's objects, such as a speck of dirt on the glass, is none.
    """
    model = read_model_info(DEFAULT_MODEL)
    slide = wsipipe.open_slide(path, mpp=mpp)
    mask, _ = find_tissue(slide, choose_level(slide, model.spec.mpp), halo=model.receptive.halo)
    assert model.spec.mpp is not None
    pieces = measure.label(everywhere, connectivity=1)
    objects = np.where(
        np.bincount(pieces.ravel())[pieces] * model.spec.mpp**2 >= model.spec.min_area_um2, everywhere, 0
    )
    inside = objects.copy()
    mask.clear_outside(inside, box)
    found = np.count_nonzero(objects)
    assert found > 5_000
    return 1 - np.count_nonzero(inside) / found


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("box", rounds(Box(320, 960, 2560, 3200), Box(0, 3567, 0, 4443)), ids=str)
def test_no_nucleus_of_a_real_slide_is_left_out(box: Box) -> None:
    """In a part with a nucleus at the edge of the tissue. For another slide see `tests.test_exactness`."""
    path = data("slides/tcga-cr-7395-01a-01-ts1.svs")
    labels = wsipipe.segment(path, DEFAULT_MODEL, block=320, device="cpu", mpp=0.5)
    everywhere = labels[box.slices].compute(scheduler="synchronous")
    assert everywhere.shape == box.shape
    assert share_left_out(path, everywhere, box, mpp=0.5) <= LEFT_OUT
