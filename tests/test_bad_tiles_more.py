"""What is easily missed of tiles that can not be decoded: borders, truncation, kills, and what is said."""

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
from tests.faults import assert_same_bytes, picture, write_bundle, write_slide
from tests.slides.made import patch, tile_at
from tests.tissue.drawn import disc, on_glass
from wsipipe.events import BlockDone, Event, TissueFound
from wsipipe.geometry.grid import Box, Grid
from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import Receptive
from wsipipe.pipeline import batch
from wsipipe.pipeline.outcome import SlideOutcome


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bad") / "b.safetensors")


def damage(path: Path, *numbers: int) -> Path:
    """Zero the second half of some tiles, which the codec notices."""
    for number in numbers:
        offset, count = tile_at(path, number)
        patch(path, offset + count // 2, bytes(count - count // 2))
    return path


def run(slide: Path, out: Path, bundle: Path, **options: Any) -> SlideOutcome:
    values = {"block": 128, "tile": 64, "device": "cpu", "engine": "torch", "tissue": "off", "mpp": 0.5} | options
    (outcome,) = wsipipe.run([slide], wsipipe.RunConfig(out=str(out), bundle=str(bundle), **values)).slides
    return outcome


def labels(out: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(out / "case.zarr" / "0", mode="r")[...])


@pytest.mark.parametrize("receptive", [Receptive(0, 1), Receptive(2, 2), Receptive(4, 2)], ids=str)
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
def test_every_bad_tile_of_a_block_is_named(tmp_path: Path, bundle: Path, block: int) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1, 8)
    outcome = run(slide, tmp_path / "out", bundle, block=block)
    assert outcome.status == "failed"
    assert "tile 1 " in outcome.message
    assert "tile 8 " in outcome.message


def test_what_the_message_says_works(tmp_path: Path, bundle: Path) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1)
    message = run(slide, tmp_path / "out", bundle).message
    way_out = message[message.index("--on-bad-tile fill") :]
    outcome = run(slide, tmp_path / "out", bundle, on_bad_tile="fill", overwrite="--overwrite" in way_out)
    assert outcome.status == "done", outcome.message


def test_a_file_that_is_truncated_meanwhile_is_not_filled(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
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
    outcome = run(slide, tmp_path / "out", bundle, on_bad_tile="fill")
    assert outcome.status == "failed"
    assert "truncated" in outcome.message


def test_of_tiles_that_no_tissue_needs_nothing_is_told_whatever_the_tile(tmp_path: Path, bundle: Path) -> None:
    where = disc((250, 150), 90, (600, 800))
    slide = damage(write_slide(tmp_path / "case.tif", on_glass(where)), 1, 3, 11)
    for tile in (32, 512):
        run(slide, tmp_path / f"{tile}", bundle, on_bad_tile="fill", block=512, tile=tile, tissue="auto")
    assert_same_bytes(tmp_path / "32" / "case.zarr", tmp_path / "512" / "case.zarr")


def test_nothing_in_a_filled_store_is_foreign_to_zarr(tmp_path: Path, bundle: Path) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1)
    assert run(slide, tmp_path / "out", bundle, on_bad_tile="fill").status == "done"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "0" in dict(zarr.open_group(tmp_path / "out" / "case.zarr", mode="r").members())


def test_how_many_pixels_are_0_for_it_is_told(tmp_path: Path, bundle: Path) -> None:
    slide = damage(write_slide(tmp_path / "case.tif", picture((600, 800))), 1)
    outcome = run(slide, tmp_path / "out", bundle, on_bad_tile="fill")
    root = json.loads((tmp_path / "out" / "case.zarr" / "zarr.json").read_text())
    unread = root["attributes"]["wsipipe"]["run"]["unread"]
    reached = Grid((600, 800), Receptive(2, 2), 64, 128).reached_from(Box(0, 256, 256, 512)).shape
    assert unread == {"pixels": reached[0] * reached[1], "tiles": [[0, 256, 256, 512]]}
    assert f"{reached[0] * reached[1]:,} px" in outcome.warnings[0]


@pytest.mark.parametrize(("tissue", "moment"), [("auto", TissueFound), ("off", BlockDone)])
def test_a_slide_of_zeros_fails_also_when_it_is_resumed(
    tmp_path: Path, bundle: Path, tissue: str, moment: type[Event]
) -> None:
    slide = write_slide(tmp_path / "case.tif", np.zeros((300, 400, 3), np.uint8))
    config = wsipipe.RunConfig(
        out=str(tmp_path / "out"), bundle=str(bundle), block=128, tile=64, device="cpu", engine="torch", tissue=tissue
    )

    def stop(event: Event) -> None:
        if isinstance(event, moment):
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        wsipipe.run([slide], config, stop)
    outcome = run(slide, tmp_path / "out", bundle, tissue=tissue)
    assert outcome.status == "failed", outcome
    assert "every pixel that was read is zero" in outcome.message
