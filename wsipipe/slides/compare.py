"""The pixels of a slide as every reader that opens it returns them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from wsipipe.arrays import Pixels
from wsipipe.errors import SlideError
from wsipipe.files import Location
from wsipipe.geometry.grid import Box
from wsipipe.slides.address import file_of
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.planes import ALL, Planes
from wsipipe.slides.readers.registry import READERS
from wsipipe.slides.slide import Level, Slide

COMPARED_PX = 256
"""Side of the regions that are compared."""


def compare_readers(path: Location, planes: Planes = ALL) -> list[str]:
    """A line for each reader that refuses the file, and one for the difference of each pair of the others."""
    slides: list[Slide] = []
    lines = []
    for reader in READERS:
        if not reader.recognises(file_of(path)[0]):
            continue
        try:
            slides.append(open_slide(path, reader=reader.name, planes=planes))
        except SlideError as err:
            lines.append(f"{reader.name} refuses it: {err}")
    for one, other in combinations(slides, 2):
        lines.append(f"{one.reader} and {other.reader}: {_compared(one, other)}")
    if len(slides) == 1:
        lines.append(f"only {slides[0].reader} opens it")
    return lines


def _compared(one: Slide, other: Slide) -> str:
    try:
        found = differences(one, other)
    except SlideError as err:
        return str(err)
    if not found:
        return "no level has the same size in both"
    return ", ".join(f"level {level} at most {most}" for level, most in found.items())


def differences(one: Slide, other: Slide) -> dict[int, float]:
    """The largest difference of a sample in five regions, by the number of the level in ``one``.

    Only levels that ``other`` has in the same size are compared, in units of 8 bits. Where one reader gives grey and
    the other RGB, grey is compared with each of the three channels.

    Raises
    ------
    SlideReadError
        If a region cannot be read.
    """
    of_size = {level.shape: level for level in other.levels}
    pairs = [(level, of_size[level.shape]) for level in one.levels if level.shape in of_size]
    return {
        mine.index: max(
            float(np.abs(_as_8_bit(mine, box) - _as_8_bit(theirs, box)).max()) for box in _regions(mine.shape)
        )
        for mine, theirs in pairs
        if mine.channels == theirs.channels or 1 in (mine.channels, theirs.channels)
    }


def _as_8_bit(level: Level, box: Box) -> Pixels:
    pixels = read_box(level, box).astype(np.float64)
    return pixels if level.dtype == "uint8" else np.rint(pixels / 257)


def _regions(shape: tuple[int, int]) -> list[Box]:
    """Boxes at the four corners and in the middle."""
    sides = [min(COMPARED_PX, size) for size in shape]
    starts = [(0, (size - side) // 2, size - side) for size, side in zip(shape, sides, strict=True)]
    places = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)]
    return [Box(starts[0][i], starts[0][i] + sides[0], starts[1][j], starts[1][j] + sides[1]) for i, j in places]
