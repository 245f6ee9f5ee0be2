"""The slide that a store was made from."""

from __future__ import annotations

from wsipipe.arrays import size_text
from wsipipe.errors import StoreError
from wsipipe.files import Named
from wsipipe.slides.open import open_slide
from wsipipe.slides.planes import parse_reading
from wsipipe.slides.slide import Level, Slide
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


def segmented_level(slide: Slide, store: FinishedStore, *, way_out: str = "segment the slide again") -> Level:
    """The level of ``slide`` that the labels of ``store`` lie on, at their resolution.

    Raises
    ------
    StoreError
        If no level has the shape of the labels; the message ends with the ``way_out``.
    """
    shape = store.shapes[0]
    for level in slide.levels[store.level : store.level + 1]:
        found = level if store.shrink == 1.0 else level.shrunk(store.shrink)
        if found.shape == shape:
            return found
    raise StoreError(
        f"{store.path} has labels of {size_text(shape)}, which is not level {store.level} of {slide.file}; {way_out}"
    )
