"""The DICOM files of a folder, by their series; only the beginnings of the files are read.

Source: DICOM PS3.5 section 7 (data elements), PS3.3 C.8.12.4 (VL Whole Slide Microscopy Image).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from struct import Struct
from struct import error as StructError

DICOM_MAGIC, MAGIC_AT = b"DICM", 128
"""The mark of a DICOM file, and where it is: after the preamble, which may be the beginning of a TIFF."""
HEAD_BYTES = 64 * 1024
"""Bytes in which the elements are found that are looked for here."""
SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOPClassUID of whole-slide images; annotations, segmentations and reports have others."""
BESIDE = ("LABEL", "OVERVIEW", "THUMBNAIL")
"""Values of ImageType of images that are not levels of a slide."""
IMAGE_TYPE, SOP_CLASS, SOP_INSTANCE, SERIES = (8, 8), (8, 0x16), (8, 0x18), (0x20, 0xE)
ITEM, END_OF_ITEM, END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations whose length has 4 bytes, after 2 unused ones."""
UNDEFINED = 2**32 - 1
"""The length of a sequence or an item that ends with a mark of its own."""
TAG, SHORT_LENGTH, LONG_LENGTH = Struct("<HH"), Struct("<H"), Struct("<I")
KEPT = 4096
"""Beginnings of files that are remembered."""


@dataclass(frozen=True)
class Instance:
    """A DICOM file; a text is empty if it is not found in its beginning."""

    path: Path
    sop_class: str
    """Its kind, by UID."""
    uid: str
    """The instance's own UID."""
    series: str
    image_type: tuple[str, ...]

    @property
    def is_slide(self) -> bool:
        """Whether it is a whole-slide image, or may be one: a level, a label or an overview."""
        return self.sop_class in ("", SLIDE_CLASS)

    @property
    def is_level(self) -> bool:
        """Whether it is a level of a slide, or may be one."""
        return self.is_slide and not set(BESIDE) & set(self.image_type)


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is DICOM, whatever else it is."""
    return start[MAGIC_AT : MAGIC_AT + len(DICOM_MAGIC)] == DICOM_MAGIC


def instance_of(path: Path) -> Instance | None:
    """What a DICOM file says about itself in its beginning; None if the file is not DICOM.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not path.is_file():  # a pipe or device, which must not be opened to look
        return None
    stat = path.stat()
    return _instance(path, stat.st_size, stat.st_mtime_ns)


def instances_in(folder: Path) -> dict[str, list[Instance]]:
    """The whole-slide images of ``folder``, sorted, by their series in the order of the first files' names.

    A series without a level is left out, such as one of a label alone. So is a file that cannot be read; whoever opens
    it by its name learns why.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    found: dict[str, list[Instance]] = {}
    for path in sorted(folder.iterdir()):
        with suppress(OSError):
            instance = None if path.name.startswith(".") or not path.is_file() else instance_of(path)
            if instance is not None and instance.is_slide:
                found.setdefault(instance.series, []).append(instance)
    return {series: files for series, files in found.items() if any(file.is_level for file in files)}


def series_in(folder: Path) -> dict[str, list[Path]]:
    """The paths of `instances_in`; raises an OSError as it says there."""
    return {series: [file.path for file in files] for series, files in instances_in(folder).items()}


def series_of(path: Path) -> list[Path]:
    """The other whole-slide images of the series of ``path``, beside it; none if it is a folder, or not DICOM.

    Raises
    ------
    OSError
        If ``path`` or its folder cannot be read.
    """
    instance = instance_of(path)
    files = [] if instance is None else series_in(path.parent).get(instance.series, [])
    return [file for file in files if file != path]


@lru_cache(KEPT)
def _instance(path: Path, _size: int, _modified_ns: int) -> Instance | None:
    """See `instance_of`; another version of the file is read again."""
    with path.open("rb") as file:
        start = file.read(MAGIC_AT + len(DICOM_MAGIC))
        if not is_dicom(start):
            return None
        head = file.read(HEAD_BYTES)
    found: dict[tuple[int, int], str] = {}
    with suppress(StructError):  # the beginning ends within an element
        for tag, begin, length in _elements(head):
            found[tag] = head[begin : begin + length].decode("ascii", "replace").strip("\0 ")
            if tag >= SERIES:
                break
    kind, uid, series, image_type = (found.get(tag, "") for tag in (SOP_CLASS, SOP_INSTANCE, SERIES, IMAGE_TYPE))
    return Instance(path, kind, uid, series, tuple(part.strip() for part in image_type.split("\\")))


def _elements(head: bytes) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Yield (tag, place of the value, its length) of each element of the file itself, none of those in sequences.

    Raises
    ------
    struct.error
        At the end of ``head``.
    """
    at = depth = 0
    while True:
        tag, begin, length = _element(head, at)
        if tag in (END_OF_ITEM, END_OF_SEQUENCE):
            depth -= 1
        elif length == UNDEFINED:
            depth += 1
        elif depth == 0 and begin + length <= len(head):
            yield tag, begin, length
        at = begin if length == UNDEFINED or tag == ITEM else begin + length


def _element(head: bytes, at: int) -> tuple[tuple[int, int], int, int]:
    """The tag of the element at ``at``, where its value begins, and how long that is; little-endian.

    Raises
    ------
    struct.error
        If it is beyond the end of ``head``.
    """
    tag = TAG.unpack_from(head, at)
    kind = head[at + 4 : at + 6]
    if tag[0] == ITEM[0] or not kind.isalpha():  # the value representation is implicit
        return tag, at + 8, LONG_LENGTH.unpack_from(head, at + 4)[0]
    if kind in LONG:
        return tag, at + 12, LONG_LENGTH.unpack_from(head, at + 8)[0]
    return tag, at + 8, SHORT_LENGTH.unpack_from(head, at + 6)[0]
