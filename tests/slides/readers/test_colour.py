"""RGB is shown as RGB and YCbCr is turned into it, whatever the headers around a tile say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.real_data import data, needs_data
from tests.slides.made import set_tag
from wsipipe.arrays import Pixels
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.planes import Planes
from wsipipe.slides.readers.colour import rgb_of_ycc
from wsipipe.slides.slide import Level

SIDE = 64
PICTURE = np.kron(np.random.default_rng(0).integers(40, 216, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
"""Blocks of colours that no conversion cuts off, (64, 64, 3)."""
FAR = 12
"""Grey values that no codec here is off by, and each wrong conversion is."""
Stream = Callable[[], bytes]


def ycc_of(rgb: Pixels) -> Pixels:
    """YCbCr as JFIF defines it, (..., 3), uint8."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return np.rint(rgb @ matrix.T + [0, 128, 128]).clip(0, 255).astype(np.uint8)


def jpeg(space: str, *, marked: bool = True, subsampling: str = "444", ids: bytes = b"") -> bytes:
    """`PICTURE` as JPEG in a colour space, with the marker that libjpeg writes for it or none, and other ids."""
    encoded = imagecodecs.jpeg8_encode(PICTURE, 95, colorspace="rgb", outcolorspace=space, subsampling=subsampling)
    if not marked:
        encoded = encoded[:2] + encoded[4 + int.from_bytes(encoded[4:6], "big") :]
    if ids:
        changed = bytearray(encoded)
        frame, scan = encoded.index(b"\xff\xc0"), encoded.index(b"\xff\xda")
        for number, byte in enumerate(ids):
            changed[frame + 10 + 3 * number] = changed[scan + 5 + 2 * number] = byte
        encoded = bytes(changed)
    return encoded


def adobe_ycc() -> bytes:
    """YCbCr by the marker of Adobe."""
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x01"
    bare = jpeg("ycbcr", marked=False)
    return bare[:2] + marker + bare[2:]


def jpeg2000(space: str, *, transform: bool, lossless: bool = True, colours: int | None = None) -> bytes:
    """`PICTURE` as JPEG 2000, in a JP2 file if ``colours`` are the colour space that this should say."""
    samples = PICTURE if space == "rgb" else ycc_of(PICTURE)
    codec = {"codecformat": "j2k" if colours is None else "jp2", "mct": transform, "reversible": lossless}
    encoded: bytes = imagecodecs.jpeg2k_encode(samples, level=0 if lossless else 60, **codec)
    if colours is not None:
        at = encoded.index(b"colr") + 7
        encoded = encoded[:at] + colours.to_bytes(4, "big") + encoded[at + 4 :]
    return encoded


def subsampled_jpeg2000() -> bytes:
    """`PICTURE` as JPEG 2000 whose chroma is half as wide: three images of one component each, put together."""
    planes = np.moveaxis(ycc_of(PICTURE), -1, 0)
    options: dict[str, Any] = {"level": 0, "reversible": True, "codecformat": "j2k", "resolutions": 1}
    images = [imagecodecs.jpeg2k_encode(np.ascontiguousarray(plane), **options) for plane in planes[:1]]
    images += [imagecodecs.jpeg2k_encode(np.ascontiguousarray(plane[:, ::2]), **options) for plane in planes[1:]]
    first = images[0]
    size, style, comment = (first.index(mark) for mark in (b"\xff\x51", b"\xff\x52", b"\xff\x64"))
    header = first[: size + 2] + struct.pack(">H", 47) + first[size + 4 : size + 38] + b"\0\3\7\1\1\7\2\1\7\2\1"
    packets = b"".join(image[image.index(b"\xff\x93") + 2 : -2] for image in images)
    tile = b"\xff\x90\0\x0a\0\0" + struct.pack(">I", 14 + len(packets)) + b"\0\1\xff\x93"
    return header + first[style:comment] + tile + packets + b"\xff\xd9"


RGB, YCC = 2, 6
SAID = {RGB: "PhotometricInterpretation 2 (RGB)", YCC: "PhotometricInterpretation 6 (YCbCr)"}
STREAMS: dict[str, tuple[Stream, int, int, str]] = {
    # name: the tile, its compression and photometric interpretation, and what the warning begins with, if any
    "JFIF": (lambda: jpeg("ycbcr"), 7, YCC, ""),
    "JFIF, RGB said": (lambda: jpeg("ycbcr"), 7, RGB, SAID[RGB] + " contradicts the JFIF marker"),
    "JFIF subsampled, RGB said": (lambda: jpeg("ycbcr", subsampling="420"), 7, RGB, SAID[RGB]),
    "Adobe's RGB": (lambda: jpeg("rgb"), 7, RGB, ""),
    "Adobe's RGB, YCbCr said": (lambda: jpeg("rgb"), 7, YCC, SAID[YCC] + " contradicts the Adobe marker"),
    "Adobe's YCbCr": (adobe_ycc, 7, YCC, ""),
    "Adobe's YCbCr, RGB said": (adobe_ycc, 7, RGB, SAID[RGB] + " contradicts the Adobe marker"),
    "unmarked YCbCr": (lambda: jpeg("ycbcr", marked=False), 7, YCC, ""),
    "unmarked RGB": (lambda: jpeg("rgb", marked=False, ids=b"\1\2\3"), 7, RGB, ""),
    "unmarked RGB of Aperio": (lambda: jpeg("rgb", marked=False, ids=b"\0\1\2"), 7, RGB, ""),
    "named RGB": (lambda: jpeg("rgb", marked=False, ids=b"RGB"), 7, RGB, ""),
    "named RGB, YCbCr said": (lambda: jpeg("rgb", marked=False, ids=b"RGB"), 7, YCC, SAID[YCC]),
    "subsampled, RGB said": (lambda: jpeg("ycbcr", marked=False, subsampling="422"), 7, RGB, SAID[RGB]),
    "RCT": (lambda: jpeg2000("rgb", transform=True), 34712, RGB, ""),
    "RCT, YCbCr said": (lambda: jpeg2000("rgb", transform=True), 34712, YCC, SAID[YCC]),
    "ICT": (lambda: jpeg2000("rgb", transform=True, lossless=False), 34712, RGB, ""),
    "ICT, YCbCr said": (lambda: jpeg2000("rgb", transform=True, lossless=False), 34712, YCC, SAID[YCC]),
    "RGB in JPEG 2000": (lambda: jpeg2000("rgb", transform=False), 34712, RGB, ""),
    "YCbCr in JPEG 2000": (lambda: jpeg2000("ycc", transform=False), 34712, YCC, ""),
    "33003": (lambda: jpeg2000("ycc", transform=False), 33003, YCC, ""),
    "33003, RGB said": (lambda: jpeg2000("ycc", transform=False), 33003, RGB, SAID[RGB] + " contradicts compression"),
    "33003, but RCT": (lambda: jpeg2000("rgb", transform=True), 33003, RGB, "compression 33003 contradicts the comp"),
    "33003 subsampled": (subsampled_jpeg2000, 33003, YCC, ""),
    "33005": (lambda: jpeg2000("rgb", transform=False), 33005, RGB, ""),
    "33005, RCT": (lambda: jpeg2000("rgb", transform=True), 33005, RGB, ""),
    "33005, YCbCr said": (lambda: jpeg2000("rgb", transform=False), 33005, YCC, SAID[YCC]),
    "subsampled JPEG 2000, RGB said": (subsampled_jpeg2000, 34712, RGB, SAID[RGB]),
    "sRGB": (lambda: jpeg2000("rgb", transform=False, colours=16), 34712, RGB, ""),
    "sRGB, YCbCr said": (lambda: jpeg2000("rgb", transform=False, colours=16), 34712, YCC, SAID[YCC]),
    "sYCC": (lambda: jpeg2000("ycc", transform=False, colours=18), 34712, YCC, ""),
    "sYCC, RGB said": (lambda: jpeg2000("ycc", transform=False, colours=18), 34712, RGB, SAID[RGB]),
}


def write(path: Path, tiles: list[bytes], compression: int, photometric: int) -> None:
    """Write a TIFF of encoded ``tiles`` side by side; one of no bytes is left out."""
    shape = (SIDE, SIDE * len(tiles), 3)
    options: dict[str, Any] = {"photometric": "rgb", "compression": compression, "tile": (SIDE, SIDE)}
    tifffile.imwrite(path, iter(tiles), shape=shape, dtype=np.uint8, metadata=None, **options)
    set_tag(path, "PhotometricInterpretation", photometric)


def whole(level: Level) -> Pixels:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


def off(found: Pixels) -> int:
    """By how much pixels away from the edges of the blocks differ from `PICTURE` at most."""
    inner = np.s_[4:SIDE:8, 4:SIDE:8]
    return int(np.abs(found[inner].astype(int) - PICTURE[inner]).max())


@pytest.mark.parametrize("name", STREAMS)
def test_tiff_is_rgb_as_its_tiles_say(tmp_path: Path, name: str) -> None:
    stream, compression, photometric, warning = STREAMS[name]
    write(tmp_path / "a.tif", [stream()], compression, photometric)
    slide = open_slide(tmp_path / "a.tif")
    assert off(whole(slide.levels[0])) < FAR
    assert len(slide.warnings) == bool(warning)
    assert all(each.startswith(warning) for each in slide.warnings)


@pytest.mark.parametrize("rows", [SIDE, 48])
def test_strips_are_rgb_as_they_say(tmp_path: Path, rows: int) -> None:
    options: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "rowsperstrip": rows, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, compressionargs={"level": 95}, subsampling=(1, 1), **options)
    set_tag(tmp_path / "a.tif", "PhotometricInterpretation", RGB)
    assert off(whole(open_slide(tmp_path / "a.tif").levels[0])) < FAR


def test_each_tile_says_it_for_itself_and_one_without_data_for_none(tmp_path: Path) -> None:
    tiles = [
        b"",
        jpeg("rgb"),
        jpeg("ycbcr"),
        jpeg("rgb", marked=False, ids=b"\1\2\3"),
        jpeg("ycbcr", subsampling="420"),
    ]
    write(tmp_path / "a.tif", tiles, 7, RGB)
    pixels = whole(open_slide(tmp_path / "a.tif").levels[0])
    for number in range(1, len(tiles)):
        assert off(pixels[:, number * SIDE : (number + 1) * SIDE]) < FAR


def test_chosen_channels_are_those_of_rgb(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", [jpeg2000("ycc", transform=False)], 33003, RGB)
    pixels = whole(open_slide(tmp_path / "a.tif", planes=Planes(channels=(0, 2))).levels[0])
    assert np.abs(pixels.astype(int) - PICTURE[..., [0, 2]]).max() < FAR


def test_ycbcr_of_16_bit_is_rgb() -> None:
    wide = rgb_of_ycc(ycc_of(PICTURE).astype(np.uint16) * 257)
    assert wide.dtype == np.uint16
    assert np.abs(wide // 257 - PICTURE.astype(int)).max() < FAR


FRAMES: dict[str, tuple[Stream, str, str, str]] = {
    # name: the frame, its transfer syntax and photometric interpretation, and what the warning begins with, if any
    "JFIF": (lambda: jpeg("ycbcr"), "50", "YBR_FULL_422", ""),
    "JFIF, RGB said": (lambda: jpeg("ycbcr"), "50", "RGB", "PhotometricInterpretation RGB contradicts the JFIF marker"),
    "JFIF subsampled, RGB said": (
        lambda: jpeg("ycbcr", subsampling="420"),
        "50",
        "RGB",
        "PhotometricInterpretation RGB",
    ),
    "Adobe's RGB": (lambda: jpeg("rgb"), "50", "RGB", ""),
    "Adobe's RGB, YBR said": (lambda: jpeg("rgb"), "50", "YBR_FULL_422", "PhotometricInterpretation YBR_FULL_422"),
    "Adobe's YCbCr, RGB said": (adobe_ycc, "50", "RGB", "PhotometricInterpretation RGB"),
    "unmarked YCbCr": (lambda: jpeg("ycbcr", marked=False), "50", "YBR_FULL_422", ""),
    "unmarked RGB": (lambda: jpeg("rgb", marked=False, ids=b"\0\1\2"), "50", "RGB", ""),
    "RCT": (lambda: jpeg2000("rgb", transform=True), "90", "YBR_RCT", ""),
    "RCT, YBR said": (lambda: jpeg2000("rgb", transform=True), "90", "YBR_FULL", "PhotometricInterpretation YBR_FULL"),
    "ICT": (lambda: jpeg2000("rgb", transform=True, lossless=False), "91", "YBR_ICT", ""),
    "RGB in JPEG 2000": (lambda: jpeg2000("rgb", transform=False), "91", "RGB", ""),
    "YCbCr in JPEG 2000": (lambda: jpeg2000("ycc", transform=False), "91", "YBR_FULL_422", ""),
    "YCbCr in lossless JPEG 2000": (lambda: jpeg2000("ycc", transform=False), "90", "YBR_FULL", ""),
    "YCbCr, ICT said": (lambda: jpeg2000("ycc", transform=False), "91", "YBR_ICT", "PhotometricInterpretation YBR_ICT"),
    "subsampled JPEG 2000, RGB said": (subsampled_jpeg2000, "91", "RGB", "PhotometricInterpretation RGB"),
    "RGB in JPEG-LS": (lambda: imagecodecs.jpegls_encode(PICTURE), "80", "RGB", ""),
}


def dicom(path: Path, frame: bytes, syntax: str, photometric: str) -> None:
    """Write a DICOM slide of one frame."""
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(data("dicom/cmu-small-wsi2dcm/level-3-frames-0-1.dcm"))
    dataset.Rows = dataset.Columns = dataset.TotalPixelMatrixRows = dataset.TotalPixelMatrixColumns = SIDE
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(f"1.2.840.10008.1.2.4.{syntax}")
    dataset.save_as(path)


@needs_data
@pytest.mark.parametrize("name", FRAMES)
def test_dicom_is_rgb_as_its_frames_say(tmp_path: Path, name: str) -> None:
    pytest.importorskip("wsidicom")
    stream, syntax, photometric, warning = FRAMES[name]
    dicom(tmp_path / "a.dcm", stream(), syntax, photometric)
    slide = open_slide(tmp_path / "a.dcm", reader="dicom")
    assert off(whole(slide.levels[0])) < FAR
    assert len(slide.warnings) == bool(warning)
    assert all(each.startswith(warning) for each in slide.warnings)


@needs_data
def test_dicom_and_the_slide_that_it_was_made_of_have_the_same_colours() -> None:
    pytest.importorskip("wsidicom")
    one = whole(open_slide(data("dicom/cmu-small-wsi2dcm")).levels[0])
    other = whole(open_slide(data("slides/CMU-1-Small-Region.svs")).levels[0])
    assert np.abs(one.mean((0, 1)) - other.mean((0, 1))).max() < 0.5
    assert np.abs(one.astype(np.int16) - other).mean() < 5  # it was compressed once more
