"""The slide that a store was made from."""

from __future__ import annotations

from wsipipe.errors import StoreError
from wsipipe.files import Named
from wsipipe.slides.open import open_slide
from wsipipe.slides.planes import parse_reading
from wsipipe.slides.slide import Slide
from wsipipe.store.finished import FinishedStore


def open_as_segmented(store: FinishedStore, path: Named | None = None) -> Slide:
    """The file at ``path``, by default where the slide of ``store`` was, read as that was read.

    Raises
    ------
    SlideError
        If it cannot be opened.
    """
    reader, planes = parse_reading(store.reading)
    return open_slide(store.slide_path if path is None else path, reader=reader, planes=planes)


def open_segmented_slide(store: FinishedStore) -> Slide:
    """The slide of ``store``, where it was.

    Raises
    ------
    SlideError
        If it cannot be opened.
    StoreError
        If the file there is another slide.
    """
    slide = open_as_segmented(store)
    if slide.identity != store.slide:
        raise StoreError(f"{store.slide_path} is not the slide that was segmented")
    return slide
