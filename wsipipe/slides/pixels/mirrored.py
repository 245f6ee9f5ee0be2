"""Pixels at mirrored coordinates: one read of their bounding box, from which mirrored pixels are taken by index."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.buffer.cpu import NDBuffer

from wsipipe.arrays import Pixels
from wsipipe.errors import SlideReadError, TruncatedError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.geometry.scale import stored_side
from wsipipe.slides.pixels.averaging import Averaging, Means, means, strip_rows, strips, taps
from wsipipe.slides.pixels.tile_cache import NONE_KEPT, Keep
from wsipipe.slides.pixels.tile_store import Memory, TileStore, array_in

if TYPE_CHECKING:
    from wsipipe.slides.slide import Level

Unread = dict[Box, str]
"""Tiles that cannot be decoded, with a message for each."""


def read_mirrored(
    level: Level,
    rows: Indices,
    cols: Indices,
    *,
    spent: Spent | None = None,
    memory: Memory | None = None,
    keep: Keep = NONE_KEPT,
    unread: Unread | None = None,
) -> Pixels:
    """The pixels at ``rows`` x ``cols``, (len(rows), len(cols), channels), in the level's dtype.

    ``read_mirrored(level, rows, cols)[i, j] == level[rows[i], cols[j]]``. The stretch that ascends is read into its
    place, and the mirrored pixels around it are copied from there: taking all by index would take as long as decoding.

    Parameters
    ----------
    level
        The level to read.
    rows, cols
        Pixel indices within the level, int64, in any order, repeated or not.
    spent
        Where to add the seconds of reading and decoding.
    memory
        Bytes to put the pixels into if they are enough, (n,), uint8; the result then lies in them.
    keep
        Which decoded tiles to keep in memory for the boxes to the left and right.
    unread
        Where to put the boxes of tiles that cannot be decoded, whose pixels are then 0; None: they are an error.

    Raises
    ------
    SlideReadError
        If a tile cannot be read or decoded; the message names file, level and region.
    """
    box = Box(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
    rows, cols = rows - box.y0, cols - box.x0
    ys, xs = _ascending(rows), _ascending(cols)
    if (ys.stop - ys.start, xs.stop - xs.start) != box.shape:  # a slide so small that it is mirrored more than once
        return read_box(level, box, spent=spent, keep=keep, unread=unread)[rows][:, cols]
    pixels = array_in(memory, (len(rows), len(cols), level.channels), np.dtype(level.dtype))
    inside = read_box(level, box, spent=spent, into=pixels[ys, xs], keep=keep, unread=unread)
    for side in (slice(xs.start), slice(xs.stop, None)):
        pixels[ys, side] = inside[:, _as_slice(cols[side])]
    for side in (slice(ys.start), slice(ys.stop, None)):
        pixels[side] = pixels[ys][_as_slice(rows[side])]
    return pixels


def read_box(
    level: Level,
    box: Box,
    *,
    spent: Spent | None = None,
    into: Pixels | None = None,
    keep: Keep = NONE_KEPT,
    unread: Unread | None = None,
) -> Pixels:
    """The pixels of ``box``, (height, width, channels), in the level's dtype; put ``into`` such an array if given.

    Decoded tiles are kept in memory for the boxes to the left and right as ``keep`` says. A shrunk level is read in
    strips of whole rows of tiles. Tiles that cannot be decoded are put into ``unread`` as in `read_mirrored`.

    Raises
    ------
    SlideReadError
        If a tile cannot be read or decoded; the message names file, level and region.
    """
    assert 0 <= box.y0 < box.y1 <= level.shape[0], f"{box} is outside {level.shape}"
    assert 0 <= box.x0 < box.x1 <= level.shape[1], f"{box} is outside {level.shape}"
    spent = spent or Spent()
    pixels = np.empty((*box.shape, level.channels), level.dtype) if into is None else into
    if level.shrunk_from is None:
        _read_stored(level, box, spent, pixels, keep, unread)
    else:
        _read_averaged(level, box, spent, pixels, keep, unread)
    return pixels


def averaging_bytes(level: Level, shape: tuple[int, int]) -> int:
    """Most bytes that `read_box` holds besides a box of ``shape``: 0 unless ``level`` is shrunk.

    A strip counts twice, because that of an image which is turned upright is read into an array of its own.
    """
    if level.shrunk_from is None:
        return 0
    height, width = (min(stored_side(n, level.shrink), m) for n, m in zip(shape, level.stored.shape, strict=True))
    rows = min(strip_rows(level.tile[0], width * _pixel_bytes(level)), height) + taps(level.shrink)
    return 2 * rows * width * _pixel_bytes(level) + Averaging.held_bytes(shape[1], level.channels, level.shrink)


def _read_stored(
    level: Level, box: Box, spent: Spent, pixels: Pixels, keep: Keep, unread: Unread | None = None
) -> None:
    """Like `read_box`, for a level that is in the file."""
    array = level.array
    as_stored = {"yx": pixels[:, :, 0], "yxc": pixels, "cyx": np.moveaxis(pixels, -1, 0)}[level.axes]
    ys, xs = box.slices
    where: dict[str, Any] = {"y": ys, "x": xs, "c": slice(0, level.channels)}
    try:
        if isinstance(array.store, TileStore):
            across = level.stored_axes.index("x")
            array.store.read([where[axis] for axis in level.stored_axes], spent, as_stored, across=across, keep=keep)
        else:
            where |= {"z": level.planes.z or 0, "t": level.planes.t or 0, "c": level.planes.indices or where["c"]}
            with spent.on("read"):
                selection = tuple(where.get(axis, 0) for axis in level.stored_axes)
                array.get_orthogonal_selection(selection, out=NDBuffer.from_numpy_array(as_stored))
    except MemoryError:
        raise  # the machine is at fault, not the slide
    except Exception as err:  # whatever zarr, a codec or the file system raises
        if unread is None or _is_of_file(err):
            raise SlideReadError(f"{level.name} cannot be read at {box}: {_reason(err)}") from err
        _read_tiles(level, box, spent, pixels, unread)


def _read_tiles(level: Level, box: Box, spent: Spent, pixels: Pixels, unread: Unread) -> None:
    """Like `_read_stored`, but tile by tile, so that one that cannot be decoded takes no other with it."""
    height, width = level.tile
    for y0 in range(box.y0 - box.y0 % height, box.y1, height):
        for x0 in range(box.x0 - box.x0 % width, box.x1, width):
            tile = Box(y0, min(y0 + height, level.shape[0]), x0, min(x0 + width, level.shape[1]))
            part = tile.overlap(box)
            assert part is not None
            into = pixels[part.seen_from(box).slices]
            try:
                _read_stored(level, part, spent, into, NONE_KEPT)
            except SlideReadError as err:
                cause = err.__cause__
                if not isinstance(cause, Exception) or _is_of_file(cause):
                    raise
                into[...] = 0
                unread[tile] = f"{level.name} cannot be read at {tile}: {_reason(cause)}"


def _read_averaged(level: Level, box: Box, spent: Spent, pixels: Pixels, keep: Keep, unread: Unread | None) -> None:
    """Like `read_box`, for a level that is shrunk: strip by strip of the stored one, each tile decoded once."""
    stored, shrink = level.stored, level.shrink
    rows = means(box.y0, box.y1, shrink, stored.shape[0])
    cols = means(box.x0, box.x1, shrink, stored.shape[1])
    (y0, y1), (x0, x1) = rows.stored, cols.stored
    keep = replace(keep, overlap_px=stored_side(keep.overlap_px, shrink))
    height = strip_rows(stored.tile[0], (x1 - x0) * _pixel_bytes(level))
    strip = np.empty((min(height, y1 - y0) + taps(shrink), x1 - x0, level.channels), level.dtype)
    averaging, stops = Averaging(cols, level.channels, shrink), rows.stops
    stored_unread: Unread | None = None if unread is None else {}
    done = held = 0  # rows that are made, and stored rows held at the beginning of the strip
    for start, stop in strips(y0, y1, height):
        _read_stored(stored, Box(start, stop, x0, x1), spent, strip[held : held + stop - start], keep, stored_unread)
        top, held = start - held, held + stop - start
        ready = int(np.searchsorted(stops, stop, side="right"))
        some = rows[done:ready]
        if ready > done:
            averaging.average(strip[:held], Means(some.first - top, some.weights), pixels[done:ready])
        done = ready
        shared = held if done == len(rows) else int(rows.first[done]) - top
        strip[: held - shared] = strip[shared:held].copy()
        held -= shared
    if unread is not None:
        unread |= {_shrunk(tile, level): said for tile, said in (stored_unread or {}).items()}


def _shrunk(box: Box, level: Level) -> Box:
    """The pixels of ``level`` in which any pixel of ``box``, a box of the stored level, has a share."""
    y0, x0 = (int(start / level.shrink) for start in (box.y0, box.x0))
    y1, x1 = (min(ceil(stop / level.shrink), n) for stop, n in zip((box.y1, box.x1), level.shape, strict=True))
    return Box(y0, y1, x0, x1)


def _pixel_bytes(level: Level) -> int:
    return level.channels * np.dtype(level.dtype).itemsize


def _is_of_file(err: Exception) -> bool:
    """Whether ``err`` means that the file cannot be read, and not just a tile."""
    return isinstance(err, TruncatedError) or (isinstance(err, OSError) and not isinstance(err, SlideReadError))


def _ascending(indices: Indices) -> slice:
    """The longest stretch of ``indices`` that ascends one by one."""
    ends = np.flatnonzero(np.append(np.diff(indices) != 1, True)) + 1
    starts = np.append(0, ends[:-1])
    longest = (ends - starts).argmax()
    return slice(int(starts[longest]), int(ends[longest]))


def _as_slice(indices: Indices) -> slice | Indices:
    """``indices`` as a slice where they descend one by one, as in a mirror: that takes half the time."""
    if len(indices) == 0 or (np.diff(indices) != -1).any():
        return indices
    return slice(int(indices[0]), int(indices[-1]) - 1 if indices[-1] > 0 else None, -1)


def _reason(err: Exception) -> str:
    """The error in one line."""
    if isinstance(err, SlideReadError):
        return str(err)
    return f"{type(err).__name__}: {err}".splitlines()[0]
