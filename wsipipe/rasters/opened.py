"""Images that a process keeps open, or decoded, between the boxes that it reads of them.

A PNG, or a small TIFF in strips, is decoded once and kept, up to `KEPT_BYTES` per process: training reads many small
patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from wsipipe.arrays import Pixels
from wsipipe.errors import SlideError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.identity import file_identity
from wsipipe.slides.opened import OpenedSources, Source

MAX_PIECE_BYTES = 2**30
"""A PNG, or a tile of labels, that needs more than this once decoded is refused: it can only be decoded whole."""
MAX_WHOLE_BYTES = 2**26
"""A TIFF in strips of up to this size once decoded is kept decoded; of a larger one, strips are decoded as needed."""
KEPT_BYTES = 2**28
"""The most that one process keeps decoded, or a single image if that is larger."""
OPEN_FILE_BYTES = 2**22
"""What an open file counts towards `KEPT_BYTES`: 64 of them fit, below the 256 that macOS allows."""

Read = Callable[[Box], Pixels]


@dataclass(frozen=True)
class Opened:
    """Pixels that this process can read."""

    read: Read
    """The pixels of a box, (y, x, channel) or for labels (y, x), in the dtype of the file."""
    held_bytes: int
    """Memory that keeping it costs; 0 if only the file is open."""


RasterSource = Source[Opened]
"""Where the pixels of an image, or its labels, are."""
RASTERS: OpenedSources[Opened] = OpenedSources(KEPT_BYTES, lambda one: one.held_bytes or OPEN_FILE_BYTES)
"""The images and labels that this process keeps open, or decoded."""


def keep(pixels: npt.NDArray[Any]) -> Opened:
    """Decoded pixels, (y, x, ...) of any dtype; each read gives a copy."""
    return Opened(lambda box: pixels[box.slices].copy(), pixels.nbytes)


def whole(shape: tuple[int, int]) -> Box:
    """The box of a whole image of ``shape``, (height, width)."""
    return Box(0, shape[0], 0, shape[1])


def check_inside(box: Box, shape: tuple[int, int]) -> None:
    """Assert that ``box`` is within an image of ``shape``; mirroring at the borders is the caller's task."""
    assert 0 <= box.y0 < box.y1 <= shape[0], f"{box} is outside {shape}"
    assert 0 <= box.x0 < box.x1 <= shape[1], f"{box} is outside {shape}"


def check_same(path: Path, identity: str) -> None:
    """Refuse a file that was replaced since it was first opened.

    Raises
    ------
    SlideReadError
        If it was replaced, or is gone.
    """
    try:
        same = file_identity(path) == identity
    except OSError as err:
        raise SlideReadError(f"{path.name} is gone: {err.strerror or err} ({path})") from err
    if not same:
        raise SlideReadError(f"{path.name} has changed since it was opened; start again")


@contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong within the context into a SlideError that names the file."""
    try:
        yield
    except SlideError:
        raise
    except Exception as err:  # tifffile, zarr and what they call raise all sorts on damaged files
        raise SlideReadError(f"{path.name} is damaged ({type(err).__name__}: {err}); write it again") from err


@contextmanager
def reading(path: Path, box: Box) -> Iterator[None]:
    """Turn whatever goes wrong within the context into a SlideReadError that names the file and the box."""
    try:
        yield
    except Exception as err:  # whatever zarr, a codec or the file system raises
        reason = str(err) if isinstance(err, SlideReadError) else f"{type(err).__name__}: {err}"
        raise SlideReadError(f"{path.name} cannot be read at {box}: {reason}") from err
