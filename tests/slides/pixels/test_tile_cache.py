"""Tiles that a neighbouring block needs too are decoded once, and no more are held than fit."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from wsipipe.errors import SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.pixels.tile_cache import NONE_KEPT, Keep, KeptTiles
from wsipipe.slides.pixels.tile_store import TileStore
from wsipipe.slides.slide import Level

SIDE, MARGIN = 128, 40
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (32, 48)},
    "large tiles": {"tile": (128, 128)},
    "strips": {"rowsperstrip": 16},
    "one strip": {"rowsperstrip": 300},
}
IMAGE = np.random.default_rng(0).integers(0, 256, (300, 420, 3), np.uint8)


@pytest.fixture(params=LAYOUTS)
def level(tmp_path: Path, request: pytest.FixtureRequest) -> Level:
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path, IMAGE, photometric="rgb", compression="deflate", metadata=None, **LAYOUTS[str(request.param)]
    )
    return open_slide(path).levels[0]


def row_of_boxes(level: Level) -> list[Box]:
    """The first row of blocks, with their margins, as far as the image goes."""
    height, width = level.shape
    starts = range(0, width, SIDE)
    return [
        Box(0, min(SIDE + MARGIN // 2, height), max(0, x - MARGIN // 2), min(x + SIDE + MARGIN // 2, width))
        for x in starts
    ]


@pytest.mark.parametrize("step", [1, -1])
def test_a_row_of_blocks_decodes_each_tile_once(level: Level, decoded: Counter[int], step: int) -> None:
    """From the left or from the right: of two blocks that are read at once either may come first."""
    for box in row_of_boxes(level):
        read_box(level, box, keep=NONE_KEPT)
    assert max(decoded.values()) > 1, "the blocks share tiles"
    decoded.clear()
    for box in row_of_boxes(level)[::step]:
        np.testing.assert_array_equal(read_box(level, box, keep=Keep(MARGIN, 2**20)), IMAGE[box.slices])
    assert set(decoded.values()) == {1}


def test_threads_that_read_at_once_decode_a_shared_tile_once(level: Level, decoded: Counter[int]) -> None:
    box = row_of_boxes(level)[0]
    everything = Keep(SIDE + MARGIN, 2**20)  # all of the box is shared with the next
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda box: read_box(level, box, keep=everything), [box] * 4))
    for pixels in found:
        np.testing.assert_array_equal(pixels, IMAGE[box.slices])
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize("tiles", [0, 1, 3])
def test_no_more_are_held_than_fit(level: Level, monkeypatch: pytest.MonkeyPatch, tiles: int) -> None:
    kept = KeptTiles()
    monkeypatch.setattr("wsipipe.slides.pixels.tile_store.KEPT", kept)
    store = level.array.store
    assert isinstance(store, TileStore)
    keep = Keep(MARGIN, tiles * store.image.tile_bytes + 1)
    for box in row_of_boxes(level):
        np.testing.assert_array_equal(read_box(level, box, keep=keep), IMAGE[box.slices])
        assert len(kept) <= tiles
    assert bool(kept) == bool(tiles)


def test_a_slide_that_has_the_place_of_another_does_not_get_its_tiles(tmp_path: Path) -> None:
    for image in (IMAGE, 255 - IMAGE):
        tifffile.imwrite(tmp_path / "s.tif", image, photometric="rgb", tile=(128, 128), metadata=None)
        level, box = open_slide(tmp_path / "s.tif").levels[0], Box(0, 100, 0, 100)
        np.testing.assert_array_equal(read_box(level, box, keep=Keep(100, 2**20)), image[box.slices])
        (tmp_path / "s.tif").unlink()


def test_what_cannot_be_decoded_is_not_kept_and_fails_each_time() -> None:
    kept, calls = KeptTiles(), []

    def decode() -> np.ndarray[Any, Any]:
        calls.append(1)
        if len(calls) < 3:
            raise SlideReadError("damaged")
        return IMAGE

    for _ in range(2):
        with pytest.raises(SlideReadError, match="damaged"):
            kept.get(0, decode, size=1, most=4)
    assert kept.get(0, decode, size=1, most=4) is IMAGE
    assert kept.get(0, decode, size=1, most=0) is IMAGE
    assert len(calls) == 3
