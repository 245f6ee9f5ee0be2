"""Tissue detection leaves out glass and nothing else, on drawn slides and on real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.real_data import DATA, needs_data
from tests.slides.made import pyramid
from tests.tissue.drawn import SHAPE, Image, disc, glass, on_glass, tissue
from wsipipe.slides.open import open_slide
from wsipipe.tissue import detect
from wsipipe.tissue.detect import BLANK, BRIGHTFIELD, FLUORESCENCE, find_bytes, find_tissue, see, tissue_in
from wsipipe.tissue.mask import CELL_PX, mask_shape

CELL = float(CELL_PX**2)
WHERE = disc((150, 150), 90) | disc((60, 350), 25)


def near(where: np.ndarray, reach: int = 2) -> np.ndarray:
    return ndimage.binary_dilation(where, np.ones((2 * reach + 1, 2 * reach + 1)))


def check(image: Image, where: np.ndarray = WHERE, *, spare: np.ndarray | None = None, lost: float = 0.001) -> None:
    """Assert that all tissue but lumina is kept, and nothing else but pixels beside it or ``spare``."""
    kept, how = tissue_in(image, CELL)
    assert how == BRIGHTFIELD
    closed = ndimage.binary_closing(np.pad(kept, 9), np.ones((9, 9)))[9:-9, 9:-9]
    assert (where & ~closed).sum() <= lost * where.sum()
    beyond = kept & ~near(where)
    assert not (beyond if spare is None else beyond & ~near(spare)).any()


def test_tissue_is_kept_and_glass_is_left_out() -> None:
    check(on_glass(WHERE))


def test_half_of_a_percent_of_tissue_is_found() -> None:
    where = disc((150, 200), 14)
    assert where.mean() < 0.006
    check(on_glass(where), where)


def test_on_grey_slides_darkness_decides() -> None:
    check(on_glass(WHERE).mean(2, keepdims=True).round().astype(np.uint8))


def test_transparency_is_ignored() -> None:
    image = on_glass(WHERE)
    opaque = np.dstack([image, np.full(SHAPE, 255, np.uint8)])
    assert np.array_equal(tissue_in(opaque, CELL)[0], tissue_in(image, CELL)[0])


def test_what_is_tissue_all_over_is_kept_whole() -> None:
    kept, how = tissue_in(tissue(SHAPE), CELL)
    assert how == BRIGHTFIELD
    assert kept.all()


def test_on_glass_alone_there_is_nothing() -> None:
    assert not tissue_in(glass(), CELL)[0].any()
    assert not tissue_in(np.full((40, 50, 3), 243, np.uint8), CELL)[0].any()


def otsu(values: np.ndarray) -> int:
    """Otsu's threshold of whole numbers below 256, by trying all of them."""
    counts = np.bincount(values.ravel(), minlength=256).astype(float)
    at = np.arange(256)

    def between(t: int) -> float:
        below, above = counts[:t].sum(), counts[t:].sum()
        if not (below and above):
            return 0.0
        gap = (at[:t] * counts[:t]).sum() / below - (at[t:] * counts[t:]).sum() / above
        return float(below * above * gap**2)

    return max(range(256), key=between)


def test_pale_tissue_is_kept_that_otsus_threshold_takes_for_glass() -> None:
    image, pale = on_glass(WHERE), disc((230, 320), 40)
    image[pale] = image[pale] - np.array([4, 14, 6], np.uint8)  # so that it is rose
    assert image.min(2)[pale].max() >= otsu(image.min(2)), "else this shows nothing"
    check(image, WHERE | pale)


def line(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    where = np.zeros(SHAPE, bool)
    where[y0:y1, x0:x1] = True
    return where


def test_ink_moves_no_threshold() -> None:
    image, pale = on_glass(WHERE), disc((230, 320), 40)
    image[pale] = image[pale] - np.array([4, 14, 6], np.uint8)
    black, blue, over = line(8, 22, 20, 280), line(30, 290, 380, 396), line(120, 130, 100, 200)
    image[black | over], image[blue] = (12, 12, 14), (20, 40, 150)
    check(image, WHERE | pale, spare=blue)
    assert not tissue_in(image, CELL)[0][black & ~near(WHERE, 4)].any(), "without colour it is not a stain"


def test_dust_is_left_out() -> None:
    image, rng = on_glass(WHERE), np.random.default_rng(3)
    at = rng.integers(0, SHAPE[0], 400), rng.integers(0, SHAPE[1], 400)
    dust = np.zeros(SHAPE, bool)
    dust[at] = True
    dust &= ~near(WHERE, 3)
    image[dust] = rng.integers(20, 220, (dust.sum(), 1))
    check(image)


def test_faint_specks_are_left_out_and_a_single_nucleus_is_kept() -> None:
    image = glass()
    image[40, 50] -= np.array([8, 12, 4], np.uint8)  # of a cell of 64 px
    assert not tissue_in(image, CELL)[0].any()
    image[100:102, 200:202] = (150, 130, 190)
    assert np.argwhere(tissue_in(image, CELL)[0]).tolist() == [[100, 200], [100, 201], [101, 200], [101, 201]]


def test_the_edge_of_the_coverslip_and_bubbles_are_left_out() -> None:
    image = on_glass(WHERE)
    ring = disc((240, 330), 40) & ~disc((240, 330), 37)
    edge = line(280, 283, 0, 400) | line(0, 300, 5, 7) | ring
    image[edge] = (image[edge] * 0.35).astype(np.uint8)
    check(image)


@pytest.mark.parametrize("value", [0, 255])
def test_what_was_not_scanned_is_left_out_and_moves_no_threshold(value: int) -> None:
    image = on_glass(WHERE)
    image[:, 250:] = value
    where = WHERE & ~line(0, 300, 250, 400)
    check(image, where, spare=line(0, 300, 248, 252))
    assert not tissue_in(image, CELL)[0][:, 252:].any()


def test_sixteen_bits_are_as_good_as_eight() -> None:
    image = on_glass(WHERE)
    deep, _ = tissue_in(image.astype(np.uint16) * 16, CELL)
    shallow, _ = tissue_in(image, CELL)
    assert (deep != shallow).mean() < 0.002


@pytest.mark.parametrize(("dtype", "offset", "gain"), [("uint8", 3, 1), ("uint16", 110, 40), ("uint16", 400, 3)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_what_is_bright_on_black_is_kept(dtype: str, offset: int, gain: int, channels: int) -> None:
    rng, image = np.random.default_rng(4), np.zeros((*SHAPE, channels))
    nuclei = np.zeros(SHAPE, bool)
    for y, x in rng.integers(10, 290, (80, 2)):
        nuclei |= disc((y, x), 3)
    image[nuclei, channels - 1] = rng.uniform(40, 200, nuclei.sum())
    noise = rng.normal(0, 0.6, image.shape)
    kept, how = tissue_in((offset + gain * (image + noise)).clip(0).round().astype(dtype), CELL)
    assert how == FLUORESCENCE
    assert kept[nuclei].all()
    assert (kept & ~nuclei).mean() < 0.001


def test_in_the_dark_there_is_nothing() -> None:
    assert tissue_in(np.zeros((*SHAPE, 3), np.uint8), CELL)[1] == BLANK
    assert tissue_in(np.zeros((*SHAPE, 3), np.uint16), CELL)[1] == BLANK
    noise = np.random.default_rng(5).normal(5, 0.5, (*SHAPE, 1)).round().astype(np.uint8)
    assert not tissue_in(noise, CELL)[0].any()


def test_parts_and_the_levels_there_are_make_no_other_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = on_glass(WHERE).repeat(8, 0).repeat(8, 1)
    pyramid(tmp_path / "a.tif", image, levels=4)
    pyramid(tmp_path / "b.tif", image, levels=1)
    one, two = (open_slide(tmp_path / name) for name in ("a.tif", "b.tif"))
    wanted, _ = find_tissue(one, one.levels[0], halo=20)
    assert wanted.cells.shape == SHAPE
    assert 0.2 < wanted.share < 0.3
    monkeypatch.setattr(detect, "PART_PX", 100_000)
    assert len(detect.parts(two, two.levels[0])) == 100
    found, _ = find_tissue(two, two.levels[0], halo=20)
    assert np.array_equal(found.cells, wanted.cells)


def test_a_cell_is_zero_only_if_all_of_it_is(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[63, 63, 2] = 1
    pyramid(tmp_path / "a.tif", image, levels=1)
    slide = open_slide(tmp_path / "a.tif")
    seen = see(slide, slide.levels[0], range(8))
    assert np.argwhere(seen).tolist() == [[7, 7, 2]]


def test_memory_is_bounded(tmp_path: Path) -> None:
    pyramid(tmp_path / "a.tif", glass(), levels=1)
    level = open_slide(tmp_path / "a.tif").levels[0]
    huge, larger = (find_bytes(replace(level, shape=shape)) for shape in ((10**5, 10**5), (10**6, 10**5)))
    assert huge == pytest.approx(larger, rel=0.01)
    assert mask_shape((10**5, 10**5)) == (1024, 1024)


@needs_data
@pytest.mark.parametrize(
    ("name", "how", "least", "most"),
    [
        ("CMU-1-Small-Region.svs", BRIGHTFIELD, 0.4, 0.6),
        ("tcga-cr-7395-01a-01-ts1.svs", BRIGHTFIELD, 0.6, 0.75),
        ("kidney-48-5.tif", BRIGHTFIELD, 0.005, 0.05),
        ("test3-DAPI-2-387.ndpi", FLUORESCENCE, 0.7, 0.95),
    ],
)
def test_real_slides(name: str, how: str, least: float, most: float) -> None:
    assert DATA is not None
    slide = open_slide(DATA / "slides" / name)
    mask, found = find_tissue(slide, slide.levels[0], halo=44)
    assert found == how
    assert least < mask.share < most


@needs_data
def test_a_region_without_glass_is_kept_whole(tmp_path: Path) -> None:
    assert DATA is not None
    image = np.asarray(open_slide(DATA / "slides" / "tcga-cr-7395-01a-01-ts1.svs").levels[0].array[1300:2300, 700:1500])
    pyramid(tmp_path / "a.tif", image, levels=1)
    slide = open_slide(tmp_path / "a.tif")
    mask, _ = find_tissue(slide, slide.levels[0], halo=44)
    assert mask.cells.all()
