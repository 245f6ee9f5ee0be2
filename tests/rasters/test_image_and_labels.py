"""Images and labels to train on: every kind of file against what was written, or against a second decoder."""

from __future__ import annotations

import pickle
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import BloscCodec

from tests.real_data import data, real
from tests.slides.made import ome_zarr, patch, picture, pyramid, tile_at
from tests.store.test_store import make, spec_of
from wsipipe.errors import LabelError, SlideError, SlideFormatError, SlideReadError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.image import Raster, open_raster, raster_of
from wsipipe.rasters.label_raster import LabelRaster
from wsipipe.rasters.labels import open_label_raster
from wsipipe.rasters.opened import RASTERS
from wsipipe.slides.open import open_slide
from wsipipe.slides.opened import LEVELS
from wsipipe.slides.pixels.mirrored import read_box

BOXES = [Box(0, 97, 0, 130), Box(0, 1, 0, 1), Box(96, 97, 129, 130), Box(60, 70, 1, 130), Box(13, 90, 63, 66)]
"""Within 97 x 130 px: all of it, corners, and across tiles of 64 px."""


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    RASTERS.clear()
    yield
    RASTERS.clear()


def png(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(imagecodecs.png_encode(image))
    return path


def labels_like(dtype: str, most: int = 200) -> np.ndarray:
    """Objects of 8 px, 97 x 130."""
    ids = np.random.default_rng(0).integers(0, most, (13, 17))
    return ids.repeat(8, 0).repeat(8, 1)[:97, :130].astype(dtype)


def whole(raster: Raster | LabelRaster) -> np.ndarray:
    return raster.read(Box(0, raster.shape[0], 0, raster.shape[1]))


def check(raster: Raster | LabelRaster, expected: np.ndarray) -> None:
    """Every box is the crop of what was written, in this process and in another one."""
    assert raster.shape == expected.shape[:2]
    for copy in (raster, pickle.loads(pickle.dumps(raster))):
        for box in BOXES:
            np.testing.assert_array_equal(copy.read(box), expected[box.slices], strict=True)
        RASTERS.clear()


def write_image(path: Path, kind: str, image: np.ndarray) -> Path:
    options: dict[str, Any] = {"photometric": "rgb" if image.ndim == 3 else "minisblack", "metadata": None}
    layouts = {"tiles": {"tile": (64, 64)}, "strips": {"rowsperstrip": 10}, "one strip": {}}
    if kind == "png":
        return png(path.with_suffix(".png"), image)
    if kind.startswith("zarr"):
        axes = "yxc" if image.ndim == 3 else "yx"
        return ome_zarr(path.with_suffix(".zarr"), [image], axes, kind.split()[1])
    tifffile.imwrite(path.with_suffix(".tif"), image, compression="zlib", **layouts[kind], **options)
    return path.with_suffix(".tif")


KINDS = ["png", "tiles", "strips", "one strip", "zarr 0.4", "zarr 0.5"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (1, "uint16"), (3, "uint16")])
def test_image_of_every_kind_is_read_as_it_was_written(tmp_path: Path, kind: str, channels: int, dtype: str) -> None:
    image = picture((97, 130, channels) if channels > 1 else (97, 130), dtype)
    raster = open_raster(write_image(tmp_path / "case-17", kind, image))
    assert (raster.channels, raster.dtype, raster.name[:8]) == (channels, dtype, "case-17.")
    check(raster, image.reshape(97, 130, channels))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("png", dtype) for dtype in ("uint8", "uint16")]
    + [(kind, dtype) for kind in KINDS[1:] for dtype in ("uint8", "uint16", "int16", "uint32", "int32", "int64")],
)
def test_labels_of_every_kind_are_read_as_int32(tmp_path: Path, kind: str, dtype: str) -> None:
    labels = labels_like(dtype, {"uint8": 255, "uint16": 65536}.get(dtype, 30_000))
    check(open_label_raster(write_image(tmp_path / "a", kind, labels)), labels.astype(np.int32))


def test_labels_up_to_the_largest_int32_are_kept(tmp_path: Path) -> None:
    labels = labels_like("uint32")
    labels[5, 5] = 2**31 - 1
    check(open_label_raster(write_image(tmp_path / "a", "tiles", labels)), labels.astype(np.int32))


@pytest.mark.parametrize("name", real(*(f"seg/nuclei-he/{n}_image.png" for n in ("00ae65c1c663", "0121d6759c5a"))))
def test_real_pair_of_png_is_what_is_in_it(name: str) -> None:
    image, labels = open_raster(data(name), mpp=0.5), open_label_raster(data(name.replace("_image", "_label")))
    assert image.shape == labels.shape
    assert (image.mpp, image.dtype, image.channels, labels.mpp) == (0.5, "uint8", 3, None)
    np.testing.assert_array_equal(whole(image), imagecodecs.imread(data(name)))
    assert len(np.unique(whole(labels))) > 10


@pytest.mark.parametrize("name", real("seg/dic-hela/gold/002.tif", "seg/dic-hela/label/000.tif"))
def test_real_labels_of_16_bit_are_what_tifffile_reads(name: str) -> None:
    expected = tifffile.imread(data(name))
    labels = open_label_raster(data(name))
    np.testing.assert_array_equal(labels.read(Box(200, 300, 17, 400)), expected[200:300, 17:400])


@pytest.mark.parametrize("name", real("writers/cmu-crop_pyr_deflate.tif", "zarr/ome-zarr-py_v05_cyx.zarr"))
def test_slide_is_read_as_a_run_reads_it_at_any_level(name: str) -> None:
    slide, box = open_slide(data(name)), Box(11, 60, 30, 90)
    for level in slide.levels[:2]:
        raster = raster_of(level)
        assert (raster.mpp, raster.shape, raster.name == slide.file) == (level.mpp, level.shape, level.index == 0)
        np.testing.assert_array_equal(raster.read(box), read_box(level, box))


def test_what_wsipipe_run_writes_is_read_as_labels(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (600, 1300), 513, 513, mpp=0.25)
    written = make(spec)
    labels = open_label_raster(spec.path)
    assert labels.mpp == 0.25
    np.testing.assert_array_equal(whole(labels), written.astype(np.int32))


def test_unfinished_store_is_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (33, 50))
    make(spec)
    shutil.copytree(spec.path, tmp_path / "other.zarr")
    document = tmp_path / "other.zarr" / "zarr.json"
    document.write_text(document.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(SlideReadError, match=r"other.zarr is not finished"):
        open_label_raster(tmp_path / "other.zarr")
    (Path(spec.path) / "0" / "c" / "1" / "1").unlink()
    with pytest.raises(SlideReadError, match=r"case-17.zarr is not finished: 11 of 12 blocks"):
        open_label_raster(spec.path)


def test_others_label_image_may_leave_out_empty_chunks_and_have_axes_of_length_1(tmp_path: Path) -> None:
    labels = labels_like("int64")
    labels[:, 64:] = 0
    path = ome_zarr(tmp_path / "nuclei", [labels[np.newaxis, np.newaxis]], "tcyx")
    zarr.open_group(path).attrs["ome"] |= {"image-label": {}}
    check(open_label_raster(path), labels.astype(np.int32))
    assert open_label_raster(path).mpp == 0.5


# --- PNG -------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(path: Path, rows: list[bytes], width: int, depth: int, colour: int, *extra: bytes) -> Path:
    """A PNG of the given bits, which imagecodecs does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b""))
    return path


def palette(path: Path) -> Path:
    colours = chunk(b"PLTE", bytes([0, 0, 0, 10, 20, 30, 40, 50, 60]))
    return raw_png(path, [bytes([0, 1]), bytes([2, 1])], 2, 8, 3, colours)


def test_palette_becomes_colours_in_an_image_and_is_refused_in_labels(tmp_path: Path) -> None:
    path = palette(tmp_path / "a.png")
    np.testing.assert_array_equal(whole(open_raster(path))[1], [[40, 50, 60], [10, 20, 30]])
    with pytest.raises(LabelError, match=r"a.png has a palette.*save it as 8- or 16-bit grey"):
        open_label_raster(path)


def test_labels_of_1_bit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"a.png has 1-bit pixels; 8 and 16 are allowed"):
        open_label_raster(raw_png(tmp_path / "a.png", [b"\xa0"], 4, 1, 0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_left_out_where_it_is_opaque_and_refused_elsewhere(tmp_path: Path, dtype: str, channels: int) -> None:
    image = picture((97, 130, channels), dtype)
    image[:, :, -1] = np.iinfo(dtype).max
    check(open_raster(png(tmp_path / "a.png", image)), image[:, :, :-1])
    image[90, 100, -1] -= 1
    with pytest.raises(SlideFormatError, match=r"b.png is partly transparent"):
        open_raster(png(tmp_path / "b.png", image))


def test_damaged_png_is_never_pixels(tmp_path: Path) -> None:
    image = picture((97, 130, 3))
    path = png(tmp_path / "a.png", image)
    content, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(100):
        at = int(random.integers(len(content)))
        path.write_bytes(content[:at] if number % 2 else content[:at] + bytes([content[at] ^ 85]) + content[at + 1 :])
        try:
            np.testing.assert_array_equal(whole(open_raster(path)), image)  # what was damaged is not pixels
        except SlideError as err:
            assert "a.png" in str(err)  # noqa: PT017
            refused += 1
    assert refused > 90


def test_huge_png_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = raw_png(tmp_path / "a.png", [b"\0"], 1, 8, 0)
    patch(path, 16, struct.pack(">II", 100_000, 100_000))
    for open_it in (open_raster, open_label_raster):
        with pytest.raises(
            SlideFormatError, match=r"a.png is 100000 wide x 100000 high, 9.3 GiB once decoded.*vips tiffsave"
        ):
            open_it(path)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_png_is_decoded_once_and_what_a_caller_changes_is_his_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, decoded = picture((97, 130)), []
    decode = imagecodecs.png_decode
    monkeypatch.setattr(imagecodecs, "png_decode", lambda content: decoded.append(1) or decode(content))
    raster = open_raster(png(tmp_path / "a.png", image))
    for _ in range(3):
        pixels = whole(raster)
        np.testing.assert_array_equal(pixels[:, :, 0], image)
        pixels[:] = 0
    assert len(decoded) == 1


def test_what_is_kept_stays_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RASTERS, "most", 3 * 97 * 130)
    images = [picture((97, 130), seed=seed) for seed in range(6)]
    opened = [open_raster(png(tmp_path / f"{i}.png", image)) for i, image in enumerate(images)]
    with ThreadPoolExecutor(4) as threads:
        for raster, image in zip(opened, threads.map(whole, opened), strict=True):
            np.testing.assert_array_equal(image[:, :, 0], images[opened.index(raster)])
    assert RASTERS.cost == 3 * 97 * 130


@pytest.mark.parametrize("kind", KINDS)
def test_file_that_was_replaced_or_is_gone_is_an_error(tmp_path: Path, kind: str) -> None:
    labels = labels_like("uint16")
    path = write_image(tmp_path / "a", kind, labels)
    openers: list[Callable[[Path], Raster | LabelRaster]] = [open_raster, open_label_raster]
    opened = [open_it(path) for open_it in openers]
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_image(tmp_path / "a", kind, labels + np.uint16(1))
    RASTERS.clear()
    LEVELS.clear()
    for raster in opened:
        with pytest.raises(SlideReadError, match=r"^a\.\w+ has changed since it was opened"):
            whole(raster)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for raster in opened:
        with pytest.raises(SlideError, match=r"^a\."):
            whole(raster)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_several_channels_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(LabelError, match=r"a\.\w+ has (3 channels; labels have one|the axes yxc)"):
        open_label_raster(write_image(tmp_path / "a", kind, picture((97, 130, 3))))


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_that_are_not_integers_are_refused(tmp_path: Path, kind: str, dtype: str) -> None:
    with pytest.raises(LabelError, match=rf"a\.\w+ holds .*{dtype} values; labels are integers"):
        open_label_raster(write_image(tmp_path / "a", kind, labels_like(dtype)))


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(("dtype", "value"), [("int16", -1), ("int32", -7), ("uint32", 2**31), ("int64", 2**40)])
def test_labels_out_of_range_are_refused_by_value(tmp_path: Path, kind: str, dtype: str, value: int) -> None:
    labels = labels_like(dtype)
    labels[96, 129] = value
    with pytest.raises(LabelError, match=rf"a\.\w+ holds the label {value} at \["):
        whole(open_label_raster(write_image(tmp_path / "a", kind, labels)))


def test_labels_compressed_as_jpeg_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", labels_like("uint8"), compression="jpeg", tile=(64, 64))
    with pytest.raises(LabelError, match=r"a.tif has lossy compression \(jpeg\)"):
        open_label_raster(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_label_tiff_of_several_images_is_refused(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([labels_like(dtype)] * 3), photometric="minisblack")
    with pytest.raises(SlideFormatError, match=r"a.tif holds (several images|a stack)"):
        open_label_raster(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "tag", [("Orientation", 3), ("PhotometricInterpretation", 3), ("PhotometricInterpretation", 0)]
)
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_label_tiff_that_is_turned_inverted_or_has_a_palette_is_refused(
    tmp_path: Path, dtype: str, tag: tuple[str, int]
) -> None:
    extra = [(274, "H", 1, 1, True)]
    tifffile.imwrite(tmp_path / "a.tif", labels_like(dtype), extratags=extra, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages.first.tags[tag[0]].overwrite(tag[1], dtype="H")
    with pytest.raises(LabelError, match=rf"a.tif has .*{tag[0]} {tag[1]}.*save the labels as"):
        open_label_raster(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["tiles", "strips"])
@pytest.mark.parametrize("dtype", ["uint16", "int32"])
@pytest.mark.parametrize("damage", ["zeros", "left out", "cut off"])
def test_damaged_label_tiff_never_becomes_background(tmp_path: Path, kind: str, dtype: str, damage: str) -> None:
    path = write_image(tmp_path / "a", kind, labels_like(dtype) + np.ones(1, dtype))
    offset, count = tile_at(path, 1)
    if damage == "zeros":
        patch(path, offset, bytes(count))
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[: offset + count // 2])
    else:
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tags = tiff.pages.first.tags
            for tag in (tags.get(325), tags.get(324)) if kind == "tiles" else (tags.get(279), tags.get(273)):
                tag.overwrite([0 if i == 1 else value for i, value in enumerate(tag.value)])
    with pytest.raises(SlideReadError, match=r"^a.tif"):
        whole(open_label_raster(path))


def test_damaged_chunk_of_labels_never_becomes_background(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a", "zarr 0.5", labels_like("int32"))
    raster = open_label_raster(path)
    piece = path / "0" / "c" / "0" / "1"
    piece.write_bytes(piece.read_bytes()[:-9])
    with pytest.raises(SlideReadError, match=r"a.zarr"):
        whole(raster)


def test_chunk_of_labels_that_blosc_would_read_beyond_its_end_is_refused(tmp_path: Path) -> None:
    labels = labels_like("int32")
    path = ome_zarr(tmp_path / "a.zarr", [labels], "yx")
    group = zarr.open_group(path)
    del group["0"]
    array = group.create_array("0", shape=labels.shape, chunks=(64, 64), dtype="int32", compressors=BloscCodec())
    array[:] = labels
    check(open_label_raster(path), labels)
    piece = path / "0" / "c" / "0" / "1"
    piece.write_bytes(piece.read_bytes()[:-40])
    with pytest.raises(SlideReadError, match=r"a.zarr cannot be read at .*truncated"):
        whole(open_label_raster(path))


def test_zarr_without_multiscales_is_refused_as_labels(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(8, 8), dtype="uint8")
    with pytest.raises(LabelError, match=r"a.zarr is a Zarr folder with no multiscales"):
        open_label_raster(tmp_path / "a.zarr")


NOT_IMAGES = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "words": (b"case,label\n", "begins with b'case,label"),
    "GIF": (b"GIF89a", "begins with b'GIF89a'"),
}


@pytest.mark.parametrize("what", NOT_IMAGES)
def test_files_that_are_not_images_are_refused_by_name_with_what_is_allowed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(NOT_IMAGES[what][0])
    for open_it, kind in ((open_raster, SlideFormatError), (open_label_raster, LabelError)):
        with pytest.raises(kind, match=rf"^a.png {NOT_IMAGES[what][1]}.*PNG, JPEG, TIFF of many kinds, and OME-Zarr"):
            open_it(path)
        with pytest.raises(SlideReadError, match=r"none.png cannot be opened"):
            open_it(tmp_path / "none.png")
        with pytest.raises(kind, match="is not an OME-Zarr image"):
            open_it(tmp_path)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan")])
def test_mpp_that_is_not_positive_is_refused(tmp_path: Path, mpp: float) -> None:
    with pytest.raises(UsageError, match="--mpp"):
        open_raster(png(tmp_path / "a.png", picture((8, 8))), mpp=mpp)


def test_slides_are_opened_as_before(tmp_path: Path) -> None:
    pyramid(tmp_path / "a.tif", picture((97, 130)), 2)
    assert len(open_slide(tmp_path / "a.tif").levels) == 2


def test_jpeg_is_an_image_and_never_labels(tmp_path: Path) -> None:
    image = picture((97, 130, 3))
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(image))
    check(open_raster(tmp_path / "a.jpg"), imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(image)))
    with pytest.raises(LabelError, match=r"a.jpg has lossy compression \(jpeg\), which changes labels; save"):
        open_label_raster(tmp_path / "a.jpg")
