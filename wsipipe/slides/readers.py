"""The readers, in the order in which they are asked."""

from __future__ import annotations

from wsipipe.slides.omezarr import OmeZarrReader
from wsipipe.slides.slide import Reader
from wsipipe.slides.tiff import TiffReader

READERS: tuple[Reader, ...] = (TiffReader(), OmeZarrReader())
