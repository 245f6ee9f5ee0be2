"""A slide is the same if its files were left alone, or else if they hold the same bytes: to the last one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults import assert_same_bytes, picture, write_model
from tests.slides.made import ome_zarr
from tests.soak import each_value_once
from tests.test_resume import unfinish
from wsipipe import RunConfig, run
from wsipipe.events import BlockDone, Event
from wsipipe.pipeline.summary import SlideOutcome
from wsipipe.slides.identity import WINDOW_BYTES, WINDOWS, file_identity
from wsipipe.slides.open import open_slide
from wsipipe.store.record import read_record

SHAPE = (500, 700)


def again(
    slide: Path, out: Path, listener: Callable[[Event], None] = lambda _: None, **changes: object
) -> SlideOutcome:
    """How it goes with ``slide`` in ``out``; the model is beside it."""
    config = RunConfig(
        out=str(out), model=str(slide.parent / "small.safetensors"), device="cpu", engine="torch", block=256
    )
    (outcome,) = run([str(slide)], replace(config, **changes), listener).slides  # type: ignore[arg-type]
    return outcome


def write_plain(path: Path, shape: tuple[int, int]) -> Path:
    """Write a slide whose pixels lie in its file as they are, so that zeros over some leave it readable."""
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture(shape), tile=(256, 256), photometric="rgb", metadata=None, **resolution)
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``slide.tif``, uncompressed, a model, and the store of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_model(folder / "small.safetensors")
    write_plain(folder / "slide.tif", SHAPE)
    assert again(folder / "slide.tif", folder).status == "done"
    return folder


@pytest.fixture
def slide(undisturbed: Path, tmp_path: Path) -> Path:
    """The slide in a copy of that folder, with all times; the store is one of this path."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    root = tmp_path / "slide.zarr" / "zarr.json"
    root.write_text(root.read_text().replace(str(undisturbed), str(tmp_path)))
    return tmp_path / "slide.tif"


def between_windows(slide: Path) -> range:
    """Offsets in the middle of the file, between two of the windows that the quick identity reads."""
    most = slide.stat().st_size - WINDOW_BYTES
    return range(most * 7 // (WINDOWS - 1) + WINDOW_BYTES, most * 8 // (WINDOWS - 1))


def redact(slide: Path) -> None:
    """Zeros over a part of the pixels, in place, which the quick identity does not see."""
    before, there = file_identity(slide), between_windows(slide)
    with slide.open("r+b") as file:
        file.seek(there.start)
        file.write(bytes(len(there)))
    assert file_identity(slide) == before


def turn_tiles_round(slide: Path) -> None:
    """The offsets of two tiles, exchanged in place, without a change of size."""
    with tifffile.TiffFile(slide, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileOffsets"]
        tag.overwrite([tag.value[1], tag.value[0], *tag.value[2:]])


def touch(slide: Path) -> None:
    os.utime(slide, ns=(1_700_000_000_000_000_000,) * 2)


@pytest.mark.parametrize(("change", "unfinished"), each_value_once([redact, turn_tiles_round], [False, True]))
def test_slide_that_was_changed_in_place_is_another(
    slide: Path, change: Callable[[Path], None], unfinished: bool
) -> None:
    if unfinished:
        unfinish(slide.with_suffix(".zarr"))
    change(slide)
    outcome = again(slide, slide.parent)
    assert outcome.status == "failed"
    assert "was made with another slide file; --overwrite replaces it" in outcome.message
    assert again(slide, slide.parent, overwrite=True).status == "done"
    fresh = again(slide, slide.parent / "fresh")
    assert fresh.labels == again_counts(slide.with_suffix(".zarr")), "the pixels of the file as it is now"
    assert_same_bytes(slide.with_suffix(".zarr"), slide.parent / "fresh" / "slide.zarr")
    assert again(slide, slide.parent).message == "complete"


def again_counts(store: Path) -> dict[int, int]:
    record = read_record(str(store))
    assert record is not None
    return dict(record.counts)


@pytest.mark.parametrize("unfinished", [False, True])
def test_slide_that_was_only_touched_is_the_same(slide: Path, unfinished: bool) -> None:
    if unfinished:
        unfinish(slide.with_suffix(".zarr"))
    touch(slide)
    outcome = again(slide, slide.parent)
    assert (outcome.status, outcome.blocks_computed) == (("done" if unfinished else "skipped"), 0), outcome.message


def test_slide_that_was_only_copied_is_the_same_and_one_that_was_changed_on_the_way_is_not(slide: Path) -> None:
    for name, change in [("copied", lambda _: None), ("changed", redact)]:
        (slide.parent / name).mkdir()
        shutil.copy(slide.parent / "small.safetensors", slide.parent / name)
        shutil.copyfile(slide, slide.parent / name / "slide.tif")
        change(slide.parent / name / "slide.tif")
    outcome = again(slide.parent / "copied" / "slide.tif", slide.parent)
    assert (outcome.status, outcome.message) == ("skipped", "complete")
    outcome = again(slide.parent / "changed" / "slide.tif", slide.parent)
    assert outcome.status == "done", outcome.message
    assert Path(outcome.store or "").name.startswith("slide-"), "the other keeps its store"


def test_preallocated_copy_that_was_completed_later_is_another_slide(undisturbed: Path, slide: Path) -> None:
    redact(slide)  # as a copy is whose middle has not come yet
    half = again(slide, slide.parent / "out")
    assert half.status == "done", half.message
    shutil.copyfile(undisturbed / "slide.tif", slide)
    outcome = again(slide, slide.parent / "out")
    assert "another slide file" in outcome.message
    assert again(slide, slide.parent / "out", overwrite=True).status == "done"
    assert again_counts(slide.parent / "out" / "slide.zarr") == again_counts(undisturbed / "slide.zarr")


def test_overwritten_while_it_is_segmented_the_slide_fails_and_nothing_is_published(slide: Path) -> None:
    done: list[BlockDone] = []

    def overwrite_once(event: Event) -> None:
        if isinstance(event, BlockDone):
            if not done:
                redact(slide)
            done.append(event)

    out = slide.parent / "out"
    outcome = again(slide, out, overwrite_once)
    assert outcome.status == "failed"
    assert "slide.tif was overwritten while it was segmented" in outcome.message
    assert not list(out.glob("*.zarr*"))
    assert again(slide, out).status == "done", "now it is left alone"


def test_touched_while_it_is_segmented_the_slide_is_the_same(slide: Path, undisturbed: Path) -> None:
    done: list[BlockDone] = []

    def touch_at_the_end(event: Event) -> None:
        if isinstance(event, BlockDone):
            done.append(event)
            if len(done) == 5:
                touch(slide)

    outcome = again(slide, slide.parent / "out", touch_at_the_end)
    assert outcome.status == "done", outcome.message
    assert len(done) > 5
    assert again_counts(slide.parent / "out" / "slide.zarr") == again_counts(undisturbed / "slide.zarr")


def test_store_records_what_sha256sum_says_of_the_slide(slide: Path) -> None:
    record = read_record(str(slide.with_suffix(".zarr")))
    assert record is not None
    assert record.seen is not None
    assert record.seen.sha256 == open_slide(slide).sha256
    assert record.seen.sha256 == hashlib.sha256(slide.read_bytes()).hexdigest()


def test_chunk_of_a_folder_that_was_changed_in_place_makes_another_slide_and_labels_do_not(tmp_path: Path) -> None:
    image = np.moveaxis(picture((300, 200)), -1, 0)
    path = ome_zarr(tmp_path / "a.zarr", [image], "cyx")
    before = open_slide(path)
    whole = before.sha256
    (path / "labels").mkdir()
    (path / "labels" / "zarr.json").write_text("{}")
    assert open_slide(path).state == before.state
    chunk = path / "0" / "c" / "1" / "2" / "1"
    data = bytearray(chunk.read_bytes())
    data[20] ^= 1
    chunk.write_bytes(bytes(data))
    after = open_slide(path)
    assert after.state != before.state
    assert after.sha256 != whole
