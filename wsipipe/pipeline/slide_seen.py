"""Whether a slide is the one that a store was made from, though its files were touched, copied, or written anew."""

from __future__ import annotations

from wsipipe.files import locate
from wsipipe.slides.slide import Slide
from wsipipe.store.spec import Seen
from wsipipe.urls import Url


def is_same(slide: Slide, seen: Seen | None) -> bool:
    """Whether ``slide`` is the one that was ``seen``; older stores name none, and then its identity has to do.

    Its whole content is read only if the state of its files is another one.

    Raises
    ------
    SlideReadError
        If it cannot be read.
    """
    if seen is None or slide.state == seen.state:
        return True
    return seen.sha256 is not None and seen.sha256 == slide.sha256


def look(slide: Slide, known: Seen) -> Seen:
    """The files of ``slide`` now; all of them are read unless they are as ``known``, which has their content.

    Behind a URL only the ETag is asked for.

    Raises
    ------
    SlideReadError
        If they cannot be read.
    """
    before = slide.state_now
    if isinstance(locate(slide.path), Url) or (before == known.state and known.sha256):
        return Seen(before, known.sha256 if before == known.state else None)
    sha256 = slide.sha256
    return Seen(before if slide.state_now == before else "", sha256)
