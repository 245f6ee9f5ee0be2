"""PNG files of labels, which can only be decoded whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsipipe.rasters.opened import Opened, check_same, keep
from wsipipe.slides.readers.picture_file import decode


@dataclass(frozen=True)
class PngFile:
    """A PNG, decoded whole."""

    path: str
    identity: str
    """The file's identity when it was first opened."""

    def open(self) -> Opened:
        """See `Source.open`; the pixels are (y, x, channel), without an alpha channel.

        Raises
        ------
        SlideFormatError
            If it is partly transparent.
        SlideReadError
            If it is damaged, or was replaced.
        """
        path = Path(self.path)
        check_same(path, self.identity)
        return keep(decode(path.name, path.read_bytes()))
