"""The pixels of real files against each other, and against OpenSlide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.real_data import data, needs_data, real
from tests.slides.made import APERIO
from wsipipe.arrays import Pixels
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import Level

CROP = Box(900, 1517, 600, 1333)
"""Place in the CMU slide of the crop that other programs rewrote."""
CMU = "slides/CMU-1-Small-Region.svs"


def whole(level: Level) -> Pixels:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


@pytest.mark.parametrize(
    "name",
    real(
        "writers/cmu-crop_pyr_deflate.tif",
        "writers/cmu-crop_pyr_zlib.ome.tif",
        "writers/cmu-crop_strip_none.tif",
        "writers/cmu-crop_tile_lzw_128x64.tif",
        "zarr/ngff-zarr_0.4_cyx.ome.zarr",
        "zarr/ome-zarr-py_v05_cyx.zarr",
    ),
)
def test_lossless_copy_equals_the_slide_it_was_cut_from(name: str) -> None:
    expected = read_box(open_slide(data(CMU)).levels[0], CROP)
    np.testing.assert_array_equal(whole(open_slide(data(name)).levels[0]), expected)


@needs_data
def test_grey_16_bit_is_the_same_from_two_writers() -> None:
    tiff, ome = (
        open_slide(data(f"writers/{name}")) for name in ("cmu-crop_gray16_pyr_deflate.tif", "gray16_pyr_lzw.ome.tif")
    )
    # Only the finest: each program shrinks in its own way.
    assert [level.shape for level in tiff.levels] == [level.shape for level in ome.levels]
    np.testing.assert_array_equal(whole(tiff.levels[0]), whole(ome.levels[0]))


@pytest.mark.parametrize("name", real(CMU, "slides/tcga-cr-7395-01a-01-ts1.svs", "slides/test3-DAPI-2-387.ndpi"))
def test_openslide_decodes_the_same_pixels_at_every_level(name: str) -> None:
    openslide = pytest.importorskip("openslide")
    slide = open_slide(data(name))
    with openslide.OpenSlide(str(data(name))) as other:
        for level in slide.levels:
            assert other.level_dimensions[level.index] == level.shape[::-1]
            # OpenSlide takes the ratio of the sides, which holds the remainder of an odd one.
            assert other.level_downsamples[level.index] == pytest.approx(level.downsample, rel=1 / min(level.shape))
            height, width = (min(size, 1500) for size in level.shape)
            pixels = np.asarray(other.read_region((0, 0), level.index, (width, height)))[..., :3]
            # Both decode with a JPEG library of their own; one grey value is rounding.
            assert np.abs(pixels.astype(int) - read_box(level, Box(0, height, 0, width))).max() <= 1
        mpp = other.properties.get("openslide.mpp-x")
    assert slide.mpp == (None if mpp is None else pytest.approx(float(mpp)))


def test_aperio_ycbcr_jpeg2000_is_rgb_as_openslide_has_it(tmp_path: Path) -> None:
    openslide = pytest.importorskip("openslide")
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    options = {"photometric": "rgb", "tile": (128, 128), "description": APERIO.format(w=128, h=128), "metadata": None}
    codec = {"compression": "APERIO_JP2000_YCBC", "compressionargs": {"level": 0, "mct": False}}
    tifffile.imwrite(tmp_path / "ycc.svs", np.kron(colours, np.ones((8, 8, 1), np.uint8)), **options, **codec)
    with openslide.OpenSlide(str(tmp_path / "ycc.svs")) as other:
        expected = np.asarray(other.read_region((0, 0), 0, (128, 128)))[..., :3].astype(int)
    assert np.abs(whole(open_slide(tmp_path / "ycc.svs").levels[0]) - expected).max() <= 1


@needs_data
def test_copied_aperio_description_does_not_hide_the_levels() -> None:
    slide = open_slide(data("writers/vips_pyr_with_Aperio_description.tif"))
    assert [level.shape for level in slide.levels] == [(2967, 2220), (1483, 1110), (741, 555), (370, 277), (185, 138)]
    assert slide.associated == ()
    # The last level is the first one, shrunk: its mean colour is the slide's.
    fine, coarse = whole(slide.levels[0]), whole(slide.levels[-1])
    assert np.abs(fine.mean((0, 1)) - coarse.mean((0, 1))).max() < 2


@needs_data
def test_scanner_files_keep_label_macro_and_thumbnail_apart() -> None:
    cmu = open_slide(data(CMU))
    assert [name.split()[0] for name in sorted(cmu.associated)] == ["label", "macro", "thumbnail"]
    assert len(cmu.levels) == 1
    tcga = open_slide(data("slides/tcga-cr-7395-01a-01-ts1.svs"))
    assert [level.shape for level in tcga.levels] == [(3567, 4443), (1783, 2221)]
    assert tcga.associated == ("thumbnail 956 wide x 768 high",)
    ndpi = open_slide(data("slides/test3-DAPI-2-387.ndpi"))
    assert len(ndpi.levels) == 4
    assert len(ndpi.associated) == 2
