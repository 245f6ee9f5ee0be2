"""How much of a slide must be in its file: scanners leave out empty tiles, but not nearly all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsipipe.errors import SlideFormatError, SlideReadError

LEAST_SHARE = 1e-4
"""Share of a plane's tiles that must exist. A glass of 25 x 75 mm has half a million tiles of 256 px at 0.25 µm/px;
this is 46 of them, or 0.19 mm², less than the smallest biopsy. So one tile will do for a plane of up to 10 000."""
MAX_TILES = 2**22
"""A plane of more tiles is refused where a reader holds a table of them: 524 288 px square in tiles of 256."""


def check_share(name: str, there: int, total: int, of: str, *, way_out: str) -> None:
    """Refuse a plane nearly all of whose tiles do not exist: its header is damaged, or it was hardly begun.

    Parameters
    ----------
    name
        Name of the slide's file or folder.
    there, total
        How many tiles exist, and for how many the plane has room.
    of
        The plane in words, for the message.
    way_out
        What to do if it was copied or written only in part.

    Raises
    ------
    SlideReadError
        If fewer than `LEAST_SHARE` of them exist.
    """
    if there < LEAST_SHARE * total:
        raise SlideReadError(
            f"{name} is half-written, or its size is wrong: {there} of {total} tiles of {of} exist; wsipipe reads "
            f"slides with at least 1 of {1 / LEAST_SHARE:.0f}; {way_out}; if it is meant to be that empty, crop it"
        )


def check_count(name: str, total: int, of: str) -> None:
    """Refuse a plane of so many tiles that their table would take unbounded memory.

    Raises
    ------
    SlideFormatError
        If there are more than `MAX_TILES`.
    """
    if total > MAX_TILES:
        raise SlideFormatError(
            f"{name}: {of} has {total} tiles; wsipipe reads up to {MAX_TILES}; convert it to larger tiles"
        )


@dataclass(frozen=True)
class StoredPieces:
    """The tiles of a level, or its chunks, by whether they are in the file."""

    shape: tuple[int, int]
    """(height, width) of the level, px."""
    tile: tuple[int, int]
    """(height, width) of a tile, px."""
    there: npt.NDArray[np.bool_]
    """Which exist, (plane, y, x)."""


def lacks_pieces(level: StoredPieces, finer: StoredPieces) -> bool:
    """Whether pieces of ``level`` are missing where the ``finer`` level has some: some writers lose single ones."""
    lost, there = ~level.there.all(axis=0), finer.there.any(axis=0)
    ranges = []
    for axis in (0, 1):
        size, side, size_under, side_under = level.shape[axis], level.tile[axis], finer.shape[axis], finer.tile[axis]
        first = np.arange(lost.shape[axis]) * side
        last = np.minimum(first + side, size)
        # The quotient of the sizes is not that of the pixels: it is off by a coarse pixel at the far end.
        within = np.minimum((last - first) / 4, 1)
        ranges.append(np.floor((first + within) * size_under / size / side_under).astype(int))
        ranges.append(np.ceil((last - within) * size_under / size / side_under).astype(int))
    top, bottom, left, right = ranges
    counts = np.pad(there.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    below, above = counts[bottom], counts[top]
    return bool((lost & (below[:, right] - below[:, left] - above[:, right] + above[:, left] > 0)).any())
