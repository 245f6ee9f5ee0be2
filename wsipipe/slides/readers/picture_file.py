"""PNG and JPEG files: what their headers say, and their pixels; they can only be decoded whole.

Sources: https://www.w3.org/TR/png-3/; ITU-T T.81 annex B and T.871 (JPEG, JFIF); CIPA DC-008 (Exif).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsipipe.arrays import size_text
from wsipipe.errors import SlideFormatError, SlideReadError
from wsipipe.slides.readers.colour import YCBCR, believed, decode_jpeg
from wsipipe.slides.readers.jpeg import ADOBE, ALONE, END, JFIF, START_OF_FRAME, START_OF_SCAN, what_is_missing

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Channels by the colour type of the header; imagecodecs turns palettes into RGB."""
PNG_PALETTE = 3
JPEG = 7
"""TIFF's number of the compression."""
MAX_DECODED_BYTES = 2**30
"""A picture that needs more than this once decoded is refused: it can only be decoded whole."""
HEADERS_BYTES = 2**24
"""Bytes at the beginning of a file in which its headers are looked for."""
EXIF = 0xE1
UNRELATED = {*range(0xE0, 0xF0), 0xFE}
"""Markers of application data and comments, which may hold pictures of their own."""
MAX_SCANS = 100
"""A JPEG of more scans is refused: progressive ones have about 10, and each goes over all pixels."""
NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""What ends the data of a scan: 0xFF without a stuffed 0 after it, and not a restart marker."""
ORIENTATION = 0x0112
"""The tag of Exif."""
TILE_IT = "convert it, e.g. with: vips tiffsave IN OUT --tile --compression deflate"


@dataclass(frozen=True)
class PictureHeader:
    """What a picture says of itself."""

    kind: str
    """``png`` or ``jpeg``."""
    shape: tuple[int, int]
    """(height, width) in pixels as stored."""
    channels: int
    """1 or 3, without an alpha channel."""
    depth: int
    """Bits per sample in the file."""
    palette: bool = False
    """Whether its pixels are indices of colours."""
    alpha: bool = False
    """Whether it has an alpha channel."""
    per_metre: tuple[float, float] | None = None
    """Pixels per metre along y and x; None if it does not say."""
    orientation: int = 1
    """Exif's Orientation, 1 to 8."""

    @property
    def dtype(self) -> str:
        """Type of the decoded pixels."""
        return "uint16" if self.depth > 8 else "uint8"

    @property
    def decoded_bytes(self) -> int:
        """Size of the decoded pixels, with an alpha channel."""
        height, width = self.shape
        return height * width * (self.channels + self.alpha) * np.dtype(self.dtype).itemsize


def is_picture(start: bytes) -> bool:
    """Whether a file that begins with ``start``, 8 bytes or more, is a PNG or JPEG."""
    return start.startswith((PNG_MAGIC, JPEG_MAGIC))


def read_header(name: str, start: bytes) -> PictureHeader:
    """The header of the PNG or JPEG called ``name``, whose first `HEADERS_BYTES` are ``start``.

    Raises
    ------
    SlideReadError
        If it is truncated or invalid.
    SlideFormatError
        If it is of a kind that is not read, or too large to be decoded whole.
    """
    header = _png_header(name, start) if start.startswith(PNG_MAGIC) else _jpeg_header(name, start)
    if min(header.shape) < 1:
        raise SlideReadError(f"{name} is a damaged {header.kind.upper()}: it has no pixels; write it again")
    if header.decoded_bytes > MAX_DECODED_BYTES:
        height, width = header.shape
        raise SlideFormatError(
            f"{name} is {size_text((height, width))}, {header.decoded_bytes / 2**30:.1f} GiB once decoded, and a "
            f"{header.kind.upper()} can only be decoded whole; at most {MAX_DECODED_BYTES / 2**30:.0f} GiB is allowed; "
            f"{TILE_IT}"
        )
    return header


def decode(name: str, data: bytes) -> npt.NDArray[Any]:
    """The pixels of the PNG or JPEG called ``name``, as stored: (y, x, channels), uint8 or uint16, without alpha.

    Raises
    ------
    SlideReadError
        If it is damaged.
    SlideFormatError
        If it is partly transparent.
    """
    return _decode_png(name, data) if data.startswith(PNG_MAGIC) else _decode_jpeg(name, data)


def _png_header(name: str, data: bytes) -> PictureHeader:
    """Like `read_header`, for a PNG."""
    if len(data) < 26 or data[12:16] != b"IHDR" or data[25] not in PNG_CHANNELS:
        raise SlideReadError(f"{name} is a damaged PNG: it has no header; write it again")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    chunks = dict(_png_chunks(data))
    per_metre = chunks.get(b"pHYs", b"")
    x, y, unit = struct.unpack(">IIB", per_metre) if len(per_metre) == 9 else (0, 0, 0)
    return PictureHeader(
        kind="png",
        shape=(height, width),
        channels=3 if PNG_CHANNELS[colour] > 2 else 1,
        depth=depth,
        palette=colour == PNG_PALETTE,
        alpha=PNG_CHANNELS[colour] in (2, 4),
        per_metre=(float(y), float(x)) if unit == 1 else None,
        orientation=_orientation(chunks.get(b"eXIf", b"")),
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of each chunk of a PNG but its pixels; Exif may be behind them."""
    at = len(PNG_MAGIC)
    while at + 8 <= len(data) and (kind := data[at + 4 : at + 8]) != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        if kind != b"IDAT":
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _jpeg_header(name: str, data: bytes) -> PictureHeader:
    """Like `read_header`, for a JPEG."""
    frame, per_metre, orientation = None, None, 1
    for marker, at, end in _segments(data):
        content = data[at + 4 : end]
        if marker == JFIF and content.startswith(b"JFIF\0") and len(content) >= 12:
            unit, x, y = struct.unpack_from(">BHH", content, 7)
            factor = {1: 1 / 0.0254, 2: 100.0}.get(unit)
            per_metre = None if factor is None else (y * factor, x * factor)
        elif marker == EXIF and content.startswith(b"Exif\0\0"):
            orientation = _orientation(content[6:])
        elif marker in START_OF_FRAME and len(content) >= 6:
            frame = struct.unpack_from(">BHHB", content)
    if frame is None:
        raise SlideReadError(f"{name} is a damaged JPEG: it has no header; write it again")
    depth, height, width, channels = frame
    if depth != 8 or channels not in (1, 3):
        raise SlideFormatError(
            f"{name} is a JPEG of {channels} components of {depth} bits; wsipipe reads grey and RGB of 8 bits; "
            "convert it, e.g. with: vips colourspace IN OUT srgb"
        )
    return PictureHeader("jpeg", (height, width), channels, depth, per_metre=per_metre, orientation=orientation)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of each segment of a JPEG, those of scans with their data; the first picture's alone."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and (marker := data[at + 1]) != END[1]:
        if marker == 0xFF or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
        if marker == START_OF_SCAN[1]:
            found = NEXT_MARKER.search(data, end)
            end = len(data) if found is None else found.start()
        yield marker, at, end
        at = end


def _orientation(exif: bytes) -> int:
    """The Orientation in Exif, which is a TIFF file; 1 if it has none."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for number in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, directory + 2 + 12 * number)
            if (tag, kind) == (ORIENTATION, 3) and 1 <= value <= 8:
                return int(value)
    except (KeyError, struct.error):
        pass
    return 1


def _decode_png(name: str, data: bytes) -> npt.NDArray[Any]:
    """Like `decode`, for a PNG."""
    try:
        pixels = imagecodecs.png_decode(data)
    except MemoryError:
        raise
    except Exception as err:  # imagecodecs' own class for each codec, and what Python raises
        raise SlideReadError(f"{name} is a damaged PNG ({err}); write it again") from err
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] not in (2, 4):
        return pixels
    if (pixels[:, :, -1] < np.iinfo(pixels.dtype).max).any():
        raise SlideFormatError(
            f"{name} is partly transparent, and its background is not known; save it without an alpha channel"
        )
    return np.ascontiguousarray(pixels[:, :, :-1])


def _decode_jpeg(name: str, data: bytes) -> npt.NDArray[Any]:
    """Like `decode`, for a JPEG.

    What cameras put before and behind the picture is left out: thumbnails and further pictures have markers as well.
    """
    segments = [place for place in _segments(data) if place[0] in (JFIF, ADOBE) or place[0] not in UNRELATED]
    end = segments[-1][2] if segments else 0
    kept = (data[:2], *(data[at:stop] for _, at, stop in segments), data[end : end + 2])
    picture = b"".join(kept)
    missing = what_is_missing(picture, JPEG)
    scans = sum(marker == START_OF_SCAN[1] for marker, _, _ in segments)
    if scans > MAX_SCANS:
        missing = f"it has {scans} scans, more than {MAX_SCANS}"
    if missing:
        raise SlideReadError(f"{name} is a damaged JPEG: {missing}; write it again")
    try:
        found = believed(picture, JPEG, YCBCR)
        grey = _jpeg_header(name, data).channels == 1
        pixels = imagecodecs.jpeg8_decode(picture) if grey else decode_jpeg(picture, found)
    except (MemoryError, SlideFormatError):
        raise
    except Exception as err:  # as above
        raise SlideReadError(f"{name} is a damaged JPEG ({err}); write it again") from err
    return pixels.reshape(*pixels.shape[:2], -1)
