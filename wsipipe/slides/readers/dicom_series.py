"""The DICOM files of a folder, by their series; only the beginnings of the files are read."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

DICOM_MAGIC, MAGIC_AT = b"DICM", 128
"""The mark of a DICOM file, and where it is: after the preamble."""
HEAD_BYTES = 64 * 1024
"""Bytes in which the header's SeriesInstanceUID is found."""
SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI..|..\x00\x00)([0-9.]+)", re.DOTALL)
"""SeriesInstanceUID, with its value representation or without."""


def series_of(path: Path) -> str | None:
    """The SeriesInstanceUID of a DICOM file, empty if it is not found; None if the file is not DICOM."""
    with path.open("rb") as file:
        if file.read(MAGIC_AT + len(DICOM_MAGIC))[MAGIC_AT:] != DICOM_MAGIC:
            return None
        found = SERIES.search(file.read(HEAD_BYTES))
    return found[1].decode() if found else ""


def series_in(folder: Path) -> dict[str, list[Path]]:
    """The DICOM files of ``folder``, sorted, by their series in the order of the first files' names.

    A file that cannot be read is left out; whoever opens it by its name learns why.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        with suppress(OSError):
            series = None if path.name.startswith(".") or not path.is_file() else series_of(path)
            if series is not None:
                found.setdefault(series, []).append(path)
    return found
