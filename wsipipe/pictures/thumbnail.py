"""The summary of a store: a thumbnail of its slide, with outlines of tissue, region and classes, and their areas.

Slide and labels have pyramids of their own. A thumbnail shows the whole plane that was segmented, and both are
sampled from there::

    labels of level 0   |0    |1    |2    |3    |4    |5    |     H rows of pixels
    thumbnail           |0             |1             |           h rows: i spans [i, i + 1) * H / h
    a level of the slide|0        |1        |2        |           the mean over just that stretch, shares of pixels too
    a level of labels   |0          |1          |2          |     the pixel that its middle, (i + 1/2) * H / h, lies in

`summarise` never raises: what cannot be read becomes a note.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import imagecodecs
import numpy as np

from wsipipe.arrays import Labels, Mask
from wsipipe.errors import SlideFormatError, StoreError, WsipipeError
from wsipipe.events import ClassCount
from wsipipe.geometry.grid import Box, boxes
from wsipipe.pictures.caption import with_scale_bar
from wsipipe.pictures.drawing import draw_found, draw_searched, level_at, nearest_cells
from wsipipe.rasters.region import read_region
from wsipipe.rasters.segmented_slide import open_as_segmented
from wsipipe.slides.pixels.overview import RgbImage, fitted_shape
from wsipipe.slides.slide import Slide
from wsipipe.store.finished import FinishedStore, open_finished
from wsipipe.store.spec import REGION

THUMBNAIL_PX, LARGE_PX = 320, 1000
"""Long sides of a thumbnail and of the larger picture."""
MAX_LEVEL_BYTES = 48 * 2**20
"""Most bytes of the slide's level that a thumbnail is made from: 16 megapixels of RGB."""
MAX_LABELS_PX = 2**24
"""Most pixels of the level of labels that a thumbnail is made from; those of wsipipe have 1024 x 1024 at most."""
COUNTED_PX = 2**22
"""Most pixels of the level of labels that is counted if the store has no counts."""
JPEG_LEVELS, JPEG_BYTES, LARGE_BYTES = (85, 75, 65, 55, 45), 20_000, 160_000
"""Qualities of the JPEG: the first with at most so many bytes is taken; 1000 thumbnails make 27 MB of a page."""
PAPER = 238
"""The grey of the background if the slide cannot be read."""

T = TypeVar("T")


@dataclass(frozen=True)
class ClassArea:
    """The area of one class."""

    name: str
    label: int
    color: str
    """#rrggbb."""
    pixels: int
    """Number of pixels, at the store's finest level."""
    mm2: float | None
    """Area in square millimetres; None if the size of a pixel is unknown."""
    exact: bool
    """Whether all pixels were counted, rather than those of a coarser level."""
    share: float | None = None
    """Share of what was searched, 0 to 1: the tissue, the region or the slide; None if that is nothing."""


@dataclass(frozen=True)
class Picture:
    """A JPEG of a slide, with a scale bar if its resolution is known."""

    jpeg: bytes = b""
    """Empty if there is none."""
    shape: tuple[int, int] = (0, 0)
    """(height, width) in pixels."""


@dataclass(frozen=True)
class StoreSummary:
    """The thumbnail of a store, the areas and objects of its classes, and the model that made it."""

    thumbnail: Picture = Picture()
    large: Picture = Picture()
    """The same, larger; only where it was asked for."""
    classes: tuple[ClassArea, ...] = ()
    notes: tuple[str, ...] = ()
    """What is missing or wrong, and why."""
    version: str = ""
    """Version of the wsipipe that made the store."""
    model: str = ""
    model_sha256: str = ""
    objects: tuple[ClassCount, ...] = ()
    """Counts of its objects, class by class; empty if they were not measured."""
    mpp: float | None = None
    """Micrometres per pixel of the labels; None if unknown."""
    tissue_share: float | None = None
    """Share of the slide, or of its region, that is tissue, 0 to 1; None if no tissue mask was used."""
    region_share: float | None = None
    """Share of the slide that lies in the region that was asked for, 0 to 1; None if none was."""

    @property
    def opened(self) -> bool:
        """Whether the store could be read; of one that could not, only `notes` are known."""
        return bool(self.model_sha256)


def summarise(slide: str, store: str, *, large: bool = False) -> StoreSummary:
    """The thumbnail of ``store``, whose slide is ``slide``, and the areas of its classes; never raises.

    Parameters
    ----------
    slide
        Path of the slide.
    store
        Path of a finished store.
    large
        Whether to make the larger picture too.
    """
    notes: list[str] = []
    opened = _try(lambda: open_finished(store), "the store cannot be read", notes)
    if opened is None:
        return StoreSummary(notes=tuple(notes))
    classes = _try(lambda: _areas(opened), "the classes cannot be counted", notes)
    picture = _try(lambda: _picture(slide, opened, notes), "no picture", notes) or Picture()
    larger = _try(lambda: _picture(slide, opened, [], LARGE_PX, LARGE_BYTES), "", []) if large and not notes else None
    return StoreSummary(
        thumbnail=picture,
        large=larger or Picture(),
        classes=classes or (),
        notes=tuple(notes),
        version=opened.version,
        model=opened.model,
        model_sha256=opened.model_sha256,
        objects=opened.objects or (),
        mpp=opened.mpp,
        tissue_share=opened.tissue_share,
        region_share=opened.region_share,
    )


def _try(make: Callable[[], T], failure: str, notes: list[str]) -> T | None:
    """The result of ``make``; None and a note if it raises."""
    try:
        return make()
    except Exception as err:  # zarr, a codec, a reader or the file system may raise anything; the report must not fail
        notes.append(f"{failure}: {err if isinstance(err, WsipipeError) else f'{type(err).__name__}: {err}'}")
        return None


def _areas(store: FinishedStore) -> tuple[ClassArea, ...]:
    """The area of each class: by the counts in the store if they cover all pixels, else by a level of `COUNTED_PX`."""
    shapes = store.shapes
    pixels, level = prod(shapes[0]), 0
    counts = dict(store.counts)
    if sum(counts.values()) != pixels:
        level = next((i for i, shape in enumerate(shapes) if prod(shape) <= COUNTED_PX), len(shapes) - 1)
        found = _counted(store, level)
        counts = {value: round(count * pixels / prod(shapes[level])) for value, count in found.items()}
    searched = pixels * store.searched_share
    return tuple(
        ClassArea(
            name,
            value,
            color,
            pixels=counts.get(value, 0),
            mm2=None if store.mpp is None else counts.get(value, 0) * store.mpp**2 / 1e6,
            exact=level == 0,
            share=counts.get(value, 0) / searched if searched else None,
        )
        for name, value, color in store.classes
    )


def _counted(store: FinishedStore, level: int) -> dict[int, int]:
    """Pixels of each label that occurs in ``level``."""
    labels = store.labels(level)
    height, width = labels.shape
    total = np.zeros(256, np.int64)
    for box in boxes((height, width), 2048):
        total += np.bincount(np.asarray(labels[box.slices]).ravel(), minlength=256)
    return {value: int(count) for value, count in enumerate(total) if count}


def _picture(
    slide: str, store: FinishedStore, notes: list[str], side: int = THUMBNAIL_PX, most_bytes: int = JPEG_BYTES
) -> Picture:
    """A picture of at most ``side`` px; without the slide's pixels, and with a note, if these cannot be read."""
    shape = fitted_shape(store.shapes[0], side)
    labels = nearest_labels(store, shape)
    image = _try(lambda: slide_image(slide, store, shape), "without the slide's pixels", notes)
    if image is None:
        image = np.full((*shape, 3), PAPER, np.uint8)
    tissue = _try(store.tissue, "without the outline of the tissue", notes)
    region = _try(lambda: region_at(store, shape), "without the outline of the region", notes)
    mask = None if tissue is None else nearest_cells(np.asarray(tissue[...]) > 0, shape)
    draw_searched(image, mask, region, grey_glass=False)
    draw_found(image, labels, store.classes)
    um_per_px = None if store.mpp is None else store.mpp * store.shapes[0][1] / shape[1]
    return Picture(_encoded(with_scale_bar(image, um_per_px), most_bytes), shape)


def region_at(store: FinishedStore, shape: tuple[int, int]) -> Mask | None:
    """Which pixels of a picture of ``shape`` are in the region that was asked for, bool (y, x); None without one."""
    document = store.region()
    if document is None:
        return None
    region = read_region(document, REGION, store.shapes[0], store.downsample)
    return region.at(shape).inside(Box(0, shape[0], 0, shape[1]))


def picture_of_slide(slide: Slide) -> Picture:
    """A picture of the finest level of ``slide``, without a store.

    Raises
    ------
    SlideError
        If it cannot be read.
    """
    finest = slide.levels[0]
    shape = fitted_shape(finest.shape, THUMBNAIL_PX)
    image = level_at(slide, 0, shape, most_bytes=MAX_LEVEL_BYTES)
    um_per_px = None if slide.mpp is None else slide.mpp * finest.shape[1] / shape[1]
    return Picture(_encoded(with_scale_bar(image, um_per_px), JPEG_BYTES), shape)


def nearest_labels(store: FinishedStore, shape: tuple[int, int]) -> Labels:
    """The labels of the whole plane at ``shape``, (y, x), uint8: those at the middles of its pixels.

    Raises
    ------
    StoreError
        If the level that fits has more than `MAX_LABELS_PX`.
    """
    shapes = store.shapes
    enough = [i for i, fine in enumerate(shapes) if all(n >= wanted for n, wanted in zip(fine, shape, strict=True))]
    level = enough[-1] if enough else 0
    array = store.labels(level)
    if array.size > MAX_LABELS_PX:
        raise StoreError(f"level {level} of the labels has {array.size:,} px; at most {MAX_LABELS_PX:,} are allowed")
    labels: Labels = np.asarray(array[...])
    rows, cols = (
        np.minimum((2 * np.arange(n) + 1) * whole // (2 * n * 2**level), there - 1)
        for n, whole, there in zip(shape, shapes[0], labels.shape, strict=True)
    )
    at_middles: Labels = labels[rows][:, cols]
    return at_middles


def slide_image(slide: str, store: FinishedStore, shape: tuple[int, int]) -> RgbImage:
    """The slide at ``shape`` as RGB, (y, x, 3), uint8.

    Raises
    ------
    SlideFormatError
        If the file at ``slide`` is not the one that was segmented, or its levels are too large.
    SlideError
        If its pixels cannot be read.
    """
    opened = open_as_segmented(store, slide)
    if opened.identity != store.slide:
        raise SlideFormatError("the slide's file is not the one that was segmented")
    levels = opened.levels[store.level : store.level + 1]
    if not any(level.shrunk(store.shrink).shape == store.shapes[0] for level in levels):
        raise SlideFormatError(f"the labels do not have the shape of level {store.level}")
    return level_at(opened, store.level, shape, most_bytes=MAX_LEVEL_BYTES)


def _encoded(image: RgbImage, most_bytes: int) -> bytes:
    """``image``, (y, x, 3), uint8, as JPEG; colours at full resolution, because lines are one pixel wide."""
    for level in JPEG_LEVELS:
        jpeg = bytes(imagecodecs.jpeg8_encode(image, level=level, subsampling="444"))
        if len(jpeg) <= most_bytes:
            break
    return jpeg
