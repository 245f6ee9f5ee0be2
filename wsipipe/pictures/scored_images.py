"""Scored images with what is true, what was found, and what of it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from wsipipe.arrays import Pixels
from wsipipe.errors import WsipipeError
from wsipipe.evaluation.evaluate import Evaluation
from wsipipe.evaluation.metrics import OF_PROBABILITIES
from wsipipe.evaluation.sources import OpenedPair
from wsipipe.evaluation.wrong import Wrong, wrong_objects
from wsipipe.files import make_folder, write_whole
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.pictures.caption import captioned
from wsipipe.pictures.drawing import as_rgb, outlines
from wsipipe.pictures.reliability import write_reliability
from wsipipe.rasters.image import open_raster
from wsipipe.rasters.pairs import IMAGE_FOLDERS, rasters_in, stem
from wsipipe.rasters.segmented_slide import open_segmented_slide
from wsipipe.slides.pixels.overview import RgbImage
from wsipipe.slides.slide import Level
from wsipipe.store.finished import FinishedStore, is_store, open_finished

TRUE, FOUND, BOTH = (40, 220, 80), (255, 40, 40), (255, 215, 0)
"""Outlines of what is true, of what was found, and where both run along the same pixels."""
FILLED = 0.45
"""Opacity of the colour that fills a wrong object."""
DRAWN = 100
"""The most images that are drawn, the worst."""
SHEET_COLUMNS, SHEET_ROWS, SHEET_PX, GAP_PX = 4, 3, 480, 8
"""Images on the sheet, their largest side, and the white between them."""
STRIP_PX = 2**24
"""Pixels of a slide that are read at once, where those that are drawn lie far apart."""
LEAST_PX = 600
"""Smaller images are enlarged by a whole number, so that outlines do not hide them."""

Captioned = tuple[RgbImage, str, float | None]
"""A picture, what to write below it, and micrometres per pixel of it, None if unknown."""


def draw_evaluation(folder: Path, found: Evaluation) -> None:
    """Draw the worst images into ``folder``, a PNG each, and the very worst on ``sheet.png``.

    What is true is outlined in green, what was found in red, in yellow where both run along the same pixels. What was
    missed is filled with green, what was found and is not true with red. Of a large image the part is drawn that has
    the most errors. With probabilities, ``calibration.png`` shows precision over recall, and reliability.

    Raises
    ------
    OutputError
        If files cannot be written.
    SlideError
        If labels cannot be read.
    """
    make_folder(folder)
    digits, sheet = len(str(min(DRAWN, len(found.images)))), []
    for rank, index in enumerate(found.worst_first[:DRAWN], start=1):
        drawn = _drawn(found, index)
        name = f"{rank:0{digits}}-{found.images[index].name}.png"
        write_whole(folder / name, bytes(imagecodecs.png_encode(captioned(*drawn))))
        if rank <= SHEET_COLUMNS * SHEET_ROWS:
            sheet.append(captioned(*_shrunk(*drawn)))
    write_whole(folder / "sheet.png", bytes(imagecodecs.png_encode(_sheet(sheet))))
    numbers = found.tally.numbers()
    if probable := [numbers[name] for name in OF_PROBABILITIES if name in numbers]:  # each has the same counts
        write_reliability(folder / "calibration.png", probable[0].sum(axis=0), found.tally.classes)


def _drawn(found: Evaluation, index: int) -> Captioned:
    image, pair, window = found.images[index], found.pairs[index], found.windows[index]
    wrong = wrong_objects(pair.prediction, pair.labels, window, found.terms[index])
    photo = image_within(Path(image.prediction), Path(image.labels), pair, window)
    missed, false, true = (len(np.unique(side[side > 0])) for side in (wrong.missed, wrong.false, wrong.true))
    part = "" if window.shape == pair.labels.shape else f", part at y = {window.y0}, x = {window.x0}"
    score = f"{found.headline} {image.scores[found.headline]:.2f}"
    text = f"{image.name}{part} · {score} · {true} true, {missed} missed; {false} false"
    mpp, times = pair.meeting.mpp, -(-LEAST_PX // max(window.shape))
    return _marked(photo, wrong, times), text, None if mpp is None else mpp / times


def _marked(photo: RgbImage, wrong: Wrong, times: int) -> RgbImage:
    """``photo`` with the objects over it, each pixel as ``times`` x ``times``."""

    def larger(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return pixels.repeat(times, axis=0).repeat(times, axis=1)

    marked: RgbImage = larger(photo).astype(np.uint8)
    for side, color in ((wrong.missed, TRUE), (wrong.false, FOUND)):
        filled = larger(side) > 0
        mixed = (1 - FILLED) * marked[filled] + FILLED * np.array(color)
        marked[filled] = mixed.round().astype(np.uint8)
    true, found = outlines(larger(wrong.true)), outlines(larger(wrong.found))
    marked[found], marked[true], marked[true & found] = FOUND, TRUE, BOTH
    return marked


def image_within(prediction: Path, labels: Path, pair: OpenedPair, window: Box) -> RgbImage:
    """The image itself within a window of the grid, (y, x, 3), uint8: of the store's slide, or beside the labels.

    It is white where there is none.

    Parameters
    ----------
    prediction, labels
        The files.
    pair
        The planes on the grid.
    window
        Which pixels of the grid.
    """
    with suppress(WsipipeError, OSError):
        if is_store(prediction):
            store = open_finished(prediction)
            lattices = pair.meeting.prediction
            level, step = _level_for(open_segmented_slide(store).levels, store, lattices[0].step)
            rows, cols = (
                np.clip(np.floor(lattice.positions(start, stop) * step).astype(np.int64), 0, side - 1)
                for lattice, start, stop, side in zip(
                    lattices, (window.y0, window.x0), (window.y1, window.x1), level.shape, strict=True
                )
            )
            return as_rgb(_pixels_at(level, rows, cols).astype(np.float32), level.dtype)
        if (path := _image_beside(labels)) is not None:
            raster = open_raster(path)
            if raster.shape == pair.labels.shape:
                return as_rgb(raster.read(window).astype(np.float32), raster.dtype)
    return np.full((*window.shape, 3), 255, np.uint8)


def _level_for(levels: Sequence[Level], store: FinishedStore, step: float) -> tuple[Level, float]:
    """The coarsest level that shows each ``step`` of the store's pixels, and its pixels that one of the store spans.

    It is the one that was segmented where a step is a pixel of that, or less.
    """
    own = levels[store.level]
    spans = [store.shrink * own.downsample / level.downsample for level in levels]
    fitting = [index for index in range(store.level, len(levels)) if step * spans[index] >= 1]
    index = max(fitting, default=store.level)
    return levels[index], spans[index]


def _pixels_at(level: Level, rows: Indices, cols: Indices) -> Pixels:
    """The pixels at ``rows`` x ``cols``, both ascending, (y, x, channel), read in strips of about `STRIP_PX`."""
    x0, width = int(cols[0]), int(cols[-1] - cols[0]) + 1
    count = -(-int(rows[-1] - rows[0] + 1) * width // STRIP_PX)
    strips = [
        level.read(int(some[0]), x0, int(some[-1] - some[0]) + 1, width)[some - some[0]][:, cols - x0]
        for some in np.array_split(rows, min(count, len(rows)))
    ]
    return np.concatenate(strips)


def _image_beside(labels: Path) -> Path | None:
    """The image that the labels are of: ``NAME_image.*`` beside them, or ``NAME.*`` in a folder ``image``; or None."""
    beside = [path for path in _rasters_in(labels.parent) if "_im" in path.stem]
    apart = [path for name in IMAGE_FOLDERS for path in _rasters_in(labels.parent.parent / name)]
    return next((path for path in [*beside, *apart] if stem(path) == stem(labels)), None)


def _rasters_in(folder: Path) -> list[Path]:
    return rasters_in(folder) if folder.is_dir() else []


def _shrunk(picture: RgbImage, text: str, um_per_px: float | None) -> Captioned:
    """The same, small enough for the sheet."""
    small = Image.fromarray(picture)
    small.thumbnail((SHEET_PX, SHEET_PX))
    times = picture.shape[1] / small.width
    return np.array(small), text, None if um_per_px is None else um_per_px * times


def _sheet(pictures: list[RgbImage]) -> RgbImage:
    """Pictures in rows, on white."""
    height, width = (GAP_PX + max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    rows, columns = -(-len(pictures) // SHEET_COLUMNS), min(len(pictures), SHEET_COLUMNS)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, SHEET_COLUMNS)
        y, x = row * height, column * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet
