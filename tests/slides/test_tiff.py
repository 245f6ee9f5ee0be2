from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile

from tests.real_data import data, needs_data
from tests.slides.made import APERIO, patch, picture, pyramid, set_tag, tile_at
from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides import tiles
from wsipipe.slides.reading import read_box
from wsipipe.slides.slide import open_slide
from wsipipe.slides.source import OpenFile


@pytest.mark.parametrize("shape", [(200, 300), (200, 300, 3), (200, 300, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("tile", [(64, 32), None])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("subifds", [False, True])
def test_lossless_tiff_reads_as_written(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, tile: tuple[int, int] | None, bigtiff: bool, subifds: bool
) -> None:
    extra = {"extrasamples": ["unassalpha"]} if shape[-1] == 4 else {}
    images = pyramid(
        tmp_path / "a.tif",
        picture(shape, dtype),
        tile=tile,
        bigtiff=bigtiff,
        subifds=subifds,
        compression="zlib",
        **extra,
    )
    slide = open_slide(tmp_path / "a.tif")
    assert [level.shape for level in slide.levels] == [image.shape[:2] for image in images]
    assert slide.levels[0].axes == ("yx" if len(shape) == 2 else "yxc")
    for level, image in zip(slide.levels, images, strict=True):
        got = read_box(level, Box(0, image.shape[0], 0, image.shape[1]))
        np.testing.assert_array_equal(got, image.reshape(got.shape))
        assert got.dtype == dtype


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "lzma"])
def test_planar_rgb_reads_as_channels_last(tmp_path: Path, compression: str | None) -> None:
    image = picture((150, 130, 3))
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.moveaxis(image, -1, 0),
        photometric="rgb",
        planarconfig="separate",
        tile=(64, 64),
        compression=compression,
    )
    level = open_slide(tmp_path / "a.tif").levels[0]
    assert (level.axes, level.channels, level.array.shape) == ("cyx", 3, (3, 150, 130))
    np.testing.assert_array_equal(read_box(level, Box(3, 149, 60, 130)), image[3:149, 60:130])


def test_ome_channels_in_pages_are_channels(tmp_path: Path) -> None:
    image = picture((150, 130, 5), "uint16")
    metadata = {"axes": "CYX", "PhysicalSizeX": 325, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.325}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.moveaxis(image, -1, 0), metadata=metadata, tile=(64, 64))
    slide = open_slide(tmp_path / "a.ome.tif")
    assert (slide.name, slide.vendor, slide.mpp) == ("a", "ome", pytest.approx(0.325))
    assert slide.mpp_source == "PhysicalSizeX and Y in OME-XML"
    assert (slide.levels[0].axes, slide.levels[0].channels) == ("cyx", 5)
    np.testing.assert_array_equal(read_box(slide.levels[0], Box(10, 140, 0, 130)), image[10:140])


STACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "pages": ("a.tif", {"photometric": "minisblack", "metadata": None}),
    "one directory": ("a.tif", {"photometric": "minisblack", "truncate": True}),
    "ImageJ": ("a.tif", {"imagej": True, "metadata": {"axes": "ZYX"}}),
    "OME z": ("a.ome.tif", {"metadata": {"axes": "ZYX"}}),
    "OME t": ("a.ome.tif", {"metadata": {"axes": "TYX"}}),
}


@pytest.mark.parametrize("kind", STACKS)
def test_stack_is_refused(tmp_path: Path, kind: str) -> None:
    name, options = STACKS[kind]
    tifffile.imwrite(tmp_path / name, np.stack([picture((64, 80), seed=i) for i in range(4)]), **options)
    with pytest.raises(SlideFormatError, match=f"{name} holds (several images|a stack|more than one plane)"):
        open_slide(tmp_path / name)


def test_two_images_of_comparable_size_are_refused(tmp_path: Path) -> None:
    for name in ("plain.tif", "two.ome.tif"):
        with tifffile.TiffWriter(tmp_path / name) as tiff:
            for shape in ((64, 80), (70, 66)):
                tiff.write(picture(shape), metadata={} if "ome" in name else None)
        with pytest.raises(SlideFormatError, match="holds several images"):
            open_slide(tmp_path / name)


def test_levels_are_found_among_a_scanners_other_images(tmp_path: Path) -> None:
    image = picture((400, 600, 3))
    path = tmp_path / "a.svs"
    tiled = {"photometric": "rgb", "metadata": None, "tile": (64, 64)}
    striped = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, description=APERIO.format(w=600, h=400), **tiled)
        # The thumbnail has the aspect of the slide, and lies between its levels.
        tiff.write(image[::3, ::3], description="Aperio Image Library\n600x400 -> 200x134 - |", **striped)
        tiff.write(image[::2, ::2], description="Aperio Image Library\n600x400 (64x64) -> 300x200 JPEG/RGB", **tiled)
        tiff.write(picture((90, 80, 3)), description="Aperio Image Library\nlabel 80x90", subfiletype=1, **striped)
        tiff.write(picture((100, 300, 3)), description="Aperio Image Library\nmacro 300x100", subfiletype=9, **striped)
    slide = open_slide(path)
    assert [level.shape for level in slide.levels] == [(400, 600), (200, 300)]
    assert sorted(name.split()[0] for name in slide.associated) == ["label", "macro", "thumbnail"]


def test_level_of_another_aspect_is_not_a_level(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(picture((400, 600)), tile=(64, 64), metadata=None)
        tiff.write(picture((150, 300)), tile=(64, 64), metadata=None, subfiletype=1)
        tiff.write(picture((200, 300)), tile=(64, 64), metadata=None, subfiletype=1)
    slide = open_slide(tmp_path / "a.tif")
    assert [level.shape for level in slide.levels] == [(400, 600), (200, 300)]
    assert slide.associated == ("image 150 x 300 px",)


REFUSED: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "float": (np.ones((64, 64), np.float32), {}, "SampleFormat"),
    "signed": (np.ones((64, 64), np.int16), {}, "SampleFormat"),
    "32 bit": (np.ones((64, 64), np.uint32), {}, "BitsPerSample 32"),
    "bilevel": (np.ones((64, 64), bool), {}, "BitsPerSample 1"),
    "white is zero": (picture((64, 64)), {"photometric": "miniswhite"}, "PhotometricInterpretation 0"),
    "CMYK": (picture((64, 64, 4)), {"photometric": "separated"}, "PhotometricInterpretation 5"),
    "palette": (
        picture((64, 64)),
        {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
        "PhotometricInterpretation 3",
    ),
    "upside down": (picture((64, 64)), {"extratags": [(274, "H", 1, 3, True)]}, "Orientation 3"),
    "grey and alpha": (
        picture((64, 64, 2)),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        "SamplesPerPixel 2",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_pixels_of_another_kind_are_refused_by_tag_and_value(tmp_path: Path, kind: str) -> None:
    image, options, tag = REFUSED[kind]
    tifffile.imwrite(tmp_path / "odd.tif", image, metadata=None, **options)
    with pytest.raises(SlideFormatError, match=f"odd.tif has {tag}.* wsipipe reads "):
        open_slide(tmp_path / "odd.tif")


@needs_data
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("slides/test_orient6.tif", "Orientation 6"),
        ("writers/cmu-small_pyr_jpeg.ome.tif", "PlanarConfiguration 2"),
    ],
)
def test_real_file_of_another_kind_is_refused(name: str, problem: str) -> None:
    with pytest.raises(SlideFormatError, match=problem):
        open_slide(data(name))


def test_file_whose_tiles_were_never_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300)))
    with tifffile.TiffFile(path) as tiff:
        counts = len(tiff.pages.first.databytecounts)
    set_tag(path, "TileByteCounts", (0,) * counts)
    with pytest.raises(SlideReadError, match=r"a.tif is half-written: none of its 20 tiles"):
        open_slide(path)


def test_missing_tiles_are_a_warning_and_read_as_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    image = picture((128, 192))
    pyramid(path, image, levels=1, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offsets = tiff.pages.first.dataoffsets
    set_tag(path, "TileOffsets", (offsets[0], 0, *offsets[2:]))
    slide = open_slide(path)
    assert slide.warnings == ("1 of 6 tiles of 128 x 192 px have no data and read as 0",)
    image[:64, 64:128] = 0
    np.testing.assert_array_equal(read_box(slide.levels[0], Box(0, 128, 0, 192))[..., 0], image)


def test_level_that_was_never_written_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300)), levels=2)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[1].aspage().tags["TileByteCounts"]
        tag.overwrite((0,) * tag.count)
    slide = open_slide(path)
    assert len(slide.levels) == 1
    assert slide.warnings == ("level of 100 x 150 px is left out: none of its tiles has data",)


def test_absurd_sizes_are_found_before_anything_is_allocated(tmp_path: Path) -> None:
    for tag, value, problem in (
        ("ImageWidth", 2**31, "is damaged: an image of 200 x 2147483648 px"),
        ("TileOffsets", (2**32 - 9,) * 20, "truncated or damaged: tile 0"),
        ("TileByteCounts", (2**31,) * 20, "truncated or damaged: tile 0"),
    ):
        path = tmp_path / f"{tag}.tif"
        pyramid(path, picture((200, 300)), levels=1)
        set_tag(path, tag, value)
        with pytest.raises(SlideError, match=problem):
            open_slide(path)


def test_single_tile_of_terabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture((64, 64)), metadata=None, compression="zstd")
    for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
        set_tag(path, tag, 2**21)
    with pytest.raises(SlideFormatError, match=r"strips of .* GiB each; wsipipe reads up to 1 GiB"):
        open_slide(path)


def test_truncated_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300)), levels=1)
    offset, _ = tile_at(path, 7)
    path.write_bytes(path.read_bytes()[: offset + 100])
    with pytest.raises(SlideReadError, match=r"a.tif is truncated or damaged: tile 7 .* copy it again"):
        open_slide(path)


def test_directories_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((64, 64)), levels=1, byteorder="<")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        next_directory = page.offset + 2 + 12 * len(page.tags)
    patch(path, next_directory, page.offset.to_bytes(4, "little"))
    with pytest.raises(SlideFormatError, match="go round in a circle"):
        open_slide(path)


@pytest.mark.parametrize(
    ("content", "error", "problem"),
    [
        (b"", SlideFormatError, "is empty"),
        (b"This is no image.", SlideFormatError, "is not a slide"),
        (b"II*\0", SlideFormatError, "is a damaged TIFF"),
        (b"II*\0\xff\xff\xff\xff", SlideFormatError, "is a damaged TIFF"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 8, SlideFormatError, "is a damaged TIFF"),
    ],
)
def test_file_that_is_no_slide_is_refused_by_name(
    tmp_path: Path, content: bytes, error: type[Exception], problem: str
) -> None:
    (tmp_path / "odd.svs").write_bytes(content)
    with pytest.raises(error, match=f"odd.svs {problem}"):
        open_slide(tmp_path / "odd.svs")


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_in_the_directories_give_no_other_error_than_ours(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.svs"
    pyramid(path, picture((130, 150, 3)), subifds=seed % 2 == 1, compression="zlib", description=APERIO)
    sound = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        directories = [page.offset for page in tiff.pages]
    random = np.random.default_rng(seed)
    outcomes = set()
    for _ in range(60):
        mutated = bytearray(sound)
        for _ in range(3):
            mutated[random.choice(directories) + random.integers(0, 200)] = random.choice([0, 1, 2, 128, 255])
        path.write_bytes(mutated)
        try:
            for level in open_slide(path).levels:
                read_box(level, Box(0, 1, 0, 1))
            outcomes.add("reads")
        except SlideError as err:
            outcomes.add("refused" if "a.svs" in str(err) else f"refused namelessly: {err}")
    assert outcomes == {"reads", "refused"}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(70, 90), (70, 90, 3)], ids=["grey", "RGB"])
@pytest.mark.parametrize("rows", [1, 16, 70])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_uncompressed_strips_are_read_by_rows_and_columns(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    byteorder: Literal["<", ">"],
    dtype: str,
    shape: tuple[int, ...],
    rows: int,
    one_by_one: bool,
) -> None:
    if one_by_one:
        monkeypatch.setattr(tiles, "NARROW", 0)
    image = picture(shape, dtype) ^ np.array(18, dtype)  # so that the two bytes of a pixel differ
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric=photometric, rowsperstrip=rows, metadata=None, byteorder=byteorder
    )
    level = open_slide(tmp_path / "a.tif").levels[0]
    assert level.tile == (1, 90)
    np.testing.assert_array_equal(level.array[:], image)
    counts: list[int] = []
    read = OpenFile.read

    def counting(file: OpenFile, offset: int, count: int) -> bytes:
        counts.append(count)
        return read(file, offset, count)

    monkeypatch.setattr(OpenFile, "read", counting)
    pixels = read_box(level, Box(10, 50, 20, 60))
    np.testing.assert_array_equal(pixels, image.reshape(70, 90, -1)[10:50, 20:60])
    if one_by_one:
        assert sum(counts) == pixels.nbytes, "no byte is read that is not wanted"
    else:
        assert len(counts) == {1: 40, 16: 4, 70: 1}[rows]


def test_a_single_uncompressed_strip_of_gigabytes_is_read(tmp_path: Path) -> None:
    """As ImageJ writes them: what is wanted of it is read, whatever its size."""
    path, side = tmp_path / "a.tif", 40_000
    tifffile.imwrite(path, picture((64, 64)), rowsperstrip=64, metadata=None)
    offset, _ = tile_at(path, 0)
    for tag, value in (("ImageWidth", side), ("ImageLength", side), ("RowsPerStrip", side)):
        set_tag(path, tag, value)
    set_tag(path, "StripByteCounts", side * side)
    patch(path, offset + side * (side - 1) + 100, b"pixels")
    os.truncate(path, offset + side * side)
    level = open_slide(path).levels[0]
    assert bytes(read_box(level, Box(side - 1, side, 100, 106))[0, :, 0]) == b"pixels"


def test_an_uncompressed_strip_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture((64, 64)), rowsperstrip=64, metadata=None)
    set_tag(path, "StripByteCounts", 64 * 40 + 10)
    level = open_slide(path).levels[0]
    np.testing.assert_array_equal(read_box(level, Box(0, 40, 0, 64))[:, :, 0], picture((64, 64))[:40])
    with pytest.raises(SlideReadError, match=r"a.tif level 0 .* strip 0 ends before its row 64 does"):
        read_box(level, Box(0, 64, 0, 64))
