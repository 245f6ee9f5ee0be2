from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.servers import Web
from tests.slides.made import picture
from wsipipe.errors import (
    NothingFoundError,
    PlaneError,
    ResolutionError,
    SlideError,
    SlideFormatError,
    SlideReadError,
    TruncatedError,
)
from wsipipe.geometry.grid import Box
from wsipipe.rasters.image import open_raster
from wsipipe.slides.discover import expand
from wsipipe.slides.open import describe, open_slide
from wsipipe.slides.opened import LEVELS
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.planes import Planes
from wsipipe.slides.readers import picture as reader
from wsipipe.slides.readers.picture_file import MAX_DECODED_BYTES
from wsipipe.slides.slide import Slide, choose_level


def whole(slide: Slide) -> np.ndarray:
    level = slide.levels[0]
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


def png(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(imagecodecs.png_encode(image))
    return path


def jpeg(path: Path, image: np.ndarray, **options: Any) -> Path:
    Image.fromarray(image).save(path, "JPEG", **options)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(700, 600), (700, 600, 3), (9, 7)])
def test_png_is_a_slide_of_one_level(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    image = picture(shape, dtype)
    slide = open_slide(png(tmp_path / "a.b.png", image))
    (level,) = slide.levels
    assert (slide.name, slide.reader, slide.why) == ("a.b", "picture", "it is a PNG or JPEG")
    assert (level.axes, level.dtype, level.codec) == ("yxc" if len(shape) > 2 else "yx", dtype, "png")
    np.testing.assert_array_equal(whole(slide), image.reshape(*shape[:2], -1))
    assert (slide.mpp, slide.mpp_source, slide.warnings) == (None, "no density of pixels in pHYs", ())
    assert describe(slide)["bytes"] == (tmp_path / "a.b.png").stat().st_size


@pytest.mark.parametrize("colours", [2, 12, 200])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_png_of_any_kind_equals_pillow(tmp_path: Path, mode: str, colours: int) -> None:
    made = Image.fromarray(picture((50, 61, 3))).quantize(colours)
    made = made if mode == "P" else made.convert("RGB").convert(mode)
    made.save(tmp_path / "a.png", **({"transparency": 255} if mode == "L" else {}))
    pixels = whole(open_slide(tmp_path / "a.png"))
    expected = np.asarray(made.convert("L" if mode in "1L" else "RGB"))
    np.testing.assert_array_equal(pixels, expected.reshape(pixels.shape))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"restart_marker_blocks": 3}]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_equals_pillow(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    path = jpeg(tmp_path / "a.JPG", picture((300, 200, 3) if mode == "RGB" else (300, 200)), **options)
    with Image.open(path) as expected:
        np.testing.assert_array_equal(whole(open_slide(path)), np.asarray(expected).reshape(300, 200, -1))


def test_colours_of_a_jpeg_are_what_its_markers_say(tmp_path: Path) -> None:
    image = np.kron(picture((20, 20, 3)), np.ones((8, 8, 1), np.uint8))
    data = imagecodecs.jpeg8_encode(image, level=98, colorspace="RGB", outcolorspace="RGB", subsampling="444")
    (tmp_path / "a.jpg").write_bytes(data)
    assert abs(whole(open_slide(tmp_path / "a.jpg")).astype(int) - image).mean() < 2


def with_exif(path: Path, orientation: int, image: np.ndarray) -> Path:
    """A JPEG as cameras write it: Exif with a thumbnail, which is a JPEG, and another picture behind the first."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg(path, image, exif=exif)
    data, thumbnail = path.read_bytes(), jpeg(path.with_name("small"), image[::8, ::8]).read_bytes()
    held = b"\xff\xed" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    path.write_bytes(data[:2] + held + data[2:] + thumbnail)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_upright_and_without_what_cameras_add(tmp_path: Path, orientation: int) -> None:
    path = with_exif(tmp_path / "a.jpg", orientation, picture((60, 90, 3)))
    slide = open_slide(path)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(whole(slide), expected)
    said = [f"Orientation is {orientation}: it is turned upright as it is read"]
    assert list(slide.warnings) == said * (orientation > 1)


@pytest.mark.parametrize("behind", [False, True])
def test_png_is_upright_wherever_its_exif_is(tmp_path: Path, behind: bool) -> None:
    exif, path = Image.Exif(), tmp_path / "a.png"
    exif[0x0112] = 6
    Image.fromarray(picture((60, 90, 3))).save(path, exif=exif)
    if behind:
        data = path.read_bytes()
        begin = data.index(b"eXIf") - 4
        chunk = data[begin : begin + 12 + int.from_bytes(data[begin : begin + 4], "big")]
        path.write_bytes(data[:begin] + data[begin + len(chunk) : -12] + chunk + data[-12:])
    slide = open_slide(path)
    np.testing.assert_array_equal(whole(slide), np.rot90(picture((60, 90, 3)), -1))
    assert slide.warnings == ("Orientation is 6: it is turned upright as it is read",)


@pytest.mark.parametrize(
    ("dpi", "mpp"), [(72, None), (96, None), (300, None), (2400, None), (9600, None), (50800, 0.5), (25400, 1.0)]
)
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_density_counts_if_no_paper_has_it(tmp_path: Path, kind: str, dpi: int, mpp: float | None) -> None:
    path = tmp_path / "a"
    Image.fromarray(picture((32, 32, 3))).save(path, kind, dpi=(dpi, dpi))
    slide = open_slide(path)
    assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-4))
    assert slide.warnings == ()
    if mpp is None:
        assert slide.mpp_source == f"{dpi} dpi in {'pHYs' if kind == 'png' else 'JFIF'}, which is for print"
        with pytest.raises(ResolutionError, match=r"^a has no micrometres per pixel \(.*for print\); give --mpp"):
            choose_level(slide, 0.5)
    assert open_slide(path, mpp=0.25).levels[0].mpp == 0.25
    assert open_raster(path).mpp == slide.mpp


def test_channels_are_chosen_and_there_is_one_image(tmp_path: Path) -> None:
    image = picture((600, 70, 3))
    path = png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(whole(open_slide(path, planes=Planes(channels=(2, 0)))), image[..., [2, 0]])
    with pytest.raises(PlaneError, match=r"a.png holds one image; there is no --series 1"):
        open_slide(path, planes=Planes(series=1))


def test_pictures_are_slides_by_name_and_not_in_a_folder(tmp_path: Path) -> None:
    for name in ("thumbnail.png", "b.jpg", "c.JPEG"):
        (tmp_path / name).touch()
    with pytest.raises(NothingFoundError, match=rf"holds no slide; .*name them, e.g. '{tmp_path}/\*.jpg'"):
        expand([tmp_path])
    assert expand([f"{tmp_path}/*.png"]) == [tmp_path / "thumbnail.png"]
    (tmp_path / "a.svs").touch()
    assert expand([tmp_path]) == [tmp_path / "a.svs"]
    assert expand([tmp_path / "b.jpg", tmp_path / "a.svs"]) == [tmp_path / "b.jpg", tmp_path / "a.svs"]


def test_picture_on_a_web_server_is_read(tmp_path: Path) -> None:
    image = picture((70, 80, 3))
    png(tmp_path / "a.png", image)
    with Web(tmp_path).serve() as address:
        np.testing.assert_array_equal(whole(open_slide(f"{address}/a.png")), image)


def header_of(kind: str, height: int, width: int) -> bytes:
    """A PNG or JPEG of these sides and no pixels."""
    if kind == "jpeg":
        return b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x22\0\2\x11\1\3\x11\1\xff\xd9"
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\r" + content + struct.pack(">I", zlib.crc32(content))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_picture_that_says_it_is_huge_is_not_decoded(tmp_path: Path, kind: str) -> None:
    path, side = tmp_path / "a.png", 60_000
    path.write_bytes(header_of(kind, side, side))
    with pytest.raises(
        SlideFormatError, match=rf"a.png is {side} wide x {side} high, 10.1 GiB once decoded.*vips tiffsave"
    ):
        open_slide(path)
    assert 3 * side**2 > MAX_DECODED_BYTES
    path.write_bytes(header_of(kind, 0, 10))
    with pytest.raises(SlideReadError, match=r"a.png is a damaged (PNG|JPEG): it has no pixels"):
        open_slide(path)


def test_jpeg_of_countless_scans_is_not_decoded(tmp_path: Path) -> None:
    data = jpeg(tmp_path / "a.jpg", picture((64, 64)), progressive=True).read_bytes()
    last = data.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(data[:last] + data[last:-2] * 200 + data[-2:])
    with pytest.raises(SlideReadError, match=r"a.jpg is a damaged JPEG: it has 20\d scans, more than 100"):
        open_slide(tmp_path / "a.jpg")


def test_large_picture_is_decoded_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture((700, 600, 3))
    path = png(tmp_path / "a.png", image)
    monkeypatch.setattr(reader, "LARGE_BYTES", 2**10)
    slide = open_slide(path)
    assert "each process keeps it decoded, 1 MiB; where that is too much, convert it" in slide.warnings[0]
    path.write_bytes(path.read_bytes()[:-1000])
    slide = open_slide(path)
    unread: dict[Box, str] = {}
    with pytest.raises(SlideReadError, match=r"a.png level 0 cannot be read at .*a.png is a damaged PNG") as found:
        read_box(slide.levels[0], Box(0, 700, 0, 600), unread=unread)  # no tile of it could be filled in
    assert isinstance(found.value.__cause__, TruncatedError)
    assert not unread


def test_picture_is_decoded_once_for_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, count = picture((1100, 1200, 3)), []
    decode = imagecodecs.png_decode
    monkeypatch.setattr(imagecodecs, "png_decode", lambda data: count.append(1) or decode(data))
    slide = open_slide(png(tmp_path / "a.png", image))
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: whole(slide), range(8)):
            np.testing.assert_array_equal(found, image)
    assert len(count) == 1


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_damaged_picture_is_never_pixels(tmp_path: Path, kind: str) -> None:
    image = picture((97, 130, 3))
    path = png(tmp_path / "a", image) if kind == "png" else jpeg(tmp_path / "a", image)
    sound, expected, random = path.read_bytes(), whole(open_slide(path)), np.random.default_rng(0)
    refused = 0
    for number in range(40):
        at = int(random.integers(8, len(sound) - 3))
        flip = kind == "png" and number % 2
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 85]) + sound[at + 1 :] if flip else sound[:at])
        try:
            np.testing.assert_array_equal(whole(open_slide(path)), expected)  # what was damaged is not pixels
        except SlideError as err:
            assert str(err).startswith("a ")  # noqa: PT017
            refused += 1
    assert refused > 35


@pytest.mark.parametrize(("mode", "said"), [("CMYK", "4 components of 8 bits"), ("LA", "partly transparent")])
def test_other_pictures_are_refused(tmp_path: Path, mode: str, said: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture((32, 32, len(mode))), mode).save(path, "JPEG" if mode == "CMYK" else "PNG")
    with pytest.raises(SlideFormatError, match=f"^a.jpg is .*{said}"):
        open_slide(path)


def test_picture_that_was_replaced_is_an_error(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", picture((97, 130, 3)))
    slide = open_slide(path)
    png(path, picture((97, 130, 3), seed=1))
    LEVELS.clear()
    with pytest.raises(SlideReadError, match=r"^a.png has changed since it was opened"):
        whole(slide)
    again = open_slide(path)
    np.testing.assert_array_equal(whole(again), picture((97, 130, 3), seed=1))
    assert replace(again, state="") != replace(slide, state="")
