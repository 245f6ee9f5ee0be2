from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from math import ceil, inf
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests.report.nights import CLASSES, SHA, disc, write_pyramid, write_store
from tests.slides.made import ome_zarr
from tests.soak import in_soak
from wsipipe.errors import SlideFormatError
from wsipipe.pictures import thumbnail as picture
from wsipipe.pictures.drawing import OUTLINE, as_rgb, inner_edge
from wsipipe.pictures.thumbnail import summarise
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels import overview as planes
from wsipipe.slides.pixels.overview import averaged, averaged_plane, choose_source
from wsipipe.slides.slide import Level, Slide, downsample_of
from wsipipe.store.finished import open_finished
from wsipipe.store.spec import TISSUE

Sides = tuple[int, int]
ORANGE = np.array([255, 128, 0])


def colored(image: np.ndarray, color: np.ndarray = ORANGE) -> np.ndarray:
    """Pixels of ``image``, which was JPEG, with that colour."""
    return np.abs(image.astype(int) - color).max(-1) < 60


def fill(labels: np.ndarray) -> np.ndarray:
    """A white slide that is black where there are labels, (y, x, 3)."""
    return np.where(labels[..., None] > 0, 0, 255).repeat(3, -1).astype(np.uint8)


def made(
    folder: Path, shape: Sides = (300, 500), *, value: int = 7, downs: tuple[int, ...] = (1, 2, 4), level: int = 0
) -> tuple[Path, str]:
    """A slide with a black disc, and a store whose labels are that disc."""
    images = [fill(disc((ceil(shape[0] / d), ceil(shape[1] / d)), (0.4, 0.6), 0.3)) for d in downs]
    slide = write_pyramid(folder / "case.tif", images)
    labels = disc(images[level].shape[:2], (0.4, 0.6), 0.3).astype(np.uint8) * value
    return slide, write_store(folder / "case.zarr", slide, labels, level=level, mpp=0.5 * downs[level])


@given(extent=st.integers(1, 40), spare=st.integers(0, 3), parts=st.integers(1, 30))
def test_averaged_is_the_mean_over_each_stretch(extent: int, spare: int, parts: int) -> None:
    halves = Fraction(extent, 2)
    values = np.random.default_rng(extent).random((ceil(halves) + spare, 2)).astype(np.float32)
    fine = values.repeat(2 * parts, 0)[: extent * parts]  # 2 * parts of each, so that every end is between two
    wanted = fine.reshape(parts, extent, 2).mean(1)
    assert np.allclose(averaged(values, float(halves), parts), wanted, atol=1e-5)


@pytest.mark.parametrize("band_bytes", [1, 1000, 2**22])
@pytest.mark.parametrize(
    ("shape", "extent", "small"),
    [
        ((70, 130), (70, 130), (7, 13)),
        ((70, 130), (70, 130), (33, 41)),
        ((130, 70), (65.5, 60.0), (17, 30)),
        ((3, 2), (3, 2), (9, 5)),
    ],
)
def test_plane_is_averaged_over_areas_however_it_is_cut_into_bands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    band_bytes: int,
    shape: Sides,
    extent: tuple[float, float],
    small: Sides,
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    slide = open_slide(write_pyramid(tmp_path / "a.tif", [image], tile=(16, 16)))
    monkeypatch.setattr(planes, "BAND_BYTES", band_bytes)
    found = averaged_plane(slide.levels[0], extent, small)
    parts = [range(i, min(i + 3, small[0])) for i in range(0, small[0], 3)]
    in_parts = np.concatenate([averaged_plane(slide.levels[0], extent, small, part) for part in parts])
    assert np.allclose(in_parts, found, rtol=0, atol=1e-4)
    wanted = image.astype(float)
    for axis, (reach, parts) in enumerate(zip(extent, small, strict=True)):
        fine = wanted.repeat(2 * parts, axis).take(range(round(2 * reach) * parts), axis)
        wanted = np.stack([part.mean(axis) for part in np.split(fine, parts, axis)], axis)
    assert np.allclose(found, wanted, atol=1e-3)


def test_inner_edge_is_where_a_neighbour_is_not_of_it() -> None:
    mask = np.random.default_rng(2).random((20, 30)) < 0.8
    wanted = np.zeros_like(mask)
    for y, x in zip(*mask.nonzero(), strict=True):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        wanted[y, x] = any(not mask[i, j] for i, j in beside if 0 <= i < 20 and 0 <= j < 30)
    assert np.array_equal(inner_edge(mask), wanted)
    assert not inner_edge(np.ones((4, 5), bool)).any()


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("downs", [(1, 3, 7), *in_soak((1, 2), (1, 2, 4, 8), (1, 4, 16, 64))])
@pytest.mark.parametrize("shape", [(1001, 1999), (150, 90), *in_soak((300, 500), (2001, 703))])
def test_slide_and_labels_line_up(tmp_path: Path, shape: Sides, downs: tuple[int, ...], level: int) -> None:
    slide, store = made(tmp_path, shape, downs=downs, level=level)
    opened = open_slide(slide)
    finished = open_finished(store)
    height, width = opened.levels[level].shape
    small = tuple(max(1, round(n / max(1, max(height, width) / 320))) for n in (height, width))
    dark = 1 - picture.slide_image(str(slide), finished, small)[..., 0] / 255
    labels = picture.nearest_labels(finished, small) == 7
    for n, weight in ((0, dark), (1, labels)):
        centre = [(weight.sum(1 - axis) * (np.arange(small[axis]) + 0.5)).sum() / weight.sum() for axis in (0, 1)]
        assert centre == pytest.approx([0.4 * small[0], 0.6 * small[1]], abs=0.5), n
    away = ~(inner_edge(labels) | inner_edge(~labels))
    assert np.array_equal(dark[away] > 0.5, labels[away])


def test_picture_has_the_outline_in_the_colour_of_the_class_and_the_slide_under_it(tmp_path: Path) -> None:
    slide, store = made(tmp_path, (600, 1000))
    found = summarise(str(slide), store)
    image = imagecodecs.jpeg8_decode(found.thumbnail.jpeg)
    assert found.thumbnail.shape == image.shape[:2] == (192, 320)
    line = inner_edge(disc((192, 320), (0.4, 0.6), 0.3))
    assert colored(image)[line].mean() > 0.8
    inside = disc((192, 320), (0.4, 0.6), 0.27)
    assert (image[inside].mean(), image[~disc((192, 320), (0.4, 0.6), 0.33)].mean()) == pytest.approx((0, 255), abs=9)
    assert (found.model, found.model_sha256, found.version, found.notes) == ("glands", SHA, "0.0.9", ())


def test_areas_are_those_of_all_pixels(tmp_path: Path) -> None:
    slide, store = made(tmp_path, (600, 1000), level=1)
    gland, fat = summarise(str(slide), store).classes
    pixels = int(disc((300, 500), (0.4, 0.6), 0.3).sum())
    assert (gland.name, gland.color, gland.pixels, gland.exact) == ("gland", "#ff8000", pixels, True)
    assert gland.mm2 == pytest.approx(pixels * 1e-6)
    assert gland.mm2 == pytest.approx(np.pi * 0.09 * 300 * 500 * 1e-6, rel=0.01)
    assert (fat.name, fat.pixels, fat.mm2) == (CLASSES[2][0], 0, 0.0)


@pytest.mark.parametrize("run", [{}, {"labels": {"0": 100, "7": 100}}])
def test_areas_are_counted_where_the_store_does_not_speak_of_all_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: dict[str, object]
) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((1100, 900, 3), 255, np.uint8)])
    mask = disc((1100, 900), (0.5, 0.5), 0.4)
    store = write_store(tmp_path / "a.zarr", slide, mask.astype(np.uint8) * 7, run=run)
    every = summarise(str(slide), store).classes[0]
    assert (every.pixels, every.exact) == (int(mask.sum()), True)
    monkeypatch.setattr(picture, "COUNTED_PX", 300 * 300)
    coarse = summarise(str(slide), store).classes[0]
    assert not coarse.exact
    assert coarse.pixels == pytest.approx(mask.sum(), rel=0.01)


def test_an_unknown_size_of_pixels_leaves_pixels(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((64, 64, 3), 255, np.uint8)], mpp=None)
    store = write_store(tmp_path / "a.zarr", slide, np.full((64, 64), 7, np.uint8), mpp=None)
    gland = summarise(str(slide), store).classes[0]
    assert (gland.pixels, gland.mm2) == (4096, None)


def test_a_slide_that_is_gone_leaves_the_labels_and_a_note(tmp_path: Path) -> None:
    slide, store = made(tmp_path)
    slide.unlink()
    found = summarise(str(slide), store)
    assert found.classes[0].pixels > 0
    assert colored(imagecodecs.jpeg8_decode(found.thumbnail.jpeg)).any()
    (note,) = found.notes
    assert note.startswith("without the slide's pixels: case.tif cannot be opened")


def test_another_file_of_that_name_is_not_shown_as_the_slide(tmp_path: Path) -> None:
    slide, store = made(tmp_path)
    write_pyramid(slide, [np.zeros((300, 500, 3), np.uint8)])
    (note,) = summarise(str(slide), store).notes
    assert "not the one that was segmented" in note


def test_a_level_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide, store = made(tmp_path, downs=(1,))
    monkeypatch.setattr(picture, "MAX_LEVEL_BYTES", 300 * 500 * 3 - 1)
    monkeypatch.setattr(planes, "read_box", pytest.fail)
    found = summarise(str(slide), store)
    assert found.thumbnail.jpeg
    assert "its coarsest level is 500 wide x 300 high, 3 x uint8" in found.notes[0]


@pytest.mark.parametrize("broken", ["gone", "file", "no store", "zarr.json", "level", "chunk"])
def test_a_store_that_cannot_be_read_is_a_note(tmp_path: Path, broken: str) -> None:
    slide, name = made(tmp_path)
    store = Path(name)
    document = json.loads((store / "zarr.json").read_text())
    match broken:
        case "gone":
            store.rename(tmp_path / "moved")
        case "file":
            store = slide
        case "no store":
            document["attributes"] = {}
        case "zarr.json":
            document = "{"
        case "level":
            (store / "0/zarr.json").write_text("{")
        case "chunk":
            for shard in store.glob("*/c/*/*"):
                shard.write_bytes(b"\0" * 100)
    if store.is_dir():
        (store / "zarr.json").write_text(json.dumps(document) if document != "{" else "{")
    found = summarise(str(slide), str(store))
    assert found.notes
    assert not found.thumbnail.jpeg
    assert all(found.notes)


def test_a_class_without_a_colour_has_one_of_the_palette(tmp_path: Path) -> None:
    slide, store = made(tmp_path)
    document = json.loads((Path(store) / "zarr.json").read_text())
    colors = document["attributes"]["ome"]["image-label"]["colors"]
    next(one for one in colors if one["label-value"] == 7)["rgba"] = ["javascript:", 300, -1]
    (Path(store) / "zarr.json").write_text(json.dumps(document))
    found = summarise(str(slide), store)
    assert [one.color for one in found.classes] == ["#cc79a7", "#0080ff"]
    image = imagecodecs.jpeg8_decode(found.thumbnail.jpeg)
    assert colored(image, np.array([0xCC, 0x79, 0xA7])).any()


def test_the_large_picture_has_the_outline_of_the_tissue_and_a_scale_bar(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((1200, 1600, 3), 120, np.uint8)])
    store = write_store(tmp_path / "a.zarr", slide, np.zeros((1200, 1600), np.uint8))
    cells = np.zeros((12, 16), np.uint8)
    cells[3:9, 4:12] = 1
    mask = zarr.create_array(f"{store}/{TISSUE}/0", shape=cells.shape, dtype="uint8", overwrite=True)
    mask[...] = cells
    found = summarise(str(slide), store, large=True)
    assert found.notes == ()
    assert found.large.shape == (750, 1000)
    assert len(found.large.jpeg) > len(found.thumbnail.jpeg)
    image = imagecodecs.jpeg8_decode(found.large.jpeg)
    green = colored(image, np.array(OUTLINE))
    assert green[187, 300:700].mean() > 0.9  # the mask's upper edge, 3/12 of the height
    assert not green[:180].any()
    black = (image[-80:, :300].max(-1) < 80).sum(1)
    assert 248 <= black.max() <= 252  # 200 um of 0.8 um each


@pytest.mark.parametrize(
    ("shape", "tile"), [((4000, 4000), (256, 256)), ((200, 40000), (64, 64)), ((64000, 200), None)]
)
def test_memory_stays_small(tmp_path: Path, shape: Sides, tile: Sides | None) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    slide = write_pyramid(tmp_path / "a.tif", [image], tile=tile, rowsperstrip=None if tile else 64, compression="zlib")
    del image
    level = open_slide(slide).levels[0]
    tracemalloc.start()
    try:
        small = averaged_plane(
            level, (float(shape[0]), float(shape[1])), (max(1, shape[0] // 200), max(1, shape[1] // 200))
        )
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
    assert not small.any()


def slide_of(folder: Path, images: list[np.ndarray]) -> Slide:
    """A slide with ``images`` (y, x) as levels, however they lie over one another."""
    slides = [open_slide(ome_zarr(folder / f"{n}.ome.zarr", [image], "yx")) for n, image in enumerate(images)]
    levels = (
        replace(slide.levels[0], index=n, downsample=downsample_of(images[0].shape, slide.levels[0].shape))
        for n, slide in enumerate(slides)
    )
    return replace(slides[0], levels=tuple(levels))


def test_what_philips_fills_up_is_left_out(tmp_path: Path) -> None:
    sides = [(ceil(1200 / 2**i), ceil(1590 / 2**i)) for i in range(6)]
    images = []
    for side in sides:
        filled = np.zeros(tuple(ceil(n / 64) * 64 for n in side), np.uint8)
        filled[: side[0], : side[1]] = 1
        images.append(filled)
    slide = replace(slide_of(tmp_path, images), vendor="philips")
    whole = slide.levels[0]
    assert [level.shape for level in slide.levels] == [
        (1216, 1600),
        (640, 832),
        (320, 448),
        (192, 256),
        (128, 128),
        (64, 64),
    ]
    for level in slide.levels:
        assert planes.span(level, whole, filled=True) == (2**level.index,) * 2
        source, extent = choose_source(replace(slide, levels=(whole, level)), 0, (1, 1), most_bytes=inf)
        assert extent == pytest.approx((1216 / 2**level.index, 1600 / 2**level.index))
        averaged = averaged_plane(source, extent, (38, 50))
        assert np.allclose(averaged[: 1200 // 32, : 1590 // 32], 1)
        assert averaged.mean() == pytest.approx(1200 * 1590 / (1216 * 1600), abs=0.02)
    assert planes.span(slide.levels[2], whole, filled=False) is None


def test_levels_that_do_not_lie_over_the_finest_are_not_used(tmp_path: Path) -> None:
    images = [np.zeros(side, np.uint8) + 1 for side in [(400, 600), (200, 300), (100, 100)]]
    slide = slide_of(tmp_path, images)
    assert choose_source(slide, 0, (10, 10), most_bytes=inf)[0].index == 1
    assert choose_source(slide, 2, (10, 10), most_bytes=inf) == (slide.levels[2], (100.0, 100.0))


@pytest.mark.parametrize(
    ("wanted", "index"), [((20, 30), 2), ((50, 75), 2), ((51, 76), 1), ((200, 300), 0), ((900, 900), 0)]
)
def test_source_is_the_coarsest_level_that_has_the_pixels(tmp_path: Path, wanted: Sides, index: int) -> None:
    images = [np.full((200 // d, 300 // d, 3), 255, np.uint8) for d in (1, 2, 4)]
    slide = open_slide(write_pyramid(tmp_path / "a.tif", images))
    assert choose_source(slide, 0, wanted, most_bytes=inf)[0].index == index


def test_the_finest_readable_level_is_the_source_where_none_has_the_pixels(tmp_path: Path) -> None:
    images = [np.full((512 // d, 512 // d, 3), 255, np.uint8) for d in (1, 4, 8)]
    slide = open_slide(write_pyramid(tmp_path / "a.tif", images))
    assert choose_source(slide, 0, (320, 320), most_bytes=128 * 128 * 3)[0].index == 1
    with pytest.raises(SlideFormatError, match="coarsest level is 64 wide x 64 high"):
        choose_source(slide, 0, (320, 320), most_bytes=64 * 64 * 3 - 1)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, "uint8"), (2, "uint8"), (3, "uint8"), (4, "uint8"), (5, "uint16"), (1, "uint16")]
)
def test_any_channels_and_bits_can_be_seen(channels: int, dtype: str) -> None:
    plane = np.random.default_rng(0).random((5, 6, channels)).astype(np.float32) * np.iinfo(dtype).max * 0.3
    rgb = as_rgb(plane, dtype)
    assert (rgb.shape, rgb.dtype) == ((5, 6, 3), np.uint8)
    if channels in (3, 4) and dtype == "uint8":
        assert np.array_equal(rgb, plane[..., :3].round())
    else:
        assert (rgb[..., 0] == rgb[..., 2]).all()
    assert dtype == "uint8" or rgb.max() == 255
    assert not as_rgb(np.zeros((1, 1, channels), np.float32), dtype).any()


@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
def test_slides_of_any_axes_have_a_picture(tmp_path: Path, axes: str) -> None:
    plane = np.where(disc((300, 500), (0.4, 0.6), 0.3), 40000, 0).astype(np.uint16)
    shape = tuple({"y": 300, "x": 500, "c": 2}.get(axis, 1) for axis in axes)
    slide = ome_zarr(tmp_path / "a.ome.zarr", [np.broadcast_to(plane, shape)], axes)
    store = write_store(tmp_path / "a.zarr", slide, (plane > 0).astype(np.uint8) * 200)
    found = summarise(str(slide), store)
    assert found.notes == ()
    assert imagecodecs.jpeg8_decode(found.thumbnail.jpeg)[disc(found.thumbnail.shape, (0.4, 0.6), 0.2)].mean() > 240


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (5, 2)])
def test_small_and_long_slides_have_a_picture(tmp_path: Path, shape: Sides) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((*shape, 3), 200, np.uint8)], tile=(16, 16))
    found = summarise(str(slide), write_store(tmp_path / "a.zarr", slide, np.full(shape, 7, np.uint8)))
    assert found.notes == ()
    assert max(found.thumbnail.shape) <= 320
    assert imagecodecs.jpeg8_decode(found.thumbnail.jpeg).shape[:2] == found.thumbnail.shape


def test_a_thumbnail_of_tissue_is_small_enough_for_a_thousand(tmp_path: Path) -> None:
    from wsipipe.demo import draw_tissue

    image = draw_tissue(np.random.default_rng(3), (480, 640))
    slide = write_pyramid(tmp_path / "a.tif", [image])
    found = summarise(str(slide), write_store(tmp_path / "a.zarr", slide, (image[..., 0] < 150).astype(np.uint8) * 7))
    assert 5_000 < len(found.thumbnail.jpeg) <= picture.JPEG_BYTES


def test_a_level_is_read_whole_tiles_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = open_slide(write_pyramid(tmp_path / "a.tif", [np.zeros((300, 200, 3), np.uint8)], tile=(64, 64)))
    seen: list[Level | int] = []
    read_box = planes.read_box
    monkeypatch.setattr(planes, "read_box", lambda level, box: seen.append(box.y0) or read_box(level, box))
    monkeypatch.setattr(planes, "BAND_BYTES", 130 * 200 * 3)
    averaged_plane(slide.levels[0], (300.0, 200.0), (30, 20))
    assert seen == [0, 128, 256]
