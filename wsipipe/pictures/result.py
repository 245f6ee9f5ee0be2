"""What a run found on a slide, drawn over it: the whole slide, or a part of it, pixel by pixel."""

from __future__ import annotations

from pathlib import PurePath

import imagecodecs
import numpy as np

from wsipipe.arrays import Labels, size_text
from wsipipe.errors import UsageError
from wsipipe.pictures.caption import captioned
from wsipipe.pictures.drawing import as_rgb, inner_edge
from wsipipe.pictures.preview import PREVIEW_PX
from wsipipe.pictures.thumbnail import nearest_labels, slide_image
from wsipipe.rasters.region import parse_region, region_of
from wsipipe.rasters.segmented_slide import open_segmented_slide
from wsipipe.slides.pixels.overview import RgbImage, fitted_shape
from wsipipe.store.finished import FinishedStore


def result_png(store: FinishedStore, roi: str | None = None) -> bytes:
    """The slide of ``store`` with the outlines of its labels, in the colours of their classes, as a PNG.

    A strip below it has the slide's name, the classes, and a scale bar if the mpp is known.

    Parameters
    ----------
    store
        A complete store, whose slide is where it was.
    roi
        The part to draw, as `parse_region` reads it; at most `PREVIEW_PX` px of the labels a side, and then pixel by
        pixel. None: the whole slide, at most so large.

    Raises
    ------
    UsageError
        If the part is larger.
    SlideError, StoreError
        If the slide cannot be read, or is another one.
    """
    if roi is None:
        shape = fitted_shape(store.shapes[0], PREVIEW_PX)
        image, labels = slide_image(store.slide_path, store, shape), nearest_labels(store, shape)
    else:
        image, labels = _part(store, roi)
    for _, value, color in store.classes:
        image[inner_edge(labels == value)] = list(bytes.fromhex(color[1:]))
    um_per_px = store.mpp
    if um_per_px is not None and roi is None:
        um_per_px *= store.shapes[0][1] / image.shape[1]
    names = ", ".join(name for name, _, _ in store.classes)
    return bytes(imagecodecs.png_encode(captioned(image, f"{PurePath(store.slide_path).name} · {names}", um_per_px)))


def _part(store: FinishedStore, roi: str) -> tuple[RgbImage, Labels]:
    """The pixels of the slide of ``store`` around ``roi``, RGB (y, x, 3), uint8, and their labels, (y, x), uint8."""
    slide = open_segmented_slide(store)
    level = slide.levels[store.level].shrunk(store.shrink)
    box = region_of(parse_region(roi), slide, level).bounds
    if max(box.shape) > PREVIEW_PX:
        raise UsageError(
            f"--roi {roi} is {size_text(box.shape)} of the labels; a picture of a result shows a part of at most "
            f"{PREVIEW_PX} px a side, or without --roi the whole slide"
        )
    pixels = level.read(box.y0, box.x0, *box.shape)
    return as_rgb(pixels.astype(np.float32), level.dtype), store.read_labels(box)
