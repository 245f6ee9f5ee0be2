"""What a file format has to offer."""

from __future__ import annotations

from typing import Protocol

from wsipipe.files import Location
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.slide import Slide


class Reader(Protocol):
    """What a file format has to offer: one file of `wsipipe.slides` each."""

    name: str
    """As `Level.reader` and ``--reader`` say it."""
    why: str
    """By what it knows its slides, in words."""

    def recognises(self, path: Location) -> bool:
        """Whether ``path`` looks like this format; a look at its first bytes, no more."""
        ...

    def open(self, path: Location, planes: Planes = ALL) -> Slide:
        """Read what the slide says of itself.

        Parameters
        ----------
        path
            The slide's file or folder, absolute.
        planes
            Which planes of it are wanted.

        Raises
        ------
        SlideError
            If it is damaged, or not something that wsipipe reads.
        PlaneError
            If it holds several planes and nobody said which, or not the one that was asked for.
        """
        ...
