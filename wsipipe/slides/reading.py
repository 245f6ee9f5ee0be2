"""Pixels by their mirrored coordinates: one read of the bounding box, and the mirrored ones taken by index."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.errors import SlideReadError
from wsipipe.events import Spent
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices
from wsipipe.slides.slide import Level
from wsipipe.slides.tiles import NONE_KEPT, Keep, Memory, TileStore, array_in

Pixels = npt.NDArray[Any]


def read_mirrored(
    level: Level,
    rows: Indices,
    cols: Indices,
    *,
    spent: Spent | None = None,
    memory: Memory | None = None,
    keep: Keep = NONE_KEPT,
) -> Pixels:
    """The pixels at ``rows`` x ``cols``, (len(rows), len(cols), channels), in the level's dtype.

    ``read_mirrored(level, rows, cols)[i, j] == level[rows[i], cols[j]]``. What ascends is read into its place, and
    what is mirrored around it is taken from there: by index alone all of it would take as long as decoding.

    Parameters
    ----------
    level
        Where to read.
    rows, cols
        Pixel indices within the level, int64, in any order, repeated or not.
    spent
        Where to add the seconds of reading and decoding.
    memory
        Where the pixels may be put, if it is large enough; what is returned then lies in it.
    keep
        Which decoded tiles to keep in memory for the boxes to the left and right.

    Raises
    ------
    SlideReadError
        If a tile can not be read or decoded; the message names file, level and region.
    """
    box = Box(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
    rows, cols = rows - box.y0, cols - box.x0
    ys, xs = _ascending(rows), _ascending(cols)
    if (ys.stop - ys.start, xs.stop - xs.start) != box.shape:  # a slide so small that it is mirrored more than once
        return read_box(level, box, spent=spent, keep=keep)[rows][:, cols]
    pixels = array_in(memory, (len(rows), len(cols), level.channels), np.dtype(level.dtype))
    inside = read_box(level, box, spent=spent, into=pixels[ys, xs], keep=keep)
    for side in (slice(xs.start), slice(xs.stop, None)):
        pixels[ys, side] = inside[:, cols[side]]
    for side in (slice(ys.start), slice(ys.stop, None)):
        pixels[side] = pixels[ys][rows[side]]
    return pixels


def read_box(
    level: Level, box: Box, *, spent: Spent | None = None, into: Pixels | None = None, keep: Keep = NONE_KEPT
) -> Pixels:
    """The pixels of ``box``, (height, width, channels), in the level's dtype; put ``into`` such an array if given.

    Decoded tiles are kept in memory for the boxes to the left and right as ``keep`` says.

    Raises
    ------
    SlideReadError
        If a tile can not be read or decoded; the message names file, level and region.
    """
    assert 0 <= box.y0 < box.y1 <= level.shape[0], f"{box} is outside {level.shape}"
    assert 0 <= box.x0 < box.x1 <= level.shape[1], f"{box} is outside {level.shape}"
    array, spent = level.array, spent or Spent()
    pixels = np.empty((*box.shape, level.channels), level.dtype) if into is None else into
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
                as_stored[...] = array.oindex[tuple(where.get(axis, 0) for axis in level.stored_axes)]
    except MemoryError:
        raise  # of the machine, not of the slide
    except Exception as err:  # whatever zarr, a codec or the file system raises
        raise SlideReadError(f"{level.name} can not be read at {box}: {_reason(err)}") from err
    return pixels


def _ascending(indices: Indices) -> slice:
    """The longest stretch of ``indices`` in which each is one more than the one before."""
    ends = np.flatnonzero(np.append(np.diff(indices) != 1, True)) + 1
    starts = np.append(0, ends[:-1])
    longest = (ends - starts).argmax()
    return slice(int(starts[longest]), int(ends[longest]))


def _reason(err: Exception) -> str:
    """One line that says what went wrong."""
    if isinstance(err, SlideReadError):
        return str(err)
    return f"{type(err).__name__}: {err}".splitlines()[0]
