from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tests.real_data import data, needs_data
from tests.slides.made import APERIO, patch, picture, pyramid, set_tag, tile_at
from wsipipe.arrays import Pixels
from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.byte_source import OpenFile
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.readers.tiff import store as tiff_store
from wsipipe.slides.slide import Level, choose_level


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


@pytest.mark.parametrize("options", [{"truncate": True}, {"imagej": True, "truncate": True}])
def test_stack_under_one_directory_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = np.stack([picture((64, 80), seed=i) for i in range(4)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **options)
    with pytest.raises(SlideFormatError, match=r"a.tif holds a stack of shape \(4, 64, 80\)"):
        open_slide(tmp_path / "a.tif")


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
    assert slide.associated == ("image 300 wide x 150 high",)


REFUSED: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "float": (np.ones((64, 64), np.float32), {}, "SampleFormat"),
    "signed": (np.ones((64, 64), np.int16), {}, "SampleFormat"),
    "32 bit": (np.ones((64, 64), np.uint32), {}, "BitsPerSample 32"),
    "complex": (np.ones((64, 64), np.complex64), {}, "SampleFormat"),
    "CMYK": (picture((64, 64, 4)), {"photometric": "separated"}, "PhotometricInterpretation 5"),
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


def test_12_bit_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "odd.tif", picture((64, 64), "uint16"), metadata=None)
    set_tag(tmp_path / "odd.tif", "BitsPerSample", 12)
    with pytest.raises(SlideFormatError, match=r"odd.tif has BitsPerSample 12; wsipipe reads 8 or 16"):
        open_slide(tmp_path / "odd.tif")


@needs_data
def test_real_file_of_another_kind_is_refused() -> None:
    with pytest.raises(SlideFormatError, match="PlanarConfiguration 2"):
        open_slide(data("writers/cmu-small_pyr_jpeg.ome.tif"))


def whole(level: Level) -> Pixels:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


COLOURS = np.random.default_rng(2).integers(256, 2**16, 48).tolist()
ODD: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "bilevel": (picture((150, 131)) > 100, {"photometric": "minisblack"}),
    "bilevel, white is zero": (picture((150, 131)) > 100, {"photometric": "miniswhite"}),
    "8 bit, white is zero": (picture((150, 131)), {"photometric": "miniswhite"}),
    "palette": (
        picture((150, 131)),
        {"photometric": "palette", "colormap": np.random.default_rng(1).integers(0, 2**16, (3, 256), np.uint16)},
    ),
    "palette of 8 bit": (
        picture((150, 131)),
        {"photometric": "palette", "colormap": np.random.default_rng(1).integers(0, 2**8, (3, 256)).astype(np.uint16)},
    ),
}


@pytest.mark.parametrize("tile", [(64, 32), None], ids=["tiles", "strips"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ODD)
def test_samples_are_what_they_show_as_pillow_has_them(
    tmp_path: Path, kind: str, compression: str | None, tile: tuple[int, int] | None
) -> None:
    image, options = ODD[kind]
    if kind == "palette of 8 bit":
        expected = np.moveaxis(options["colormap"], 0, -1)[image]  # Pillow does not tell them apart, libtiff does
    tifffile.imwrite(tmp_path / "a.tif", image, metadata=None, compression=compression, tile=tile, **options)
    if kind != "palette of 8 bit":
        with Image.open(tmp_path / "a.tif") as other:
            expected = np.asarray(other.convert("RGB" if "palette" in kind else "L"))
    slide = open_slide(tmp_path / "a.tif")
    assert slide.levels[0].channels == (3 if "palette" in kind else 1)
    np.testing.assert_array_equal(whole(slide.levels[0]).squeeze(), expected)
    assert len(slide.warnings) == (2 if kind == "bilevel, white is zero" else 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("palette", [False, True])
def test_few_bits_are_stretched_or_looked_up(tmp_path: Path, bits: int, palette: bool) -> None:
    """TIFF 6.0, section 8: rows of packed samples are padded to whole bytes."""
    values = np.random.default_rng(0).integers(0, 2**bits, (30, 37), np.uint8)
    rows = np.pad(values, [(0, 0), (0, -37 % (8 // bits))]).reshape(30, -1, 8 // bits)
    packed = (rows << np.arange(8 - bits, -1, -bits)).sum(axis=-1).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        packed,
        metadata=None,
        rowsperstrip=30,
        extratags=[(320, "H", 3 * 2**bits, COLOURS[: 3 * 2**bits], True)],
    )
    for tag, value in (("ImageWidth", 37), ("BitsPerSample", bits), ("PhotometricInterpretation", 3 if palette else 1)):
        set_tag(tmp_path / "a.tif", tag, value)
    colours = np.array(COLOURS[: 3 * 2**bits]).reshape(3, -1).T >> 8
    expected = colours[values] if palette else (values.astype(int) * 255 // (2**bits - 1))[..., None]
    np.testing.assert_array_equal(whole(open_slide(tmp_path / "a.tif").levels[0]), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 32)},
        {"rowsperstrip": 16},
        {"rowsperstrip": 16, "compression": "zlib"},
        {"tile": (64, 32), "planarconfig": "separate"},
    ],
    ids=["tiles", "plain strips", "strips", "planes"],
)
def test_pixels_are_upright_as_pillow_turns_them(tmp_path: Path, orientation: int, options: dict[str, Any]) -> None:
    image = picture((150, 131, 3))
    stored = np.moveaxis(image, -1, 0) if "planarconfig" in options else image
    extra = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", metadata=None, extratags=extra, **options)
    turned = Image.fromarray(image)
    turned.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned))
    level = open_slide(tmp_path / "a.tif").levels[0]
    assert level.shape == expected.shape[:2]
    np.testing.assert_array_equal(whole(level), expected)
    np.testing.assert_array_equal(read_box(level, Box(17, 99, 33, 120)), expected[17:99, 33:120])
    np.testing.assert_array_equal(np.moveaxis(np.asarray(level.array[...]), level.axes.index("c"), -1), expected)


def test_turning_compressed_strips_of_a_large_image_is_refused(tmp_path: Path) -> None:
    extra = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", picture((64, 64)), metadata=None, extratags=extra, compression="zlib")
    for tag in ("ImageWidth", "ImageLength"):
        set_tag(tmp_path / "a.tif", tag, 8200)
    with pytest.raises(SlideFormatError, match="Orientation 6 in compressed strips"):
        open_slide(tmp_path / "a.tif")


@needs_data
def test_real_slide_of_orientation_6_is_upright_at_every_level() -> None:
    slide = open_slide(data("slides/test_orient6.tif"))
    with tifffile.TiffFile(data("slides/test_orient6.tif")) as tiff:
        pages = [page.asarray() for page in tiff.pages]
    assert [level.shape for level in slide.levels] == [page.shape[1::-1] for page in pages[: len(slide.levels)]]
    for level, page in zip(slide.levels, pages, strict=False):
        np.testing.assert_array_equal(whole(level)[..., 0], np.rot90(page, -1))
    assert slide.warnings[0] == "Orientation is 6: it is turned upright as it is read"


def sparse(path: Path, **options: Any) -> np.ndarray:
    """Write an image of 6 tiles, the second of them without data; return the image with that tile as 0."""
    image = picture((128, 192, 3) if options.get("photometric") != "palette" else (128, 192))
    pyramid(path, image, levels=1, compression="zlib", **options)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
    for tag, (first, _, *others) in (("TileOffsets", page.dataoffsets), ("TileByteCounts", page.databytecounts)):
        set_tag(path, tag, (first, 0, *others))
    image[:64, 64:128] = 0
    return image


@pytest.mark.parametrize(
    ("name", "options", "fill", "said"),
    [
        ("a.tif", {}, 0, "read as 0"),
        ("a.svs", {"description": APERIO.format(w=192, h=128)}, 255, "read as 255"),
        ("a.tif", {"extratags": [(42113, "s", 4, "200", True)]}, 200, "read as 200, as GDAL_NODATA says"),
        ("a.tif", {"extratags": [(42113, "s", 6, "-9999", True)]}, 0, "read as 0"),
    ],
)
def test_tiles_without_data_are_the_files_background(
    tmp_path: Path, name: str, options: dict[str, Any], fill: int, said: str
) -> None:
    image = sparse(tmp_path / name, **options)
    image[:64, 64:128] = fill
    slide = open_slide(tmp_path / name)
    assert slide.warnings == (f"1 of 6 tiles of 192 wide x 128 high have no data and {said}",)
    np.testing.assert_array_equal(whole(slide.levels[0]), image)
    np.testing.assert_array_equal(slide.levels[0].array[...], image)


def test_tiles_without_data_are_white_in_an_svs_as_openslide_has_them(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    sparse(tmp_path / "a.svs", description=APERIO.format(w=192, h=128))
    one, other = (open_slide(tmp_path / "a.svs", reader=reader) for reader in ("tiff", "openslide"))
    np.testing.assert_array_equal(whole(one.levels[0]), whole(other.levels[0]))


def test_tiles_without_data_have_a_colour_of_the_palette(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 2**16, (3, 256), np.uint16)
    image = sparse(tmp_path / "a.tif", photometric="palette", colormap=colours)
    expected = np.moveaxis(colours >> 8, 0, -1)[image]
    level = open_slide(tmp_path / "a.tif").levels[0]
    np.testing.assert_array_equal(whole(level), expected)
    np.testing.assert_array_equal(level.array[...], expected)


def test_transparency_mask_is_named_and_not_used(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(picture((400, 600, 3)), photometric="rgb", tile=(64, 64), metadata=None)
        tiff.write(np.ones((400, 600), bool), subfiletype=4, tile=(64, 64), metadata=None)
    slide = open_slide(tmp_path / "a.tif")
    assert slide.associated == ("mask 600 wide x 400 high",)
    assert slide.warnings == ("the file has a transparency mask, which is not used",)


PHILIPS = """<DataObject ObjectType="DPUfsImport"><Attribute Name="DICOM_PIXEL_SPACING">"0.00025" "0.00025"</Attribute>
<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">
<Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute><Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{}
</Array></Attribute></DataObject></Array></Attribute></DataObject>"""
PHILIPS_LEVEL = """<DataObject ObjectType="PixelDataRepresentation">
<Attribute Name="DICOM_PIXEL_SPACING">"{0}" "{0}"</Attribute></DataObject>"""


def test_philips_levels_are_as_its_description_says_as_in_openslide(tmp_path: Path) -> None:
    """Each level is padded to whole tiles, so that its shape gives a wrong downsample."""
    path = tmp_path / "a.tiff"
    xml = PHILIPS.format("".join(PHILIPS_LEVEL.format(0.00025 * 2**i) for i in range(3)))
    image = picture((512, 768, 3))
    with tifffile.TiffWriter(path) as tiff:
        for i in range(3):
            level = image[:: 2**i, :: 2**i]
            filled = np.pad(level, [(0, -side % 256) for side in level.shape[:2]] + [(0, 0)])
            options = {"description": xml, "software": "Philips DP v1.0"} if i == 0 else {"subfiletype": 1}
            tiff.write(filled, photometric="rgb", tile=(256, 256), metadata=None, **options)
    slide = open_slide(path)
    assert slide.vendor == "philips"
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    assert [level.shape for level in slide.levels] == [(512, 768), (256, 384), (128, 192)]
    for i, level in enumerate(slide.levels):
        np.testing.assert_array_equal(whole(level), image[:: 2**i, :: 2**i])
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(path) as other:
        assert other.properties["openslide.vendor"] == "philips"
        assert other.level_downsamples == (1, 2, 4)
        assert [size[::-1] for size in other.level_dimensions] == [level.shape for level in slide.levels]


def test_file_whose_tiles_were_never_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300)))
    with tifffile.TiffFile(path) as tiff:
        counts = len(tiff.pages.first.databytecounts)
    set_tag(path, "TileByteCounts", (0,) * counts)
    with pytest.raises(SlideReadError, match=r"a.tif is half-written: none of its 20 tiles"):
        open_slide(path)


def test_level_that_was_never_written_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((200, 300)), levels=2)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[1].aspage().tags["TileByteCounts"]
        tag.overwrite((0,) * tag.count)
    slide = open_slide(path)
    assert len(slide.levels) == 1
    assert slide.warnings == ("level of 150 wide x 100 high is left out: none of its tiles has data",)


def lose_tiles(path: Path, page: int, numbers: set[int]) -> None:
    """Give some tiles of a page no data."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[page].aspage().tags["TileByteCounts"]
        tag.overwrite([0 if number in numbers else count for number, count in enumerate(tag.value)])


@pytest.mark.parametrize("lost", [{0}, {3, 7}, set(range(1, 12))])
def test_level_that_lost_tiles_is_not_used(tmp_path: Path, lost: set[int]) -> None:
    path = tmp_path / "a.svs"
    images = pyramid(path, picture((300, 401, 3)), description=APERIO.format(w=401, h=300))
    lose_tiles(path, 1, lost)
    slide = open_slide(path)
    assert [level.shape for level in slide.levels] == [images[0].shape[:2], images[2].shape[:2]]
    said = f"level of 201 wide x 150 high is left out: {len(lost)} of its 12 tiles have no data, finer ones have"
    assert slide.warnings == (said,)
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(path) as other:  # it makes them of the finer level
        pixels = np.asarray(other.read_region((0, 0), 1, (200, 150)))[..., :3]
    found = read_box(choose_level(slide, 2 * 0.499), Box(0, 150, 0, 200))
    assert np.abs(found.mean((0, 1)) - pixels.mean((0, 1))).max() < 3


def test_level_that_left_out_what_the_finer_one_left_out_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    pyramid(path, picture((512, 512, 3)), levels=2, description=APERIO.format(w=512, h=512))
    lose_tiles(path, 0, {y * 8 + x for y in (0, 1) for x in range(8)})
    lose_tiles(path, 1, {0, 1, 2, 3})
    slide = open_slide(path)
    assert [level.shape for level in slide.levels] == [(512, 512), (256, 256)]
    assert (whole(slide.levels[1])[:64] == 255).all()
    lose_tiles(path, 1, {0, 1, 2, 3, 4})
    assert [level.shape for level in open_slide(path).levels] == [(512, 512)]


def test_absurd_sizes_are_found_before_anything_is_allocated(tmp_path: Path) -> None:
    for tag, value, problem in (
        ("ImageWidth", 2**31, "is damaged: an image of 2147483648 wide x 200 high"),
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
    with pytest.raises(SlideReadError, match="form a cycle"):
        open_slide(path)


@pytest.mark.parametrize(
    ("content", "error", "problem"),
    [
        (b"", SlideFormatError, "is empty"),
        (b"This is no image.", SlideFormatError, "is not a slide"),
        (b"II*\0", SlideReadError, "is a damaged TIFF"),
        (b"II*\0\xff\xff\xff\xff", SlideReadError, "is a damaged TIFF"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 8, SlideReadError, "is a damaged TIFF"),
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
        monkeypatch.setattr(tiff_store, "NARROW", 0)
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
    """As ImageJ writes them: only the wanted part is read, whatever the size of the strip."""
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


def test_ventana_bif_whose_tiles_overlap_is_left_to_openslide(tmp_path: Path) -> None:
    path = tmp_path / "case-17.bif"
    xmp = b"<iScan Magnification='40'/>"
    extra = [(700, "B", len(xmp), xmp, True)]
    tifffile.imwrite(path, picture((64, 64, 3)), photometric="rgb", metadata=None, extratags=extra)
    with pytest.raises(SlideFormatError, match=r"case-17.bif is a Ventana BIF, .* pip install 'wsipipe\[openslide\]'"):
        open_slide(path)
