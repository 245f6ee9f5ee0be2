from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsipipe.slides.readers.dicom_series import LONG, SLIDE_CLASS, instance_of, instances_in

UNDEFINED = 2**32 - 1


def element(group: int, number: int, kind: bytes, value: bytes, *, undefined: bool = False) -> bytes:
    """One element, with its value representation; of length that its end marks if it is ``undefined``."""
    length = UNDEFINED if undefined else len(value)
    size = b"\0\0" + length.to_bytes(4, "little") if kind in LONG else length.to_bytes(2, "little")
    return group.to_bytes(2, "little") + number.to_bytes(2, "little") + kind + size + value


def mark(number: int, length: int = 0) -> bytes:
    """The beginning of an item, or the end of one or of a sequence."""
    return b"\xfe\xff" + number.to_bytes(2, "little") + length.to_bytes(4, "little")


def head(
    *, sop_class: str = SLIDE_CLASS, kind: bytes = b"VOLUME", series: bytes = b"1.2.3 ", within: bytes = b""
) -> bytes:
    """The beginning of a file, with ``within`` before its own series."""
    elements = [
        element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0"),
        element(8, 8, b"CS", b"DERIVED\\PRIMARY\\" + kind),
        element(8, 0x16, b"UI", sop_class.encode() + b"\0"),
        element(8, 0x18, b"UI", b"1.5.6\0"),
        within,
        element(0x20, 0xE, b"UI", series),
    ]
    return bytes(128) + b"DICM" + b"".join(elements) + bytes(1000)


@pytest.mark.parametrize("item_is_open", [False, True])
@pytest.mark.parametrize("sequence_is_open", [False, True])
def test_series_within_a_sequence_is_not_that_of_the_file(
    tmp_path: Path, item_is_open: bool, sequence_is_open: bool
) -> None:
    inner = element(0x20, 0xE, b"UI", b"9.9.9 ")
    item = mark(0xE000, UNDEFINED) + inner + mark(0xE00D) if item_is_open else mark(0xE000, len(inner)) + inner
    sequence = element(8, 0x1115, b"SQ", item + mark(0xE0DD) * sequence_is_open, undefined=sequence_is_open)
    (tmp_path / "a").write_bytes(head(within=sequence))
    found = instance_of(tmp_path / "a")
    assert found is not None
    assert (found.sop_class, found.uid, found.series, found.image_type) == (
        SLIDE_CLASS,
        "1.5.6",
        "1.2.3",
        ("DERIVED", "PRIMARY", "VOLUME"),
    )


def test_elements_without_value_representation_are_read_as_well(tmp_path: Path) -> None:
    content = b"\x20\0\x0e\0" + (6).to_bytes(4, "little") + b"1.2.3\0"
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM" + content + bytes(100))
    found = instance_of(tmp_path / "a")
    assert found is not None
    assert found.series == "1.2.3"


def test_only_series_with_a_level_are_slides(tmp_path: Path) -> None:
    files = {
        "a": head(series=b"1.1 ", kind=b"LABEL "),
        "b": head(series=b"1.2 ", kind=b"OVERVIEW"),
        "c": head(series=b"1.2 "),
        "d": head(series=b"1.3 ", sop_class="1.2.840.10008.5.1.4.1.1.91.1"),
        "e": head(series=b"1.2 ", sop_class="1.2.840.10008.5.1.4.1.1.66.4"),
        "f": b"II*\0 is not DICOM",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = {series: [file.path.name for file in of] for series, of in instances_in(tmp_path).items()}
    assert found == {"1.2": ["b", "c"]}


def test_damaged_beginning_and_a_pipe_end_the_search(tmp_path: Path) -> None:
    for size in (140, 150, 170, 200):
        (tmp_path / "cut").write_bytes(head()[:size])
        found = instance_of(tmp_path / "cut")
        assert found is not None
        assert found.series == ""
        assert found.is_slide
    os.mkfifo(tmp_path / "pipe")
    assert instance_of(tmp_path / "pipe") is None
