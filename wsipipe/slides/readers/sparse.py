"""How much of a slide must be in its file: scanners leave out empty tiles, but not nearly all of them."""

from __future__ import annotations

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
