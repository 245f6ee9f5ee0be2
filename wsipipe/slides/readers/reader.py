"""The protocol that the readers of all file formats follow."""

from __future__ import annotations

from typing import Protocol

from wsipipe.files import Location
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.slide import Slide


class Reader(Protocol):
    """A file format that can be read; each is a file or folder of `wsipipe.slides.readers`."""

    name: str
    """Its name in `Level.reader` and for ``--reader``."""
    why: str
    """How it knows its slides, in words, for `Slide.why`."""

    def recognises(self, path: Location) -> bool:
        """Whether ``path`` looks like this format, by its first bytes alone."""
        ...

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """Read what the slide says about itself.

        Parameters
        ----------
        path
            The slide's file or folder, absolute.
        planes
            Which of its planes to read.

        Raises
        ------
        SlideError
            If it is damaged, or not something that wsipipe reads.
        PlaneError
            If it holds several planes and ``planes`` does not say which, or names one that does not exist.
        """
        ...
