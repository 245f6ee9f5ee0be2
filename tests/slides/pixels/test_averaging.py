"""A shrunk level is the mean over areas, the same in every box, and each tile of its file is decoded once."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.slides.made import ome_zarr, picture, pyramid
from tests.soak import in_soak
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.scale import shrunk_side
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.averaging import means, taps
from wsipipe.slides.pixels.mirrored import averaging_bytes, read_box
from wsipipe.slides.pixels.tile_cache import Keep
from wsipipe.slides.slide import Level

SHRINKS = [0.93, 1.0 / 1.1, 0.3, 1.08, 1.5, 2.0, 2.0145, 3.7, 8.0, 41.3]
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (32, 48)},
    "strips": {"rowsperstrip": 16},
    "one strip": {"rowsperstrip": 300},
    "plain strip": {"rowsperstrip": 300, "compression": None},
}
IMAGE = picture((211, 173, 3))


def write(path: Path, image: np.ndarray = IMAGE, **layout: Any) -> Level:
    options = {"photometric": "rgb", "compression": "deflate", "metadata": None} | layout
    tifffile.imwrite(path, image, **options)
    return open_slide(path).levels[0]


@pytest.fixture(scope="module", params=["tiles", "plain strip", *in_soak("strips", "one strip")])
def level(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Level:
    return write(tmp_path_factory.mktemp("s") / "s.tif", **LAYOUTS[str(request.param)])


def brute(image: np.ndarray, shrink: float) -> np.ndarray:
    """The integral over each pixel's rectangle, cut at the end of the image, divided by its area; float64."""
    height, width = (math.ceil(n / shrink - 1e-6) for n in image.shape[:2])
    made = np.empty((height, width, image.shape[2]))
    for i in range(height):
        for j in range(width):
            total, area = np.zeros(image.shape[2]), 0.0
            y0, y1 = i * shrink, min((i + 1) * shrink, image.shape[0])
            x0, x1 = j * shrink, min((j + 1) * shrink, image.shape[1])
            for y in range(int(y0), min(math.ceil(y1), image.shape[0])):
                for x in range(int(x0), min(math.ceil(x1), image.shape[1])):
                    part = (min(y + 1, y1) - max(y, y0)) * (min(x + 1, x1) - max(x, x0))
                    total, area = total + part * image[y, x], area + part
            made[i, j] = total / area
    return made


def whole(level: Level) -> np.ndarray:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


@pytest.mark.parametrize("shrink", SHRINKS)
def test_a_shrunk_level_is_the_mean_over_areas(tmp_path: Path, shrink: float) -> None:
    image = IMAGE[:61, :47]
    small = write(tmp_path / "s.tif", image, tile=(16, 32)).shrunk(shrink)
    wanted = brute(image, shrink)
    assert small.shape == wanted.shape[:2]
    assert np.abs(whole(small) - wanted).max() <= 0.5 + 1e-3, "rounded to the nearest"


@pytest.mark.parametrize("axes", ["yx", "yxc", "cyx"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_all_axes_and_dtypes_are_averaged(tmp_path: Path, axes: str, dtype: str) -> None:
    image = picture((50, 70, 3) if axes == "yxc" else (3, 50, 70) if axes == "cyx" else (50, 70), dtype)
    path = ome_zarr(tmp_path / "a.zarr", [image], axes)
    as_read = image[..., None] if axes == "yx" else image if axes == "yxc" else np.moveaxis(image, 0, -1)
    small = whole(open_slide(path).levels[0].shrunk(2.3))
    assert small.dtype == dtype
    assert np.abs(small - brute(as_read, 2.3)).max() <= 0.5 + (0.02 if dtype == "uint16" else 1e-3)


def test_halving_is_the_mean_of_four_with_halves_to_even(tmp_path: Path) -> None:
    image = IMAGE[:64, :96]
    halved = np.rint(image.reshape(32, 2, 48, 2, 3).astype(float).mean((1, 3)))
    np.testing.assert_array_equal(whole(write(tmp_path / "s.tif", image, tile=(32, 32)).shrunk(2.0)), halved)


def test_a_plain_colour_stays_what_it_is(tmp_path: Path) -> None:
    image = np.broadcast_to(np.array([0, 255, 37], np.uint8), (80, 90, 3))
    for shrink in SHRINKS:
        small = whole(write(tmp_path / "s.tif", image, tile=(32, 32)).shrunk(shrink))
        assert (small == image[0, 0]).all()


@given(data=st.data(), shrink=st.sampled_from(SHRINKS) | st.floats(0.5, 6.0))
def test_any_box_is_the_same_part_of_the_whole(level: Level, data: st.DataObject, shrink: float) -> None:
    small = level.shrunk(shrink)
    (y0, y1), (x0, x1) = (
        sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for side in small.shape
    )
    np.testing.assert_array_equal(read_box(small, Box(y0, y1, x0, x1)), whole(small)[y0:y1, x0:x1])


@given(shrink=st.floats(0.5, 9.0), y=st.integers(-60, 230), x=st.integers(-60, 190), side=st.integers(1, 300))
def test_mirrored_pixels_are_those_of_the_whole_mirrored(
    level: Level, shrink: float, y: int, x: int, side: int
) -> None:
    small = level.shrunk(shrink)
    rows = mirror(np.arange(y, y + side), small.shape[0])
    cols = mirror(np.arange(x, x + side), small.shape[1])
    np.testing.assert_array_equal(small.read(y, x, side, side, mirror=True), whole(small)[rows][:, cols])


@given(start=st.integers(0, 10**6), count=st.integers(1, 50), shrink=st.floats(0.1, 50))
def test_weights_follow_from_the_number_of_the_pixel_alone(start: int, count: int, shrink: float) -> None:
    side = math.ceil((start + count) * shrink) + 3
    many = means(start, start + count, shrink, side)
    assert many.weights.shape == (count, taps(shrink))
    np.testing.assert_allclose(many.weights.sum(1), 1, atol=1e-6)
    assert (many.weights >= 0).all()
    assert many.stored[0] == many.first[0]
    for i in range(count):
        one = means(start + i, start + i + 1, shrink, side)
        assert one.first == many.first[i]
        assert (one.weights == many.weights[i]).all()


@given(side=st.integers(1, 10**6), shrink=st.floats(0.1, 50))
def test_the_pixels_cover_the_axis_and_no_more(side: int, shrink: float) -> None:
    count = shrunk_side(side, shrink)
    assert count * shrink >= side - 1e-5 * shrink
    assert count == 1 or (count - 1) * shrink < side
    assert means(count - 1, count, shrink, side).stored[1] == side or count * shrink < side


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("shrink", [0.95, 1.7, 2.0145])
def test_a_row_of_blocks_decodes_each_tile_once(
    tmp_path: Path, decoded: Counter[int], shrink: float, step: int
) -> None:
    small = write(tmp_path / "s.tif", tile=(32, 48)).shrunk(shrink)
    side, margin = 34, 12
    boxes = [
        Box(0, small.shape[0], max(0, x - margin // 2), min(x + side + margin // 2, small.shape[1]))
        for x in range(0, small.shape[1], side)
    ]
    for box in boxes:
        decoded.clear()
        read_box(small, box)
        assert set(decoded.values()) == {1}, "a tile that two strips share"
    decoded.clear()
    for box in boxes[::step]:
        read_box(small, box, keep=Keep(margin, 2**20))
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize("shrink", [0.95, 2.0145, 7.0])
def test_reading_holds_no_more_than_it_says(level: Level, shrink: float) -> None:
    import tracemalloc

    small = level.shrunk(shrink)
    box = Box(0, small.shape[0], 0, small.shape[1])
    into = np.empty((*small.shape, 3), np.uint8)
    read_box(small, box, into=into)  # opens the file
    tracemalloc.start()
    read_box(small, box, into=into)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    piece = 4 * math.prod(level.tile) * 3  # a decoded one, and what the codec makes it of
    assert peak <= averaging_bytes(small, small.shape) + piece + 2**16


def test_memory_of_averaging_does_not_grow_with_the_height(tmp_path: Path) -> None:
    pyramid(tmp_path / "s.tif", picture((64, 64)), levels=1)
    level = open_slide(tmp_path / "s.tif").levels[0]
    tall = [replace(level, shape=(height, 50_000)).shrunk(2.0145) for height in (10_000, 100_000)]
    few, many = (averaging_bytes(one, (4096, 4096)) for one in tall)
    assert few == many < 40 * 2**20
