"""The readers, in the order in which they are asked; optional libraries are imported when they are needed."""

from __future__ import annotations

from importlib.util import find_spec

from wsipipe.errors import UsageError
from wsipipe.files import Location
from wsipipe.slides.readers.dicom import DicomReader
from wsipipe.slides.readers.omezarr.reader import OmeZarrReader
from wsipipe.slides.readers.openslide import OPENSLIDE_SUFFIXES, OpenSlideReader
from wsipipe.slides.readers.picture import PictureReader
from wsipipe.slides.readers.reader import Reader
from wsipipe.slides.readers.tiff.reader import TiffReader

READERS: tuple[Reader, ...] = (TiffReader(), OmeZarrReader(), DicomReader(), PictureReader(), OpenSlideReader())


def named(name: str | None) -> tuple[Reader, ...]:
    """The reader of that name; all of them if it is None.

    Raises
    ------
    UsageError
        If no reader has that name.
    """
    found = tuple(reader for reader in READERS if name in (None, reader.name))
    if not found:
        names = ", ".join(reader.name for reader in READERS)
        raise UsageError(f"--reader {name} is not a reader; allowed: {names}")
    return found


def extra_for(path: Location) -> str | None:
    """Name of an extra of wsipipe that may read ``path`` and is not installed; None if there is none."""
    wanted = "openslide" if path.suffix.lower() in OPENSLIDE_SUFFIXES else None
    return wanted if wanted is not None and find_spec(wanted) is None else None
