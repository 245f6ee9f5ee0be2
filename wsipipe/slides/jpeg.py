"""Whether the bytes of a JPEG or JPEG 2000 tile are all there.

libjpeg decodes what it has and fills the rest with grey, with a warning that nobody hears; OpenJPEG does
alike for zeroed data. Neither format has a checksum: a bit that flipped inside the data is found only if it
makes a marker that can not be there.

Source: ITU-T T.81 annex B (JPEG), ISO/IEC 15444-1 annex A (JPEG 2000).
"""

from __future__ import annotations

import re

JPEG_CODECS = (6, 7, 33007, 34892)
"""TIFF compressions that are JPEG, ISO/IEC 10918-1."""
JPEG2000_CODECS = (33003, 33004, 33005, 34712)
"""TIFF compressions that are JPEG 2000, ISO/IEC 15444-1."""
START_OF_SCAN = b"\xff\xda"
START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"
"""End of image (JPEG) and end of codestream (JPEG 2000) are the same two bytes."""
FOREIGN_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff\xc4\xcc\xda\xdb\xdc\xdd\xfe])", re.DOTALL)
"""0xFF, and after it none of what may follow in or between scans: a stuffed 0, restart markers, fill bytes, tables,
the next scan."""


def what_is_missing(data: bytes, compression: int, *, headless: bool = False) -> str | None:
    """What shows that ``data`` are not a whole tile, in words, or None.

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
    """As `what_is_missing`, for a JPEG from start to end marker."""
    scan, end = data.find(START_OF_SCAN), data.rfind(END)
    if scan < 0:
        return "the JPEG data hold no scan"
    if end < scan:
        return "the JPEG data do not end with an end marker, so they are truncated or overwritten"
    return _foreign_marker(data[scan + 2 : end])


def _in_interval(data: bytes) -> str | None:
    """As `what_is_missing`, for what lies between two restart markers, the second one included."""
    whole = data.rstrip(b"\0")
    if len(whole) < 2 or whole[-2] != 0xFF or not 0xD0 <= whole[-1] <= 0xD9:
        return "the JPEG data do not end with a restart or end marker"
    return _foreign_marker(whole[:-2])


def _foreign_marker(scan: bytes) -> str | None:
    """The first marker in ``scan`` that can not be there."""
    found = FOREIGN_MARKER.search(scan)
    return f"marker 0xFF{found[1][0]:02X} amid the JPEG data" if found else None
