"""Whether the bytes of a JPEG or JPEG 2000 tile are all there, and how many pixels an image file says it has.

libjpeg decodes what it has and fills the rest with grey, with a warning that nobody hears; OpenJPEG does the same with
zeroed data. Neither format has a checksum: a bit that flipped inside the data is found only if it makes a marker that
cannot be there.

Codecs whose data state their own size allocate that much before anybody compares it with the tile's: 1027 bytes of
JPEG 2000 that say 16 000 x 16 000 px took 3.8 GB and 17 s.

Source: ITU-T T.81 annex B (JPEG), ISO/IEC 15444-1 annex A (JPEG 2000), ISO/IEC 15948 11.2.2 (PNG), ISO/IEC 18181-1
annex D (JPEG XL).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

JPEG_CODECS = (6, 7, 33007, 34892)
"""TIFF compressions that are JPEG, ISO/IEC 10918-1."""
JPEG2000_CODECS = (33003, 33004, 33005, 34712)
"""TIFF compressions that are JPEG 2000, ISO/IEC 15444-1."""
PNG_CODECS = (34933,)
JPEG_XL_CODECS = (50002, 52546)
START_OF_SCAN = b"\xff\xda"
START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""The markers of JPEG that the size follows; the three left out in between are those of tables."""
SEQUENTIAL = {0xC0, 0xC1}
"""Markers of frames whose data are Huffman codes, block after block."""
RESTART_INTERVAL = b"\xff\xdd"
JFIF, ADOBE = 0xE0, 0xEE
"""Markers of application data, APP0 and APP14, which those of JFIF and Adobe begin with their name."""
GREY = 128
"""The value that libjpeg gives blocks it has no data for, in every component, and so in RGB, too."""
ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
"""Bytes after 0xFF in a JPEG that no length follows: a stuffed 0, TEM, restart markers, the start of image."""
START_OF_JPEG_XL = re.compile(rb"(?:\A|jxlc|jxlp....)\xff\x0a", re.DOTALL)
JPEG_XL_RATIOS = ((1, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width over height, by the number of the ratio; after number 0 the width itself follows."""
END = b"\xff\xd9"
"""End of image (JPEG) and end of codestream (JPEG 2000) are the same two bytes."""
FOREIGN_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff\xc4\xcc\xda\xdb\xdc\xdd\xfe])", re.DOTALL)
"""0xFF and a byte that may not follow it in or between scans; those that may: a stuffed 0, restart markers, fill bytes,
tables, the next scan."""


def what_is_missing(data: bytes, compression: int, *, headless: bool = False) -> str | None:
    """Evidence that ``data`` are not a whole tile, in words, or None.

    Parameters
    ----------
    data
        The tile as it is in the file.
    compression
        The value of the TIFF tag; other codecs than JPEG and JPEG 2000 report damage themselves.
    headless
        Whether the data begin with the scan: NDPI cuts one JPEG into tiles at its restart markers.
    """
    if compression in JPEG_CODECS:
        return _in_interval(data) if headless else _in_jpeg(data)
    if compression in JPEG2000_CODECS and data.startswith(START_OF_CODESTREAM):
        return None if data.rstrip(b"\0").endswith(END) else "the JPEG 2000 data do not end with an end marker"
    return None


def _in_jpeg(data: bytes) -> str | None:
    """Like `what_is_missing`, for a JPEG from start to end marker."""
    scan, end = data.find(START_OF_SCAN), data.rfind(END)
    if scan < 0:
        return "the JPEG data hold no scan"
    if end < scan:
        return "the JPEG data do not end with an end marker, so they are truncated or overwritten"
    return _foreign_marker(data[scan + 2 : end])


def _in_interval(data: bytes) -> str | None:
    """Like `what_is_missing`, for the data between two restart markers, the second one included."""
    whole = data.rstrip(b"\0")
    if len(whole) < 2 or whole[-2] != 0xFF or not 0xD0 <= whole[-1] <= 0xD9:
        return "the JPEG data do not end with a restart or end marker"
    return _foreign_marker(whole[:-2])


def _foreign_marker(scan: bytes) -> str | None:
    """The first marker in ``scan`` that cannot be there, in words, or None."""
    found = FOREIGN_MARKER.search(scan)
    return f"marker 0xFF{found[1][0]:02X} amid the JPEG data" if found else None


def samples_said(data: bytes, compression: int) -> int:
    """How many samples ``data`` say that they decode to, or pixels for PNG and JPEG XL; 0 if they do not say.

    Parameters
    ----------
    data
        The tile as it is in the file.
    compression
        The value of the TIFF tag; most other codecs are told how much room there is.
    """
    try:
        return SAID[compression](data) if compression in SAID else 0
    except (ValueError, IndexError, StopIteration, struct.error):
        return 0  # not such an image: the codec will say so


@dataclass(frozen=True)
class Frame:
    """The header of a JPEG."""

    samples: int = 0
    """Number of samples that it says the data decode to; 0 if it does not say."""
    ids: tuple[int, ...] = ()
    """The names of its components, a byte each; none if it does not say."""
    sampling: tuple[int, ...] = ()
    """Sampling factors of each component, the horizontal one in the upper four bits, the vertical in the lower."""
    jfif: bool = False
    """Whether it has the marker of JFIF."""
    adobe: int | None = None
    """The colour transform in the marker of Adobe, 0 for none; None if there is no such marker."""
    plain: bool = False
    """Whether all data are one scan of Huffman codes, of 1 or 3 components, without a restart interval: after the first
    marker amid such data everything is `GREY`, to the last pixel."""


def frame_of(data: bytes) -> Frame:
    """The header of a JPEG, which is mostly the same for all tiles of a slide."""
    return _frame(data[: data.find(START_OF_SCAN) + 5])


@lru_cache(maxsize=256)
def _frame(header: bytes) -> Frame:
    """Like `frame_of`, for the bytes up to the number of components of the first scan."""
    frame, sequential = Frame(), True
    with suppress(ValueError, IndexError, struct.error):
        for marker, at in _segments(header):
            if marker == JFIF and header.startswith(b"JFIF", at + 4):
                frame = replace(frame, jfif=True)
            elif marker == ADOBE and header.startswith(b"Adobe", at + 4):
                frame = replace(frame, adobe=header[at + 15])
            elif marker == RESTART_INTERVAL[1]:
                sequential = False
            elif marker in START_OF_FRAME:
                sequential = sequential and marker in SEQUENTIAL
                height, width, count = struct.unpack_from(">HHB", header, at + 5)
                components = header[at + 10 : at + 10 + 3 * count]
                sampling = tuple(components[1::3])
                frame = replace(frame, samples=height * width * count, ids=tuple(components[::3]), sampling=sampling)
            elif marker == START_OF_SCAN[1]:
                count = len(frame.ids)
                return replace(frame, plain=sequential and count in (1, 3) and header[at + 4] == count)
    return frame


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG that a length follows, and where they are; the first scan's is the last."""
    at = data.index(b"\xff")
    while (marker := data[at + 1]) != END[1]:
        if marker == 0xFF:
            at += 1
        elif marker in ALONE:
            at += 2
        else:
            yield marker, at
            if marker == START_OF_SCAN[1]:
                return
            at += 2 + max(int.from_bytes(data[at + 2 : at + 4]), 2)
        at = data.index(b"\xff", at)


def _by_jpeg(data: bytes) -> int:
    at = next(at for marker, at in _segments(data) if marker in START_OF_FRAME)
    height, width, components = struct.unpack_from(">HHB", data, at + 5)
    return int(height * width * components)


def _by_jpeg2000(data: bytes) -> int:
    at = data.index(START_OF_CODESTREAM)
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    return int((right - left) * (bottom - top) * components)


def _by_png(data: bytes) -> int:
    width, height = struct.unpack_from(">II", data, 16)
    return int(width * height)


def _by_jpeg_xl(data: bytes) -> int:
    found = START_OF_JPEG_XL.search(data)
    if found is None:
        return 0
    bits = int.from_bytes(data[found.end() : found.end() + 10], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height, ratio = side(), take(3)
    return height * (height * JPEG_XL_RATIOS[ratio][0] // JPEG_XL_RATIOS[ratio][1] if ratio else side())


SAID: Mapping[int, Callable[[bytes], int]] = {
    **dict.fromkeys(JPEG_CODECS, _by_jpeg),
    **dict.fromkeys(JPEG2000_CODECS, _by_jpeg2000),
    **dict.fromkeys(PNG_CODECS, _by_png),
    **dict.fromkeys(JPEG_XL_CODECS, _by_jpeg_xl),
}
"""Functions that read the number of samples, by the value of the TIFF tag."""
