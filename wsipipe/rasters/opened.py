"""Images that a process keeps open, or decoded, between the boxes that it reads of them.

What comes in one piece, a PNG or the strips of a small TIFF, is decoded once and kept, up to `KEPT_BYTES` per
process: patches of a training are many and small.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from wsipipe.errors import SlideError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.identity import file_identity
from wsipipe.slides.pixels.mirrored import Pixels

MAX_PIECE_BYTES = 2**30
"""A PNG, or a tile of labels, that needs more than this once decoded is refused: it can only be decoded whole."""
MAX_WHOLE_BYTES = 2**26
"""A TIFF in strips of up to this size once decoded is kept decoded; of a larger one, strips are decoded as needed."""
KEPT_BYTES = 2**28
"""What one process keeps decoded, at most, or a single image if that is larger."""
OPEN_FILE_BYTES = 2**22
"""What an open file counts for among what is kept: 64 of them, below the 256 that macOS allows."""
Read = Callable[[Box], Pixels]


@dataclass(frozen=True)
class Opened:
    """Pixels that this process can read."""

    read: Read
    """The pixels of a box, (h, w, channels) or for labels (h, w), in the dtype of the file."""
    held_bytes: int
    """What keeping it costs; 0 where only the file is open."""


class Source(Protocol):
    """Where pixels are, as a value that can be hashed and pickled; equal sources hold equal pixels."""

    def open(self) -> Opened:
        """Open it in this process.

        Raises
        ------
        SlideError
            If it is gone, damaged, or not what it was when it was first opened.
        """
        ...


_lock = threading.Lock()
_kept: OrderedDict[Source, Opened] = OrderedDict()


def opened(source: Source) -> Opened:
    """``source``, opened at the first call in this process, and after it was dropped."""
    with _lock:
        if source in _kept:
            _kept.move_to_end(source)
            return _kept[source]
    found = source.open()  # outside the lock: others go on reading meanwhile
    with _lock:
        found = _kept.setdefault(source, found)
        while len(_kept) > 1 and sum(one.held_bytes or OPEN_FILE_BYTES for one in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)
    return found


def keep(pixels: npt.NDArray[Any]) -> Opened:
    """Decoded pixels, (h, w, ...), of which each reader gets a copy."""
    return Opened(lambda box: pixels[box.slices].copy(), pixels.nbytes)


def forget_all() -> None:
    """Drop what this process keeps; files are closed when nobody holds them any more."""
    with _lock:
        _kept.clear()


def whole(shape: tuple[int, int]) -> Box:
    """All of it."""
    return Box(0, shape[0], 0, shape[1])


def check_inside(box: Box, shape: tuple[int, int]) -> None:
    """Mirroring at the borders is the caller's."""
    assert 0 <= box.y0 < box.y1 <= shape[0], f"{box} is outside {shape}"
    assert 0 <= box.x0 < box.x1 <= shape[1], f"{box} is outside {shape}"


def check_same(path: Path, identity: str) -> None:
    """Refuse a file that was replaced since it was opened first.

    Raises
    ------
    SlideReadError
        If it was, or is gone.
    """
    try:
        same = file_identity(path) == identity
    except OSError as err:
        raise SlideReadError(f"{path.name} is gone: {err.strerror or err} ({path})") from err
    if not same:
        raise SlideReadError(f"{path.name} is not the file that it was when it was opened; start again")


@contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong in it is a SlideError that names the file."""
    try:
        yield
    except SlideError:
        raise
    except Exception as err:  # tifffile, zarr and what they call raise all sorts on damaged files
        raise SlideReadError(f"{path.name} is damaged ({type(err).__name__}: {err}); write it again") from err


@contextmanager
def reading(path: Path, box: Box) -> Iterator[None]:
    """Whatever goes wrong in it is a SlideReadError that names the file and the box."""
    try:
        yield
    except Exception as err:  # whatever zarr, a codec or the file system raises
        reason = str(err) if isinstance(err, SlideReadError) else f"{type(err).__name__}: {err}"
        raise SlideReadError(f"{path.name} can not be read at {box}: {reason}") from err
