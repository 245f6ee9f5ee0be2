from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.report.nights import CLASSES, write_pyramid, write_store
from tests.soak import each_value_once
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.store.finished import FinishedStore, open_finished
from wsipipe.viewer.result_tiles import label_tile
from wsipipe.viewer.slide_tiles import SlideTiles
from wsipipe.viewer.tiling import TILE_PX, TileIndex, TilePyramid

COLORS = {label: tuple(bytes.fromhex(color[1:])) for _, label, color in CLASSES}
SHOWN = (7, 200)


def coarse_labels(rng: np.random.Generator, shape: tuple[int, int], cell: int) -> np.ndarray:
    """Random labels, the same in each cell of so many pixels."""
    cells = rng.choice(np.array([0, 7, 200], np.uint8), [-(-side // cell) for side in shape])
    return cells.repeat(cell, 0).repeat(cell, 1)[: shape[0], : shape[1]]


def pictured(labels: np.ndarray) -> np.ndarray:
    """A slide that has each label's colour."""
    table = np.zeros((256, 3), np.uint8)
    for label, color in COLORS.items():
        table[label] = color
    return table[labels]


def tiles_of(tiling: TilePyramid, zoom: int) -> list[tuple[TileIndex, Box]]:
    sides = [-(-side // (tiling.scale(zoom) * TILE_PX)) for side in tiling.shape]
    tiles = [TileIndex(zoom, row, col) for row in range(sides[0]) for col in range(sides[1])]
    return [(tile, box) for tile in tiles if (box := tiling.box(tile))]


def made(folder: Path, labels: np.ndarray, levels: int, level: int) -> tuple[SlideTiles, FinishedStore]:
    """A slide of each label's colour, and the store of one of its levels."""
    planes = [labels[:: 2**n, :: 2**n] for n in range(levels)]
    slide = write_pyramid(folder / "a.tif", [pictured(plane) for plane in planes], compression="deflate")
    store = write_store(folder / "a.zarr", slide, planes[level], level=level)
    return SlideTiles(open_slide(slide)), open_finished(store)


@pytest.mark.parametrize(
    ("shape", "levels", "level"), [((701, 1101), 1, 0), ((1101, 701), 3, 1), ((1024, 1024), 2, 1), ((9, 5), 1, 0)]
)
def test_labels_lie_on_the_slide_to_the_pixel_at_every_zoom(
    tmp_path: Path, shape: tuple[int, int], levels: int, level: int
) -> None:
    labels = coarse_labels(np.random.default_rng(0), shape, 8)
    slide, store = made(tmp_path, labels, levels, level)
    for zoom in range(slide.tiling.last + 1):
        assert slide.tiling.scale(zoom) <= 8  # so that no pixel is of two labels
        for tile, box in tiles_of(slide.tiling, zoom):
            image, drawn = slide.rgb(tile, box), label_tile(store, box, slide.tiling.scale(zoom), SHOWN)
            labelled = drawn[..., 3] == 255
            whole = image.any(-1) & (image != 255).any(-1)  # but for a last pixel that is only in part on the slide
            assert (labelled == whole)[:-1, :-1].all()
            assert (drawn[labelled][:, :3] == image[labelled])[:-1].all()


@pytest.mark.parametrize(("shrink", "tag"), each_value_once([0.8, 1.0, 1.7, 3.3], [1, 3, 6]))
def test_labels_of_another_resolution_and_of_a_turned_slide_lie_where_they_were_found(
    tmp_path: Path, shrink: float, tag: int
) -> None:
    dark = np.full((1201, 1501, 3), 30, np.uint8)
    dark[300:500, 900:1300] = 240
    orientation = [(274, "H", 1, tag, True)]
    slide = open_slide(write_pyramid(tmp_path / "a.tif", [dark], extratags=orientation, compression="deflate"))
    level = slide.levels[0] if shrink == 1 else slide.levels[0].shrunk(shrink)
    bright = read_box(level, Box(0, level.shape[0], 0, level.shape[1])).max(-1) > 135
    store = open_finished(
        write_store(tmp_path / "a.zarr", Path(slide.path), np.where(bright, 7, 0).astype(np.uint8), shrink=shrink)
    )
    tiles = SlideTiles(slide)
    for zoom in range(tiles.tiling.last + 1):
        scale = tiles.tiling.scale(zoom)
        shown, drawn = [], []
        for tile, box in tiles_of(tiles.tiling, zoom):
            at = np.array([box.y0, box.x0])
            shown.append(np.argwhere(tiles.rgb(tile, box).max(-1) > 135) + at)
            drawn.append(np.argwhere(label_tile(store, box, scale, SHOWN)[..., 3] > 0) + at)
        off = np.abs(np.concatenate(shown).mean(0) - np.concatenate(drawn).mean(0)) * scale  # pixels of the slide
        assert (off <= 0.5 * max(shrink, scale)).all(), (zoom, off)


def test_classes_that_are_not_shown_are_transparent(tmp_path: Path) -> None:
    labels = coarse_labels(np.random.default_rng(1), (64, 80), 8)
    _, store = made(tmp_path, labels, 1, 0)
    drawn = label_tile(store, Box(0, 64, 0, 80), 1, [200])
    assert (drawn[..., 3] == np.where(labels == 200, 255, 0)).all()


@pytest.mark.parametrize("levels", [1, 3])
def test_each_zoom_shows_means_of_the_finest_level(tmp_path: Path, levels: int) -> None:
    rng = np.random.default_rng(2)
    finest = rng.integers(0, 256, (1536, 1024, 3), np.uint8)
    planes = [finest]
    for _ in range(levels - 1):
        fine = planes[-1].astype(np.float64)
        planes.append(fine.reshape(fine.shape[0] // 2, 2, -1, 2, 3).mean((1, 3)).round().astype(np.uint8))
    slide = SlideTiles(open_slide(write_pyramid(tmp_path / "a.tif", planes)))
    for zoom in range(slide.tiling.last + 1):
        scale = slide.tiling.scale(zoom)
        right = finest.reshape(1536 // scale, scale, -1, scale, 3).mean((1, 3))
        for tile, box in tiles_of(slide.tiling, zoom):
            assert np.abs(slide.rgb(tile, box) - right[box.slices]).max() <= 1.5  # rounded once a level


def test_a_bright_pixel_is_shown_alike_in_every_tile_of_a_slide_of_16_bits(tmp_path: Path) -> None:
    plane = np.full((600, 1100), 1000, np.uint16)
    plane[10:60, 10:60] = 4000  # in the first tile only
    slide = SlideTiles(open_slide(write_pyramid(tmp_path / "a.tif", [plane])))
    values = {int(np.median(slide.rgb(tile, box))) for tile, box in tiles_of(slide.tiling, slide.tiling.last)}
    assert len(values) == 1
    assert 55 <= values.pop() <= 75


def test_tiles_beyond_the_slide_and_beyond_the_pyramid_are_none() -> None:
    tiling = TilePyramid((513, 100))
    assert tiling.last == 1
    assert tiling.box(TileIndex(1, 1, 0)) == Box(512, 513, 0, 100)
    for tile in (TileIndex(1, 0, 1), TileIndex(1, 2, 0), TileIndex(2, 0, 0), TileIndex(-1, 0, 0), TileIndex(0, -1, 0)):
        assert tiling.box(tile) is None
