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
from wsipipe.slides.tiles import Memory, TileStore, array_in

Pixels = npt.NDArray[Any]


def read_mirrored(
    level: Level, rows: Indices, cols: Indices, *, spent: Spent | None = None, memory: Memory | None = None
) -> Pixels:
    """The pixels at ``rows`` x ``cols``, (len(rows), len(cols), channels), in the level's dtype.

    ``read_mirrored(level, rows, cols)[i, j] == level[rows[i], cols[j]]``. Inside the slide, where the
    indices just ascend, nothing is copied after the read.

    Parameters
    ----------
    level
        Where to read.
    rows, cols
        Pixel indices within the level, int64, in any order, repeated or not.
    spent
        Where to add the seconds of reading and decoding.
    memory
        Where pixels may be put, as they are read and, behind them, as they are mirrored, if it is large enough;
        what is returned may then lie in it.

    Raises
    ------
    SlideReadError
        If a tile can not be read or decoded; the message names file, level and region.
    """
    box = Box(int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1)
    pixels = read_box(level, box, spent=spent, memory=memory)
    rest = None if memory is None else memory[pixels.nbytes :]
    return _mirrored(pixels, rows - box.y0, cols - box.x0, rest)


def read_box(level: Level, box: Box, *, spent: Spent | None = None, memory: Memory | None = None) -> Pixels:
    """The pixels of ``box``, (height, width, channels), in the level's dtype; the rest as in `read_mirrored`.

    Raises
    ------
    SlideReadError
        If a tile can not be read or decoded; the message names file, level and region.
    """
    assert 0 <= box.y0 < box.y1 <= level.shape[0], f"{box} is outside {level.shape}"
    assert 0 <= box.x0 < box.x1 <= level.shape[1], f"{box} is outside {level.shape}"
    array, spent = level.array, spent or Spent()
    ys, xs = box.slices
    where = {"y": ys, "x": xs, "c": slice(0, level.channels)}
    try:
        if isinstance(array.store, TileStore):
            pixels = array.store.read([where[axis] for axis in level.stored_axes], spent, memory)
        else:
            with spent.on("read"):
                pixels = np.asarray(array[tuple(where.get(axis, 0) for axis in level.stored_axes)])
    except MemoryError:
        raise  # of the machine, not of the slide
    except Exception as err:  # whatever zarr, a codec or the file system raises
        raise SlideReadError(f"{level.name} can not be read at {box}: {_reason(err)}") from err
    pixels = pixels.astype(level.dtype, copy=False)  # a Zarr array may be stored in the other byte order
    if level.axes == "yx":
        return pixels[:, :, np.newaxis]
    return np.moveaxis(pixels, 0, -1) if level.axes == "cyx" else pixels


def _mirrored(pixels: Pixels, rows: Indices, cols: Indices, memory: Memory | None) -> Pixels:
    """``pixels[rows][:, cols]``, of which all are taken, in ``memory`` if it is large enough.

    Taking them one by one costs as much as decoding them; so what ascends is copied as it is, and only what is
    mirrored around it is taken by index.
    """
    ys, xs = _ascending(rows), _ascending(cols)
    if (ys.stop - ys.start, xs.stop - xs.start) == (len(rows), len(cols)):
        return pixels
    if (ys.stop - ys.start, xs.stop - xs.start) != pixels.shape[:2]:  # mirrored more than once, and small
        return pixels[rows][:, cols]
    mirrored = array_in(memory, (len(rows), len(cols), *pixels.shape[2:]), pixels.dtype)
    mirrored[ys, xs] = pixels
    for side in (slice(xs.start), slice(xs.stop, None)):
        mirrored[ys, side] = pixels[:, cols[side]]
    for side in (slice(ys.start), slice(ys.stop, None)):
        mirrored[side] = mirrored[ys][rows[side]]
    return mirrored


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
