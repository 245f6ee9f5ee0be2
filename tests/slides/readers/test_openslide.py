from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.real_data import data, needs_data
from tests.slides.made import APERIO, VMS, patch, picture, pyramid, tile_at, vms
from wsipipe.arrays import Pixels
from wsipipe.errors import PlaneError, SlideFormatError, SlideReadError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.readers.openslide import EXACT_PX, exact_places, over
from wsipipe.slides.slide import Level

openslide = pytest.importorskip("openslide")


def whole(level: Level) -> Pixels:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


def test_vms_is_read_as_it_was_written(tmp_path: Path) -> None:
    image = vms(tmp_path)
    slide = open_slide(tmp_path / VMS)
    assert (slide.reader, slide.vendor, slide.name) == ("openslide", "hamamatsu", "case-17")
    assert (slide.mpp, slide.mpp_source) == (0.5, "openslide.mpp-x and -y")
    assert slide.why == "OpenSlide knows it"
    assert slide.associated == ("macro",)
    assert [level.downsample for level in slide.levels][:3] == [1, 2, 4]
    np.testing.assert_array_equal(whole(slide.levels[0]), image)


@pytest.mark.parametrize("changed", ["image.jpg", "map.jpg", VMS])
def test_identity_is_that_of_the_data_files_too(tmp_path: Path, changed: str) -> None:
    vms(tmp_path)
    slide = open_slide(tmp_path / VMS)
    with (tmp_path / changed).open("ab") as file:
        file.write(b"\n")
    assert open_slide(tmp_path / VMS).identity != slide.identity
    with pytest.raises(SlideReadError, match=rf"{VMS} has changed since it was opened"):
        _ = slide.levels[0].array


def test_data_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    vms(tmp_path)
    (tmp_path / "image.jpg").unlink()
    with pytest.raises(SlideFormatError, match=rf"{VMS} cannot be opened by OpenSlide: .*image.jpg"):
        open_slide(tmp_path / VMS)


@needs_data
@pytest.mark.parametrize("name", ["slides/CMU-1-Small-Region.svs", "slides/tcga-cr-7395-01a-01-ts1.svs"])
def test_levels_at_odd_downsamples_equal_those_of_the_tiff_reader(name: str) -> None:
    one, other = (open_slide(data(name), reader=reader) for reader in ("tiff", "openslide"))
    for mine, theirs in zip(one.levels, other.levels, strict=True):
        box = Box(mine.shape[0] - 700, mine.shape[0], mine.shape[1] - 700, mine.shape[1])
        # Both decode with a library of their own; one grey value is rounding.
        assert np.abs(read_box(mine, box).astype(int) - read_box(theirs, box)).max() <= 1


@given(st.integers(1, 400), st.fractions(1, 9, max_denominator=60))
def test_exact_places_are_those_where_a_pixel_of_level_0_begins(size: int, downsample: Fraction) -> None:
    expected = [i for i in range(size) if abs(i * downsample - round(i * downsample)) < EXACT_PX * downsample]
    assert exact_places(size, float(downsample)).tolist() == expected
    assert expected[0] == 0


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 4), min_size=1), st.tuples(*[st.integers(0, 255)] * 3))
def test_transparent_pixels_lie_over_the_background(
    pixels: list[tuple[int, int, int, int]], background: tuple[int, int, int]
) -> None:
    found = over(np.array(pixels, np.uint8), np.array(background, np.uint8))
    for (*rgb, alpha), row in zip(pixels, found, strict=True):
        exact = [Fraction(c * alpha + b * (255 - alpha), 255) for c, b in zip(rgb, background, strict=True)]
        assert all(abs(int(value) - wanted) <= Fraction(1, 2) for value, wanted in zip(row, exact, strict=True))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """An SVS of 4 x 4 tiles of 256 px, of which the one in row 1, column 2 is not a JPEG."""
    path = tmp_path / "case-17.svs"
    options = {"description": APERIO.format(w=1024, h=1024), "compression": "jpeg", "tile": (256, 256)}
    pyramid(path, picture((1024, 1024, 3)), levels=1, **options)
    offset, count = tile_at(path, 6)
    patch(path, offset, b"\0" * count)
    return path


def test_damaged_region_is_an_error_and_the_others_are_still_read(damaged: Path) -> None:
    level = open_slide(damaged, reader="openslide").levels[0]
    sound = read_box(level, Box(512, 1024, 0, 1024))
    for _ in range(2):
        with pytest.raises(SlideReadError, match=r"case-17.svs level 0 cannot be read at .*: OpenSlide: "):
            read_box(level, Box(256, 512, 512, 768))
        np.testing.assert_array_equal(read_box(level, Box(512, 1024, 0, 1024)), sound)


def test_error_of_one_thread_is_not_that_of_another(damaged: Path) -> None:
    level = open_slide(damaged, reader="openslide").levels[0]
    store = level.array.store
    sound = store.handle.region(0, (512, 0), (64, 64))

    def read(number: int) -> object:
        try:
            return store.handle.region(0, (512, 0) if number % 2 else (256, 512), (64, 64))
        except SlideReadError as err:
            return str(err)

    with ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(read, range(200))):
            assert isinstance(found, str) != bool(number % 2)
            if number % 2:
                np.testing.assert_array_equal(found, sound)


def test_damage_in_the_middle_is_found_when_it_is_opened(damaged: Path) -> None:
    offset, count = tile_at(damaged, 10)
    patch(damaged, offset, b"\0" * count)
    with pytest.raises(SlideReadError, match=r"case-17.svs cannot be read: OpenSlide: .* copy it again"):
        open_slide(damaged, reader="openslide")


def test_reader_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = picture((200, 300, 3))
    pyramid(path, image)
    slide = open_slide(path, reader="openslide")
    assert (slide.reader, slide.vendor, slide.why) == ("openslide", "generic-tiff", "asked for")
    assert slide.levels[0].reading == "--reader openslide"
    np.testing.assert_array_equal(whole(slide.levels[0]), image)
    with pytest.raises(SlideFormatError, match=r"a.tif is not a slide .*; reader dicom does not recognise it"):
        open_slide(path, reader="dicom")
    with pytest.raises(
        UsageError, match="--reader tifffile is not a reader; allowed: tiff, ome-zarr, dicom, picture, openslide"
    ):
        open_slide(path, reader="tifffile")


def test_openslide_is_not_asked_for_tiff_files_of_no_scanner(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, np.ones((200, 300), np.float32))
    assert openslide.OpenSlide.detect_format(path) == "generic-tiff"
    with pytest.raises(SlideFormatError, match="SampleFormat"):
        open_slide(path)


@pytest.mark.parametrize("reader", [None, "openslide"])
def test_without_openslide_the_error_says_how_to_get_it(tmp_path: Path, reader: str | None) -> None:
    vms(tmp_path)
    code = (
        "import importlib.util as util, sys; sys.modules['openslide'] = None; find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'openslide' else find(name, *a)\n"
        "from wsipipe.slides.open import open_slide; open_slide(sys.argv[1], reader=eval(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / VMS), repr(reader)]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stderr
    assert said.splitlines()[-1].startswith("wsipipe.errors.SlideFormatError: ")
    assert "pip install 'wsipipe[openslide]'" in said


@pytest.mark.parametrize("rest", ["folder", "folder without Slidedat.ini"])
def test_mrxs_without_its_pixels_is_an_error_that_names_what_is_missing(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "case-17.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    if rest != "folder":
        (tmp_path / "case-17").mkdir()
    wanted = "is without its folder case-17" if rest == "folder" else "lacks case-17/Slidedat.ini"
    for reader in (None, "openslide"):
        with pytest.raises(
            SlideFormatError, match=rf"^case-17.mrxs {wanted}, .*; copy the file and its folder case-17"
        ):
            open_slide(path, reader=reader)


def test_focal_planes_are_not_read_as_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        for seed in range(3):
            image = picture((150, 170, 3), seed=seed)
            options: dict[str, Any] = {"description": APERIO.format(w=170, h=150), "compression": "jpeg"}
            tiff.write(image, tile=(64, 64), photometric="rgb", metadata=None, **options)
    with pytest.raises(PlaneError, match=r"^a.svs holds 3 focal planes.* --reader openslide, then choose with --z"):
        open_slide(path, reader="openslide")
