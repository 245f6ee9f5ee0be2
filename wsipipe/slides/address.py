"""Images of one file that are slides of their own: each is named by the file and its number, ``case-17.scn#1``."""

from __future__ import annotations

import re
from pathlib import Path

from wsipipe.files import Location

NUMBERED = re.compile(r"(.+)#(\d{1,4})")
"""A name that may be that of an image: of the file, and the image's number."""


def image_at(file: Location, number: int) -> Location:
    """The name of image ``number``, from 0, of ``file``."""
    return file.parent / f"{file.name}#{number}"


def file_of(slide: Location) -> tuple[Location, int | None]:
    """The file or folder of ``slide``, and the number of its image; None if ``slide`` is the file itself.

    A file that has such a name is itself.
    """
    found = NUMBERED.fullmatch(slide.name)
    if found is None or _is_there(slide) or not _is_there(file := slide.parent / found[1]):
        return slide, None
    return file, int(found[2])


def _is_there(path: Location) -> bool:
    """Whether there is such a file or folder."""
    try:
        return path.exists() if isinstance(path, Path) else path.is_file() or path.is_dir()
    except OSError:
        return False
