"""Small files that ask for much: memory is not taken because a file says so."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile

from tests.slides.made import APERIO, ome_zarr, picture, pyramid, set_tag
from tests.slides.mutants import layout
from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.readers.jpeg import samples_said
from wsipipe.slides.readers.omezarr.attributes import MAX_METADATA_BYTES
from wsipipe.slides.readers.omezarr.chunks import CHUNK_HEAD_BYTES, WholeChunkStore, decoded_bytes
from wsipipe.slides.slide import MAX_SIDE_PX, check_sides

ENCODERS: dict[str, tuple[int, int, Callable[..., bytes]]] = {
    "jpeg": (7, 3, imagecodecs.jpeg8_encode),
    "jpeg2000": (33005, 3, imagecodecs.jpeg2k_encode),
    "png": (34933, 1, imagecodecs.png_encode),
    "jpegxl": (50002, 1, partial(imagecodecs.jpegxl_encode, effort=1)),
}
"""By tifffile's name: TIFF's number, the samples of an RGB pixel that are counted, and an encoder."""
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
SIDES = [
    (40, 50),
    (256, 256),
    (300, 400),
    (1000, 16),
    (64, 128),
    (3, 700),
    (120, 100),
    (90, 160),
    (80, 64),
    (600, 900),
]


def with_tile(path: Path, codec: str, data: bytes) -> Path:
    """A slide whose first tile, of 64 x 64 px, is ``data``."""
    pyramid(path, picture((150, 170, 3)), levels=1, compression=codec)
    end = path.stat().st_size
    with path.open("ab") as file:
        file.write(data)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        for name, first in (("TileOffsets", end), ("TileByteCounts", len(data))):
            tags[name].overwrite((first, *tags[name].value[1:]), dtype="I")
    return path


def retyped(path: Path, code: int, kind: int) -> None:
    """Change the type of every tag ``code``."""
    data = bytearray(path.read_bytes())
    for entry in layout(bytes(data)):
        if struct.unpack_from("<H", data, entry.at)[0] == code:
            struct.pack_into("<H", data, entry.at + 2, kind)
    path.write_bytes(data)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("codec", ENCODERS)
def test_image_says_how_many_samples_it_has(codec: str, sides: tuple[int, int]) -> None:
    number, samples, encode = ENCODERS[codec]
    data = encode(picture((*sides, 3)))
    assert samples_said(data, number) == sides[0] * sides[1] * samples
    assert samples_said(data, 8) == samples_said(data[:2], 7) == samples_said(b"", number) == 0


@pytest.mark.parametrize("codec", ENCODERS)
def test_tile_that_says_it_is_larger_is_not_decoded(tmp_path: Path, codec: str) -> None:
    path = with_tile(tmp_path / "a.tif", codec, ENCODERS[codec][2](np.zeros((2048, 2048, 3), np.uint8)))
    with pytest.raises(SlideReadError, match=r"a.tif cannot be decoded: tile 0 of \(64, 64, 3\) says that it has"):
        open_slide(path)


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_tile_that_decodes_to_more_than_a_tile_is_an_error(tmp_path: Path, codec: str) -> None:
    encode = {"zlib": imagecodecs.zlib_encode, "zstd": imagecodecs.zstd_encode}[codec]
    path = with_tile(tmp_path / "a.tif", codec, encode(bytes(2**26)))
    with pytest.raises(SlideReadError, match=r"a.tif cannot be decoded: tile 0 .*(SPACE|too small)"):
        open_slide(path)


def test_openslide_is_not_asked_for_tiles_that_it_would_end_the_process_for(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = tmp_path / "a.svs"
    pyramid(path, picture((150, 170, 3)), compression="jpeg", description=APERIO.format(w=170, h=150))
    set_tag(path, "TileWidth", 2**30)
    for reader in (None, "openslide"):
        with pytest.raises(SlideFormatError, match=r"a.svs (level 0 )?has tiles"):
            open_slide(path, reader=reader)


def test_openslide_is_not_asked_for_sides_that_no_slide_has() -> None:
    check_sides("a.svs", [(MAX_SIDE_PX, MAX_SIDE_PX)])
    with pytest.raises(SlideFormatError, match=rf"a.svs level 1 is {2**30} wide x 150 high; .* up to {MAX_SIDE_PX} px"):
        check_sides("a.svs", [(150, 150), (150, 2**30)])


@pytest.mark.parametrize("code", [324, 325])
def test_places_that_are_no_whole_numbers_are_a_clear_error(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((150, 170, 3)), compression="zlib")
    retyped(path, code, 12)  # double precision
    with pytest.raises(
        SlideReadError, match=r"a.tif is (half-written: none of its 9 tiles has data|truncated or damaged)"
    ):
        open_slide(path)


def test_file_whose_first_channel_has_no_data_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    planes = np.stack([picture((60, 60))] * 2)
    tifffile.imwrite(
        path, planes, photometric="minisblack", metadata={"axes": "CYX"}, tile=(64, 64), compression="zlib"
    )
    set_tag(path, "TileByteCounts", 0)
    slide = open_slide(path)
    assert slide.warnings[0].startswith("1 of 2 tiles of 60 wide x 60 high have no data")
    pixels = read_box(slide.levels[0], Box(0, 60, 0, 60))
    np.testing.assert_array_equal(pixels, np.stack([np.zeros_like(planes[0]), planes[1]], -1))


@pytest.mark.parametrize("count", [2**31, 2**40, 2**63])
def test_tag_of_absurd_length_is_a_clear_error_or_left_out(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((150, 170)), levels=1, bigtiff=True, compression="zlib")
    sound = path.read_bytes()
    for entry in layout(sound):
        data = bytearray(sound)
        struct.pack_into("<Q", data, entry.count_at, count)
        path.write_bytes(data)
        try:
            assert open_slide(path).levels[0].shape == (150, 170)
        except SlideError as err:
            assert "a.tif" in str(err)  # noqa: PT017 - one of both


def test_subifds_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((150, 170)), levels=2, subifds=True, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        sub, tag = page.subifds[0], page.tags["SubIFDs"]  # type: ignore[index]
        here, there = tag.valueoffset, page.offset
    data = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from("<H", data, sub)
    struct.pack_into("<I", data, sub + 2 + 12 * tags, sub)  # its next is itself
    path.write_bytes(data)
    assert len(open_slide(path).levels) == 2
    struct.pack_into("<I", data, here, there)  # and the main one is its own SubIFD
    path.write_bytes(data)
    assert len(open_slide(path).levels) == 1


@pytest.mark.parametrize(
    "inner", [f"{LAUGHS}]><OME>&l11;</OME>", f"]>{'<a>' * 10**5}{'</a>' * 10**5}"], ids=["a billion laughs", "deep"]
)
@pytest.mark.parametrize("kind", ["<OME", "<scn", "<DataObject>", "<PerkinElmer-QPI-ImageDescription>"])
def test_xml_that_grows_is_a_clear_error_or_not_used(tmp_path: Path, kind: str, inner: str) -> None:
    path = tmp_path / "a.ome.tif"
    text = f'<?xml version="1.0"?><!-- {kind} --><!DOCTYPE OME [<!ENTITY l0 "lol">{inner}<!-- {kind} {"</OME>"} -->'
    pyramid(path, picture((150, 170)), levels=1, description=text)
    try:
        assert open_slide(path).mpp is None
    except SlideError as err:
        assert "a.ome.tif" in str(err)  # noqa: PT017 - one of both


@pytest.mark.parametrize("size", [1, 200, 255, 256, 257, 65791, 65792, 2**20, 2**24])
def test_chunk_says_how_many_bytes_it_decodes_to(size: int) -> None:
    for codec, name in ((numcodecs.Zstd(), "zstd"), (numcodecs.Blosc(), "blosc")):
        data = bytes(codec.encode(np.arange(size, dtype=np.uint8)))
        assert decoded_bytes(data[:CHUNK_HEAD_BYTES], name) == size
    assert (
        decoded_bytes(b"", "zstd") == decoded_bytes(b"\x28\xb5\x2f\xfd", "zstd") == decoded_bytes(b"1" * 18, "lz4") == 0
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])  # zarr compresses them with Blosc and with zstd
def test_chunk_that_is_or_says_it_is_larger_is_not_decoded(tmp_path: Path, version: str) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [picture((150, 130))], "yx", version)
    codec = numcodecs.Zstd() if version == "0.5" else numcodecs.Blosc(clevel=9, blocksize=2**22)
    chunk = path / "0" / ("c/0/1" if version == "0.5" else "0.1")
    for data, said in ((codec.encode(np.zeros(2**22, np.uint8)), 2**22), (chunk.read_bytes() + bytes(2**14), 5633)):
        chunk.write_bytes(data)
        level = open_slide(path).levels[0]
        with pytest.raises(SlideReadError, match=rf"a.zarr level 0 cannot be read .*0.1 has, or decodes to, {said}"):
            read_box(level, Box(0, 150, 0, 130))
    assert isinstance(level.array.store, WholeChunkStore)
    assert level.array.store.most_bytes == 64 * 64 * 9 // 8 + 1024


ABSURD: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    r"level 0 is 170 wide x 1099511627776 high; wsipipe reads": ("0", lambda d: d.update(shape=[2**40, 170])),
    r"level 0 is 170 wide x \d{61} high; wsipipe reads": ("0", lambda d: d.update(shape=[2**200, 170])),
    r"array 0 cannot be opened": ("0", lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[0, 64])),
    r"in chunks of \d+ bytes": ("0", lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2**40, 2**40])),
    r"its multiscales list 65 datasets": (
        "",
        lambda d: d["attributes"]["ome"]["multiscales"][0].update(datasets=[{"path": "0"}] * 65),
    ),
    r"zarr.json cannot be read .*recursion": ("", lambda d: d.update(attributes="DEEP")),
    r"array 0 cannot be opened .*recursion": ("0", lambda d: d.update(attributes="DEEP")),
}


@pytest.mark.parametrize("message", ABSURD)
def test_absurd_zarr_metadata_are_a_clear_error(tmp_path: Path, message: str) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [picture((150, 170))], "yx")
    folder, change = ABSURD[message]
    file = path / folder / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document).replace('"DEEP"', "[" * 10**5 + "]" * 10**5))
    with pytest.raises(SlideError, match=rf"a.zarr.*{message}"):
        open_slide(path)


@pytest.mark.parametrize("folder", ["", "0"])
def test_zarr_metadata_of_absurd_length_are_not_read(tmp_path: Path, folder: str) -> None:
    path = ome_zarr(tmp_path / "a.zarr", [picture((150, 170))], "yx")
    with (path / folder / "zarr.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(SlideFormatError, match=rf"a.zarr: zarr.json of .* has {2**40} bytes; .* {MAX_METADATA_BYTES}"):
        open_slide(path)
