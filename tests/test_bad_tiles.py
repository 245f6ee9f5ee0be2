"""Tiles that cannot be decoded: the slide fails and names them, or what they reach is label 0 and nothing else is."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import wsipipe
from tests.faults import assert_same_bytes, picture, write_model, write_slide
from tests.slides.made import ome_zarr, patch, tile_at
from tests.soak import in_soak
from tests.tissue.drawn import disc, on_glass
from wsipipe.events import BlockDone, Event, TissueFound
from wsipipe.geometry.grid import Box, Grid
from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import Receptive, UNetSizes
from wsipipe.model.model_file import read_model_info
from wsipipe.pipeline import run as batch
from wsipipe.pipeline.objects_plan import ObjectsRequest, plan_objects
from wsipipe.pipeline.objects_store import make_objects
from wsipipe.pipeline.summary import RunSummary, SlideOutcome

SHAPE = (700, 900)
BAD = (3, 6)
"""Numbers of tiles of 256 px, of four in a row: one in a corner, one amid the slide."""
TILES = [Box(0, 256, 768, 900), Box(256, 512, 512, 768)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bad") / "b.safetensors")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A slide, and the same with two tiles whose data are torn."""
    folder = tmp_path_factory.mktemp("slides")
    intact, torn = (write_slide(folder / name, picture(SHAPE)) for name in ("intact.tif", "torn.tif"))
    for number in BAD:
        offset, count = tile_at(torn, number)
        patch(torn, offset + count // 2, b"\xff" * 40)
    return intact, torn


def run(slide: Path, out: Path, model: Path, **options: Any) -> RunSummary:
    values = {"block": 256, "tile": 128, "device": "cpu", "engine": "torch", "tissue": "off"} | options
    return wsipipe.run([slide], wsipipe.RunConfig(out=str(out), model=str(model), **values))


def labels(out: Path, name: str) -> np.ndarray:
    return np.asarray(zarr.open_array(out / f"{name}.zarr" / "0", mode="r")[...])


@pytest.fixture(scope="module")
def whole(slides: tuple[Path, Path], model: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The labels of the slide that is intact."""
    out = tmp_path_factory.mktemp("whole")
    run(slides[0], out, model)
    return labels(out, "intact")


def record(out: Path, name: str) -> dict[str, Any]:
    document = json.loads((out / f"{name}.zarr" / "zarr.json").read_bytes())
    return document["attributes"]["wsipipe"]["run"]


def cleared(wanted: np.ndarray, tiles: list[Box], model: Path) -> np.ndarray:
    """``wanted``, and 0 where any of ``tiles`` is within what a pixel is computed from."""
    grid = Grid(wanted.shape, read_model_info(model).receptive, 64, 256)
    wanted = wanted.copy()
    for tile in tiles:
        wanted[grid.reached_from(tile).slices] = 0
    return wanted


def test_a_slide_fails_with_all_the_regions_that_cannot_be_read(
    slides: tuple[Path, Path], tmp_path: Path, model: Path
) -> None:
    summary = run(slides[1], tmp_path, model)
    (slide,) = summary.slides
    assert (slide.status, summary.exit_code) == ("failed", 1)
    for number in BAD:
        assert f"tile {number} " in slide.message
    assert slide.message.count("torn.tif level 0 cannot be read at [") == 2 < slide.blocks - slide.blocks_computed
    assert "--on-bad-tile fill" in slide.message
    assert not (tmp_path / "torn.zarr").exists()


@pytest.mark.parametrize("sizes", [{}, *in_soak({"block": 128, "tile": 128}, {"block": 512, "tile": 32})])
def test_what_a_bad_tile_reaches_is_0_and_all_else_as_if_it_were_whole(
    slides: tuple[Path, Path], whole: np.ndarray, tmp_path: Path, model: Path, sizes: dict[str, int]
) -> None:
    summary = run(slides[1], tmp_path, model, on_bad_tile="fill", probabilities=True, uncertainty=True, **sizes)
    (slide,) = summary.slides
    assert (slide.status, summary.exit_code) == ("done", 0)
    expected = cleared(whole, TILES, model)
    np.testing.assert_array_equal(labels(tmp_path, "torn"), expected)
    assert 0 < np.count_nonzero(expected) < np.count_nonzero(whole)
    probabilities = np.asarray(zarr.open_array(tmp_path / "torn.zarr" / "probabilities" / "0", mode="r")[...])
    uncertainty = np.asarray(zarr.open_array(tmp_path / "torn.zarr" / "uncertainty" / "0", mode="r")[...])
    for shares in (probabilities, uncertainty):
        assert shares.any()
        assert not shares[..., TILES[1].y0 : TILES[1].y1, TILES[1].x0 : TILES[1].x1].any()
    assert record(tmp_path, "torn")["unread"]["tiles"] == [[t.y0, t.y1, t.x0, t.x1] for t in TILES]
    assert any(f"could not decode tiles {TILES[0]}; {TILES[1]}; " in warning for warning in slide.warnings)


def test_what_a_pixel_is_computed_from_is_no_more_than_is_cleared(
    whole: np.ndarray, tmp_path: Path, model: Path
) -> None:
    """A tile of other pixels changes labels only where a tile that cannot be decoded would clear them."""
    image = picture(SHAPE)
    for tile in TILES:
        image[tile.slices] = 255 - image[tile.slices]
    run(write_slide(tmp_path / "other.tif", image), tmp_path, model)
    one, other = whole, labels(tmp_path, "other")
    np.testing.assert_array_equal(cleared(other, TILES, model), cleared(one, TILES, model))
    assert (one != other).any()


@pytest.mark.parametrize("sizes", [{"block": 128, "tile": 128}, *in_soak({})])
def test_tiles_are_cleared_through_another_resolution(tmp_path: Path, model: Path, sizes: dict[str, int]) -> None:
    intact, torn = (write_slide(tmp_path / f"{name}.tif", picture(SHAPE), mpp=0.31) for name in ("intact", "torn"))
    shrunk = {"mpp": 0.31}
    offset, count = tile_at(torn, BAD[1])
    patch(torn, offset + count // 2, b"\xff" * 40)
    run(intact, tmp_path / "out", model, **shrunk)
    run(torn, tmp_path / "out", model, on_bad_tile="fill", **shrunk, **sizes)
    shrink = 0.5 / 0.31
    box = TILES[1]
    tile = Box(int(box.y0 / shrink), -int(-box.y1 // shrink), int(box.x0 / shrink), -int(-box.x1 // shrink))
    expected = cleared(labels(tmp_path / "out", "intact"), [tile], model)
    np.testing.assert_array_equal(labels(tmp_path / "out", "torn"), expected)


@pytest.mark.soak  # what a run and `wsipipe objects` measure is the same wherever it is tested
def test_objects_are_those_of_the_labels_that_are_left(slides: tuple[Path, Path], tmp_path: Path, model: Path) -> None:
    run(slides[1], tmp_path / "run", model, on_bad_tile="fill", objects=True)
    run(slides[1], tmp_path / "after", model, on_bad_tile="fill")
    store = tmp_path / "after" / "torn.zarr"
    assert make_objects(plan_objects(store, ObjectsRequest()), 1, 2**40, lambda _done, _blocks: None).made
    assert_same_bytes(tmp_path / "run" / "torn.zarr", store)


def test_a_slide_that_is_mended_in_part_still_names_its_bad_tiles(
    slides: tuple[Path, Path], tmp_path: Path, model: Path
) -> None:
    run(slides[1], tmp_path, model, on_bad_tile="fill")
    before = record(tmp_path, "torn")["unread"]["tiles"]
    (tmp_path / "torn.zarr" / "0" / "c" / "2" / "3").unlink()
    (slide,) = run(slides[1], tmp_path, model, on_bad_tile="fill").slides
    assert slide.blocks_computed == 1
    assert record(tmp_path, "torn")["unread"]["tiles"] == before
    assert len(before) == 2


def test_a_chunk_of_an_ome_zarr_is_a_tile_too(tmp_path: Path, model: Path) -> None:
    image = np.moveaxis(picture((300, 400)), -1, 0)
    for name in ("intact", "torn"):
        ome_zarr(tmp_path / f"{name}.zarr", [image], "cyx")
    chunk = tmp_path / "torn.zarr" / "0" / "c" / "1" / "2" / "3"
    chunk.write_bytes(chunk.read_bytes()[:40])
    out = tmp_path / "out"
    run(tmp_path / "intact.zarr", out, model)
    assert run(tmp_path / "torn.zarr", out, model).exit_code == 1
    assert run(tmp_path / "torn.zarr", out, model, on_bad_tile="fill", overwrite=True).exit_code == 0
    expected = cleared(labels(out, "intact"), [Box(128, 192, 192, 256)], model)
    np.testing.assert_array_equal(labels(out, "torn"), expected)


def test_where_tissue_is_cannot_be_seen_in_a_bad_tile_so_all_is_looked_at(tmp_path: Path, model: Path) -> None:
    slide = write_slide(tmp_path / "a.tif", picture((300, 400)))
    offset, count = tile_at(slide, 0, page=1)
    patch(slide, offset + count // 2, b"\xff" * 40)
    assert run(slide, tmp_path / "fail", model, tissue="auto").exit_code == 1
    (filled,) = run(slide, tmp_path / "fill", model, tissue="auto", on_bad_tile="fill").slides
    assert (filled.status, filled.tissue_share) == ("done", 1.0)


@pytest.mark.parametrize("tissue", ["auto", "off"])
def test_a_slide_of_zeros_is_half_written_and_leaves_nothing(tmp_path: Path, model: Path, tissue: str) -> None:
    slide = write_slide(tmp_path / "a.tif", np.zeros((300, 400, 3), np.uint8))
    for _ in range(2):
        summary = run(slide, tmp_path / "out", model, tissue=tissue)
        assert (summary.exit_code, summary.slides[0].status) == (1, "failed")
        assert "every pixel that was read is zero" in summary.slides[0].message
        assert not list((tmp_path / "out").iterdir())


def test_what_is_to_become_of_bad_tiles_is_part_of_what_a_store_is(
    slides: tuple[Path, Path], tmp_path: Path, model: Path
) -> None:
    run(slides[0], tmp_path, model)
    refused = run(slides[0], tmp_path, model, on_bad_tile="fill")
    assert "was made with --on-bad-tile fail (now fill)" in refused.slides[0].message


# What is easily missed: borders, truncation, kills, and what is said.


def damage(path: Path, *numbers: int) -> Path:
    """Zero the second half of some tiles, which the codec notices."""
    for number in numbers:
        offset, count = tile_at(path, number)
        patch(path, offset + count // 2, bytes(count - count // 2))
    return path


def outcome_of(slide: Path, out: Path, model: Path, **options: Any) -> SlideOutcome:
    (outcome,) = run(slide, out, model, **({"block": 256, "mpp": 0.5} | options)).slides
    return outcome


@pytest.mark.parametrize(
    "receptive", [UNetSizes(0, 1).receptive, UNetSizes(2, 2).receptive, UNetSizes(4, 2).receptive], ids=str
)
def test_what_a_box_reaches_is_what_the_smallest_tiles_that_read_it_give(receptive: Receptive) -> None:
    step, half = receptive.stride, receptive.margin // 2
    core = max(step, -(-half // step) * step)
    for size in range(1, 3 * core + half, 3):
        grid = Grid((size, size), receptive, step, core)
        for start, stop in {(0, 1), (size // 2, size // 2 + 1), (size - 1, size), (0, max(1, size - half - 2))}:
            reached = []
            for cell in range(0, size, step):
                read = mirror(np.arange(cell - half, cell + step + half), size)
                if ((read >= start) & (read < stop)).any():
                    reached += range(cell, min(cell + step, size))
            got = grid.reached_from(Box(start, stop, 0, size))
            assert set(reached) <= set(range(got.y0, got.y1)), (size, start, stop)


@pytest.mark.parametrize("block", [128, 1024])
def test_every_bad_tile_of_a_block_is_named(tmp_path: Path, model: Path, block: int) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1, 8)
    outcome = outcome_of(slide, tmp_path / "out", model, block=block)
    assert outcome.status == "failed"
    assert "tile 1 " in outcome.message
    assert "tile 8 " in outcome.message


def test_what_the_message_says_works(tmp_path: Path, model: Path) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1)
    message = outcome_of(slide, tmp_path / "out", model).message
    way_out = message[message.index("--on-bad-tile fill") :]
    outcome = outcome_of(slide, tmp_path / "out", model, on_bad_tile="fill", overwrite="--overwrite" in way_out)
    assert outcome.status == "done", outcome.message


def test_a_file_that_is_truncated_meanwhile_is_not_filled(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = tmp_path / "case.tif"
    tifffile.imwrite(slide, picture((600, 800)), photometric="rgb", tile=(256, 256), compression="zlib", metadata=None)
    offset, count = tile_at(slide, 11)
    plan_run = batch.plan_run

    def then_truncated(*args: Any, **options: Any) -> Any:
        plan = plan_run(*args, **options)
        assert plan.planned[0].level.array is not None  # it is open
        with slide.open("r+b") as file:
            file.truncate(offset + count // 2)
        return plan

    monkeypatch.setattr(batch, "plan_run", then_truncated)
    outcome = outcome_of(slide, tmp_path / "out", model, on_bad_tile="fill")
    assert outcome.status == "failed"
    assert "was overwritten while it was segmented" in outcome.message
    assert not list((tmp_path / "out").iterdir())


def test_of_tiles_that_no_tissue_needs_nothing_is_told_whatever_the_tile(tmp_path: Path, model: Path) -> None:
    where = disc((250, 150), 90, (600, 800))
    slide = damage(write_slide(tmp_path / "case.tif", on_glass(where)), 1, 3, 11)
    for tile in (64, 512):
        outcome_of(slide, tmp_path / f"{tile}", model, on_bad_tile="fill", block=512, tile=tile, tissue="auto")
    assert_same_bytes(tmp_path / "64" / "case.zarr", tmp_path / "512" / "case.zarr")


def test_nothing_in_a_filled_store_is_foreign_to_zarr(tmp_path: Path, model: Path) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1)
    assert outcome_of(slide, tmp_path / "out", model, on_bad_tile="fill").status == "done"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "0" in dict(zarr.open_group(tmp_path / "out" / "case.zarr", mode="r").members())


def test_how_many_pixels_are_0_for_it_is_told(tmp_path: Path, model: Path) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1)
    outcome = outcome_of(slide, tmp_path / "out", model, on_bad_tile="fill")
    root = json.loads((tmp_path / "out" / "case.zarr" / "zarr.json").read_text())
    unread = root["attributes"]["wsipipe"]["run"]["unread"]
    reached = Grid((600, 800), UNetSizes(2, 2).receptive, 64, 128).reached_from(Box(0, 256, 256, 512)).shape
    assert unread == {"pixels": reached[0] * reached[1], "tiles": [[0, 256, 256, 512]]}
    assert f"{reached[0] * reached[1]:,} px" in outcome.warnings[0]


@pytest.mark.parametrize(("tissue", "moment"), [("auto", TissueFound), ("off", BlockDone)])
def test_a_slide_of_zeros_fails_also_when_it_is_resumed(
    tmp_path: Path, model: Path, tissue: str, moment: type[Event]
) -> None:
    slide = write_slide(tmp_path / "case.tif", np.zeros((300, 400, 3), np.uint8))
    config = wsipipe.RunConfig(
        out=str(tmp_path / "out"), model=str(model), block=128, tile=64, device="cpu", engine="torch", tissue=tissue
    )

    def stop(event: Event) -> None:
        if isinstance(event, moment):
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        wsipipe.run([slide], config, stop)
    outcome = outcome_of(slide, tmp_path / "out", model, tissue=tissue)
    assert outcome.status == "failed", outcome
    assert "every pixel that was read is zero" in outcome.message
