"""What every reader promises, over real files of every kind and over small ones made here."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr

from tests.real_data import data, real
from tests.slides.made import APERIO, VMS, ome_zarr, picture, pyramid, vms, zipped
from wsipipe.errors import UsageError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import mirror
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box, read_mirrored
from wsipipe.slides.slide import Level, Slide

REAL = real(
    "slides/CMU-1-Small-Region.svs",
    "slides/tcga-cr-7395-01a-01-ts1.svs",
    "slides/test3-DAPI-2-387.ndpi",
    "writers/cmu-crop_pyr_zlib.ome.tif",
    "writers/cmu-crop_tile_lzw_128x64.tif",
    "writers/cmu-small_pyr_jpeg_bigtiff_subifd.tif",
    "writers/vips_pyr_with_Aperio_description.tif",
    "zarr/ngff-zarr_0.4_cyx.ome.zarr",
    "zarr/ome-zarr-py_v05_cyx.zarr",
    "dicom/cmu-small-wsi2dcm",
    "slides/CMU-1-Small-Region.svs openslide",
    "slides/test3-DAPI-2-387.ndpi openslide",
    "dicom/cmu-small-wsi2dcm/level-0-frames-0-30.dcm openslide",
)
MORE = real(
    "slides/boxes.tiff",
    "slides/grey10kx5k.tif",
    "slides/kidney-48-5.tif",
    "slides/small.svs",
    "slides/yb10kx5k.zstd.tiff",
    "writers/cmu-crop_gray16_pyr_deflate.tif",
    "writers/cmu-crop_pyr_deflate.tif",
    "writers/cmu-crop_strip_none.tif",
    "writers/cmu-small_pyr_jpeg.tif",
    "writers/gray16_pyr_lzw.ome.tif",
    "dicom/cmu-small-wsi2dcm/level-1-frames-0-9.dcm",
    marks=(pytest.mark.soak,),
)


def write_svs(path: Path) -> None:
    pyramid(path, picture((200, 300, 3)), description=APERIO.format(w=300, h=200), compression="jpeg")


def write_zarr(path: Path) -> None:
    ome_zarr(path, [picture((150, 130)), picture((75, 65))], "yx", "0.4")


def write_zip(path: Path) -> None:
    write_zarr(path.with_suffix(".zarr"))
    zipped(path, path.with_suffix(".zarr"))


def write_png(path: Path) -> None:
    path.write_bytes(imagecodecs.png_encode(picture((600, 130, 3), "uint16")))


def write_jpeg(path: Path) -> None:
    path.write_bytes(imagecodecs.jpeg8_encode(picture((150, 600, 3))))


MADE = {
    "grey8.tif": lambda path: pyramid(path, picture((200, 300))),
    "grey16.tif": lambda path: pyramid(path, picture((200, 300), "uint16"), compression="lzw", predictor=True),
    "rgb8.tif": lambda path: pyramid(path, picture((200, 300, 3)), compression="zstd"),
    "rgba16.tif": lambda path: pyramid(path, picture((200, 300, 4), "uint16"), extrasamples=["unassalpha"]),
    "strips.tif": lambda path: pyramid(path, picture((200, 300, 3)), tile=None, rowsperstrip=16, compression="zlib"),
    "big.btf": lambda path: pyramid(path, picture((200, 300, 3)), bigtiff=True, byteorder=">"),
    "subifds.tif": lambda path: pyramid(path, picture((200, 300, 3)), subifds=True),
    "made.svs": write_svs,
    "made.zarr": write_zarr,
    "made.ozx": write_zip,
    "made.png": write_png,
    "made.jpg": write_jpeg,
    VMS: lambda path: vms(path.parent),
}


@pytest.fixture(params=[*MADE, *REAL, *MORE])
def slide(request: pytest.FixtureRequest, tmp_path: Path) -> Slide:
    if request.param not in MADE:
        name, _, reader = request.param.partition(" ")
        return open_slide(data(name), reader=reader or None)
    path = tmp_path / request.param
    MADE[request.param](path)
    return open_slide(path)


def corners(shape: tuple[int, int], side: int = 100) -> list[Box]:
    """A box in each corner, and one in the middle."""
    sides = [min(side, size) for size in shape]
    starts = [(0, (size - s) // 2, size - s) for size, s in zip(shape, sides, strict=True)]
    places = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    return [Box(starts[0][i], starts[0][i] + sides[0], starts[1][j], starts[1][j] + sides[1]) for i, j in places]


def test_levels_agree_with_their_arrays(slide: Slide) -> None:
    for index, level in enumerate(slide.levels):
        array = level.array
        sizes = dict(zip(level.stored_axes, array.shape, strict=True))
        assert (sizes["y"], sizes["x"]) == level.shape
        assert sizes.get("c", 1) == level.channels
        assert array.dtype.name == level.dtype
        assert level.index == index
        assert level.axes in ("yx", "yxc", "cyx")
        assert array.read_only
        assert min(level.tile) > 0


def test_levels_go_from_fine_to_coarse(slide: Slide) -> None:
    downsamples = [level.downsample for level in slide.levels]
    assert downsamples[0] == 1
    assert downsamples == sorted(set(downsamples))
    for level in slide.levels:
        assert level.mpp == (None if slide.mpp is None else pytest.approx(slide.mpp * level.downsample))


def test_slide_survives_pickling_and_reads_the_same(slide: Slide) -> None:
    again = pickle.loads(pickle.dumps(slide))
    assert again == slide
    box = corners(slide.levels[0].shape, 40)[0]
    np.testing.assert_array_equal(read_box(again.levels[0], box), read_box(slide.levels[0], box))


def index_of(level: Level, box: Box) -> tuple[int | slice, ...]:
    """What `Level.array` is indexed with for ``box``."""
    where = {"y": box.slices[0], "x": box.slices[1], "c": slice(None)}
    return tuple(where.get(axis, 0) for axis in level.stored_axes)


def channels_last(level: Level, pixels: np.ndarray) -> np.ndarray:
    """``pixels``, with the axes of ``level``, as (y, x, channel)."""
    pixels = np.moveaxis(pixels, 0, -1) if level.axes == "cyx" else pixels
    return pixels.reshape(*pixels.shape[:2], level.channels)


def test_pixels_are_those_that_zarr_reads_whichever_way_and_from_several_threads(slide: Slide) -> None:
    for level in slide.levels:
        boxes = corners(level.shape)
        by_zarr = zarr.Array(level.array.async_array)
        expected = [channels_last(level, np.asarray(by_zarr[index_of(level, box)])) for box in boxes]
        ways = (
            partial(read_box, level),
            lambda box, level=level: level.read(box.y0, box.x0, *box.shape),
            lambda box, level=level: channels_last(level, level.array[index_of(level, box)]),
        )
        with ThreadPoolExecutor(4) as threads:
            for way in ways:
                for pixels, wanted in zip(threads.map(way, boxes), expected, strict=True):
                    assert pixels.dtype == level.dtype
                    np.testing.assert_array_equal(pixels, wanted)


def test_an_array_takes_any_index_as_zarr_does(slide: Slide) -> None:
    level = slide.levels[-1]
    by_zarr = zarr.Array(level.array.async_array)
    random = np.random.default_rng(3)
    for _ in range(20 if by_zarr.size < 2**20 else 1):  # some of these are the whole level
        index: list[Any] = []
        for size in by_zarr.shape:
            start, stop = (int(at) for at in sorted(random.integers(-2, min(size, 200) + 2, 2)))
            at = int(random.integers(-min(size, 200), 0) + random.choice([0, size]))
            choices = [at, np.int64(at), slice(start, stop), slice(at, None), slice(start, stop, 3)]
            index.append(choices[random.integers(len(choices))])
        cut = int(random.integers(len(index) + 1))
        for each in (tuple(index), (*index[:cut], ...), (..., *index[cut:]), tuple(index[:cut])):
            found, wanted = level.array[each], by_zarr[each]
            assert np.shape(found) == np.shape(wanted)
            np.testing.assert_array_equal(found, wanted)
    for wrong in ((0,) * (by_zarr.ndim + 1), by_zarr.shape[0], (..., ...), 0.5):
        with pytest.raises(IndexError):
            level.array[wrong]
    assert level.array[np.s_[:0]].size == 0


def test_a_level_goes_on_as_its_mirror_image(slide: Slide) -> None:
    level = [level for level in slide.levels if min(level.shape) > 15][-1]
    height, width = (min(60, size) for size in level.shape)
    corner = read_box(level, Box(0, height, 0, width))
    expected = np.pad(corner, ((17, 0), (9, 0), (0, 0)), mode="symmetric")[: height - 3, : width - 11]
    np.testing.assert_array_equal(level.read(-17, -9, height - 3, width - 11, mirror=True), expected)


@pytest.mark.parametrize(
    "place", [(-1, 0, 5, 5), (0, -1, 5, 5), (196, 0, 5, 5), (0, 296, 5, 5), (0, 0, 0, 5), (9, 9, 5, -1)]
)
def test_pixels_beyond_a_level_are_refused(tmp_path: Path, place: tuple[int, int, int, int]) -> None:
    pyramid(tmp_path / "a.tif", picture((200, 300)))
    level = open_slide(tmp_path / "a.tif").levels[0]
    with pytest.raises(UsageError, match=r"^a.tif level 0.*(mirror=True|1 x 1 px or more)$"):
        level.read(*place)
    assert level.read(195, 295, 5, 5).shape == (5, 5, 1)


def test_mirrored_pixels_equal_numpy_indexing_in_any_order(slide: Slide) -> None:
    level = slide.levels[0]
    height, width = (min(90, size) for size in level.shape)
    whole = read_box(level, Box(level.shape[0] - height, level.shape[0], level.shape[1] - width, level.shape[1]))
    random = np.random.default_rng(1)
    rows, cols = random.integers(0, height, 50), random.integers(0, width, 31)
    got = read_mirrored(level, rows + level.shape[0] - height, cols + level.shape[1] - width)
    np.testing.assert_array_equal(got, whole[rows][:, cols])


def test_opening_twice_gives_the_same_slide(slide: Slide) -> None:
    assert open_slide(slide.path, reader=slide.reader if slide.why == "asked for" else None) == slide


def test_level_is_opened_again_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = picture((100, 90, 3))
    pyramid(path, image)
    level = open_slide(path).levels[0]
    assert level.array is level.array  # open here, and still sent as values
    (tmp_path / "level").write_bytes(pickle.dumps(level))
    code = (
        "import pickle, sys; from wsipipe.geometry.grid import Box;"
        "from wsipipe.slides.pixels.mirrored import read_box;"
        "level = pickle.loads(open(sys.argv[1], 'rb').read());"
        "sys.stdout.buffer.write(read_box(level, Box(0, 100, 0, 90)).tobytes())"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "level")]
    assert subprocess.run(command, check=True, capture_output=True).stdout == image.tobytes()


def test_pixels_are_the_same_whatever_memory_they_are_read_into(slide: Slide) -> None:
    level = slide.levels[-1]
    box = Box(0, min(level.shape[0], 70), 0, min(level.shape[1], 90))
    expected = read_box(level, box)
    rows, cols = (mirror(np.arange(-20, side), side) for side in box.shape)
    mirrored = np.pad(expected, ((20, 0), (20, 0), (0, 0)), "symmetric")
    for count in (1, mirrored.nbytes, mirrored.nbytes + 100):
        memory = np.full(count, 77, np.uint8)
        found = read_mirrored(level, rows, cols, memory=memory)
        np.testing.assert_array_equal(found, mirrored)
        assert np.shares_memory(found, memory) == (count >= mirrored.nbytes)
    wide = np.zeros((expected.shape[0] + 3, expected.shape[1] + 5, expected.shape[2]), expected.dtype)
    assert read_box(level, box, into=wide[3:, 5:]).base is wide
    np.testing.assert_array_equal(wide[3:, 5:], expected)
    assert not wide[:3].any()


def test_reading_accounts_for_its_time(slide: Slide) -> None:
    level, spent = slide.levels[-1], Spent()
    read_box(level, Box(0, 1, 0, 1), spent=spent)
    assert spent.read > 0
    assert spent.threads == spent.read + spent.decode
