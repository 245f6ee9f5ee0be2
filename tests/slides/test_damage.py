"""A tile that cannot be decoded is an error, never pixels: real tiles are damaged and read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.real_data import data, real
from tests.slides.made import ome_zarr, patch, picture, pyramid, tile_at
from wsipipe.errors import SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box, read_mirrored
from wsipipe.slides.readers.jpeg import END, START_OF_SCAN, frame_of, what_is_missing
from wsipipe.slides.readers.tiff.image import TiledImage
from wsipipe.slides.readers.tiff.store import TiffStore
from wsipipe.slides.slide import Level

TILE = 9


def whole(level: Level) -> np.ndarray:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


def damaged(tmp_path: Path, source: Path, damage: Callable[[int, int], tuple[int, bytes]]) -> Level:
    """Level 0 of a copy of ``source``, opened after ``damage`` was done to one of its tiles."""
    path = tmp_path / source.name
    shutil.copyfile(source, path)
    patch(path, *damage(*tile_at(path, TILE)))
    return open_slide(path).levels[0]


DAMAGES: dict[str, Callable[[int, int], tuple[int, bytes]]] = {
    "all zeros": lambda offset, count: (offset, bytes(count)),
    "zeros from the middle on": lambda offset, count: (offset + count // 2, bytes(count - count // 2)),
    "noise from the middle on": lambda offset, count: (
        offset + count // 2,
        np.random.default_rng(0).bytes(count - count // 2),
    ),
}
COMPRESSED = real(
    "slides/CMU-1-Small-Region.svs",
    "slides/tcga-cr-7395-01a-01-ts1.svs",
    "slides/test3-DAPI-2-387.ndpi",
    "slides/yb10kx5k.zstd.tiff",
    "writers/cmu-crop_tile_lzw_128x64.tif",
    "writers/cmu-small_pyr_jpeg.tif",
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", COMPRESSED)
def test_damaged_tile_is_an_error_that_names_file_level_and_region(tmp_path: Path, name: str, damage: str) -> None:
    level = damaged(tmp_path, data(name), DAMAGES[damage])
    height, width = level.tile
    columns = -(-level.shape[1] // width)
    box = Box(*(TILE // columns * height + d for d in (1, 3)), *(TILE % columns * width + d for d in (2, 5)))
    with pytest.raises(
        SlideReadError, match=rf"{Path(name).name} level 0 cannot be read at \[{box.y0}:{box.y1}.*tile 9"
    ):
        read_box(level, box)
    with pytest.raises(SlideReadError, match="tile 9"):  # and so does zarr, without our reading
        level.array[box.slices]
    assert read_box(level, Box(0, 2, 0, 2)).shape[:2] == (2, 2)  # the other tiles are as good as before


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "jpeg", "jpeg2000", "packbits", "webp"])
def test_short_tile_is_an_error(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300, 3)), levels=1, compression=compression)
    sound = open_slide(path)
    level = sound.levels[0]
    array = level.array
    offset, count = tile_at(path, 19)
    assert offset + count == path.stat().st_size, "the last tile ends the file"
    # Truncated while it is open: nobody checks the tags again.
    with path.open("r+b") as file:
        file.truncate(offset + count - 5)
    with pytest.raises(SlideReadError, match=f"tile 19 ends after {count - 5} of its {count} bytes"):
        whole(level)
    del array


@pytest.mark.parametrize("damage", list(DAMAGES)[:2])
def test_file_whose_first_tile_is_damaged_is_refused_when_opened(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300, 3)), compression="jpeg")
    patch(path, *DAMAGES[damage](*tile_at(path, 0)))
    with pytest.raises(SlideReadError, match=r"a.tif cannot be decoded: tile 0 .*\(jpeg\); copy it again"):
        open_slide(path)


def test_interior_blocks_are_not_copied_and_mirrored_ones_fail_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300, 3)), levels=1, compression="zlib")
    offset, count = tile_at(path, TILE)
    patch(path, offset, bytes(count))
    level = open_slide(path).levels[0]
    memory = np.empty(64 * 300 * 3, np.uint8)
    assert np.shares_memory(read_mirrored(level, np.arange(64), np.arange(300), memory=memory), memory)
    with pytest.raises(SlideReadError, match=r"a.tif level 0"):
        read_mirrored(level, np.arange(127, 60, -1), np.arange(299, 200, -1))


@pytest.mark.parametrize("cut", [1, 20, 1200])
@pytest.mark.parametrize("version", ["0.4", "0.5"])  # zarr compresses them with Blosc and with zstd
def test_truncated_chunk_of_ome_zarr_is_an_error(tmp_path: Path, version: str, cut: int) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [picture((150, 130))], "yx", version)
    level = open_slide(path).levels[0]
    assert whole(level).all()
    chunk = path / "0" / ("c/0/1" if version == "0.5" else "0.1")
    chunk.write_bytes(chunk.read_bytes()[:-cut])
    with pytest.raises(SlideReadError, match=r"a.zarr level 0 cannot be read at \[0:150, 0:130\]"):
        whole(level)
    assert read_box(level, Box(64, 150, 0, 130)).all()


def test_jpeg_that_was_cut_anywhere_is_found() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    for codec, compression in ((imagecodecs.jpeg_encode, 7), (imagecodecs.jpeg2k_encode, 33005)):
        options = {} if compression == 7 else {"codecformat": "j2k"}
        sound = codec(picture((64, 64, 3)), **options)
        assert what_is_missing(sound, compression) is None
        assert what_is_missing(sound + b"\0\0", compression) is None  # padded to a word
        assert all(what_is_missing(sound[:end], compression) for end in range(4, len(sound) - 1, 7))


LAST = 16 + 1
"""Side in pixels of the last unit of a JPEG, and of what its colours reach: bits missing there leave no grey behind."""


def mutated(rng: np.random.Generator, tile: bytes) -> bytes:
    """A JPEG with one damage in its scan."""
    at = int(rng.integers(tile.find(START_OF_SCAN) + 14, len(tile) - 2))
    count = int(rng.choice([1, 2, 50]))
    instead = {
        0: bytes([0xFF, rng.integers(1, 256)]),
        1: bytes(count),
        2: b"",
        3: rng.bytes(count),
        4: b"\xff\xd3",
        5: END,
    }[int(rng.integers(6))]
    return tile[:at] + instead + tile[at + count :] if rng.random() < 0.9 else tile[:at]


@pytest.mark.parametrize("name", ["ycbcr", "rgb", "grey", *real("slides/CMU-1-Small-Region.svs")])
def test_the_last_pixel_of_a_jpeg_tile_shows_what_looking_for_markers_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "s.tif"
    if name.endswith(".svs"):
        path = data(name)
    else:
        pixels = picture((96, 128, 3))
        jpeg = {"photometric": "minisblack" if name == "grey" else "rgb", "compressionargs": {"outcolorspace": name}}
        if name == "grey":
            pixels, jpeg["compressionargs"] = pixels[..., 0], {}
        tifffile.imwrite(path, pixels, tile=(96, 128), compression="jpeg", metadata=None, **jpeg)
    level = open_slide(path).levels[0]
    store = level.array.store
    assert isinstance(store, TiffStore)
    image, page = store.image, store.image.pages[0]
    tile = store.file.read(int(page.dataoffsets[0]), int(page.databytecounts[0]))
    assert frame_of(tile).plain
    into, rng, refused = np.empty(page.chunks, np.uint8), np.random.default_rng(0), 0
    sound = image.decode(page, 0, tile)
    for _ in range(500):
        data_ = mutated(rng, tile)
        with monkeypatch.context() as patched:
            patched.setattr(TiledImage, "_decode_jpeg", lambda *_: False)
            try:
                expected = image.decode(page, 0, data_)
            except SlideReadError:
                expected = None
        try:
            found = image.decode(page, 0, data_, into)
        except SlideReadError:
            assert expected is None
            refused += 1
            continue
        if expected is not None:
            np.testing.assert_array_equal(found, expected.reshape(found.shape))
        else:
            different = np.argwhere((found != sound).reshape(*page.chunks[:2], -1).any(-1))
            assert (different >= np.array(page.chunks[:2]) - LAST).all()
    assert refused > 50
