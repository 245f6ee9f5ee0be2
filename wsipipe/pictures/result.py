"""What a run found on a slide, drawn over it: the whole slide, or a part of it, pixel by pixel."""

from __future__ import annotations

from pathlib import PurePath

import imagecodecs
import numpy as np

from wsipipe.arrays import Labels, Mask, size_text
from wsipipe.errors import DamagedStoreError, UsageError, WsipipeError
from wsipipe.pictures.caption import captioned
from wsipipe.pictures.drawing import as_rgb, draw_found, draw_searched, level_at, nearest_cells
from wsipipe.pictures.preview import PREVIEW_PX
from wsipipe.pictures.thumbnail import nearest_labels, region_at
from wsipipe.rasters.region import parse_region, region_of
from wsipipe.rasters.segmented_slide import open_segmented_slide, segmented_level
from wsipipe.slides.pixels.overview import RgbImage, fitted_shape
from wsipipe.slides.slide import Level, Slide, with_mpp
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
        pixel. Those of 16 bits are scaled to the brightest of the part. None: the whole slide, at most so large, with
        the outlines of the tissue and of the region that were searched.

    Raises
    ------
    UsageError
        If the part is larger, or is no region.
    ResolutionError
        If the part is given in um or mm, and the micrometres per pixel are unknown.
    StoreError
        If the file is another slide, or has not the level of the labels.
    DamagedStoreError
        If the labels cannot be read.
    SlideError
        If the slide cannot be read.
    """
    slide = open_segmented_slide(store)
    if store.slide_mpp is not None:
        slide = with_mpp(slide, store.slide_mpp)
    level = segmented_level(slide, store)
    try:
        image, labels = _whole(slide, level, store) if roi is None else _part(slide, level, store, roi)
    except WsipipeError:
        raise
    except (OSError, ValueError, RuntimeError) as err:  # of zarr or of a codec
        raise DamagedStoreError(f"{store.path} cannot be read: {err}; see wsipipe check") from err
    draw_found(image, labels, store.classes)
    um_per_px = store.mpp
    if um_per_px is not None and roi is None:
        um_per_px *= level.shape[1] / image.shape[1]
    names = ", ".join(name for name, _, _ in store.classes)
    text = f"{PurePath(store.slide_path).name} · {names}"
    return bytes(imagecodecs.png_encode(captioned(image, text, um_per_px)))


def _whole(slide: Slide, level: Level, store: FinishedStore) -> tuple[RgbImage, Labels]:
    """All of ``slide``, at most `PREVIEW_PX` a side, RGB (y, x, 3), uint8, and its labels, (y, x), uint8."""
    shape = fitted_shape(level.shape, PREVIEW_PX)
    image = level_at(slide, store.level, shape)
    cells = store.tissue()
    tissue: Mask | None = None if cells is None else nearest_cells(np.asarray(cells[...]) > 0, shape)
    draw_searched(image, tissue, region_at(store, shape), grey_glass=False)
    return image, nearest_labels(store, shape)


def _part(slide: Slide, level: Level, store: FinishedStore, roi: str) -> tuple[RgbImage, Labels]:
    """The pixels of ``level`` around ``roi``, RGB (y, x, 3), uint8, and their labels, (y, x), uint8."""
    box = region_of(parse_region(roi), slide, level).bounds
    if max(box.shape) > PREVIEW_PX:
        raise UsageError(
            f"--roi {roi} is {size_text(box.shape)} of the labels; a picture of a result shows a part of at most "
            f"{PREVIEW_PX} px of them a side ({PREVIEW_PX * store.downsample:g} px of level 0), or without --roi all"
        )
    pixels = level.read(box.y0, box.x0, *box.shape)
    return as_rgb(pixels.astype(np.float32), level.dtype), store.read_labels(box)
