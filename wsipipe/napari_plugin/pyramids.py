"""Pixels as pyramids of lazy dask arrays, from fine to coarse, as napari shows them.

napari takes the shapes of the levels for their downsample: levels that reach beyond the slide are cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import dask.array as da
import numpy as np
import zarr

from wsipipe.arrays import Pixels
from wsipipe.geometry.grid import Box
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.pixels.overview import aligned_levels
from wsipipe.slides.slide import Level, Slide
from wsipipe.store.finished import FinishedStore

CHUNK_PX = 1024
"""Side of what is read at once, or more if a tile is larger."""
LARGEST_PIECE_PX = 2**24
"""Pixels that are read at once at most, whatever the tiles."""
OVERVIEW_PX = 2048
"""A pyramid whose coarsest level has a longer side gets coarser ones, which are averaged as they are shown."""
STEP = 4
"""How much coarser each of these is than the one before it."""


def slide_pyramid(slide: Slide) -> list[da.Array]:
    """The levels of ``slide`` that show what its finest shows, each (y, x, channel), in the slide's dtype.

    Tiles that cannot be decoded are black. If the coarsest level is large, as where a file has only one, coarser ones
    follow that are averaged from all of it when they are first shown.
    """
    finest, pyramid = slide.levels[0], aligned_levels(slide)
    coarsest, (tall, wide) = pyramid[-1]
    shrink = STEP
    while max(coarsest.shape) > OVERVIEW_PX * shrink // STEP:
        pyramid.append((coarsest.shrunk(shrink), (tall * shrink, wide * shrink)))
        shrink *= STEP
    return [
        level_pixels(level)[: ceil(finest.shape[0] / y - 1e-6), : ceil(finest.shape[1] / x - 1e-6)]
        for level, (y, x) in pyramid
    ]


def level_pixels(level: Level) -> da.Array:
    """The pixels of ``level``, (y, x, channel), in its dtype, in chunks of whole tiles; nothing is read yet."""
    chunks = [_cut(side, piece) for side, piece in zip(level.shape, _piece(level), strict=True)]
    pixels: da.Array = da.map_blocks(
        _read_chunk,
        level=level,
        chunks=(*chunks, (level.channels,)),
        dtype=np.dtype(level.dtype),
        meta=np.empty((0, 0, 0), level.dtype),
    )
    return pixels


def label_pyramid(store: FinishedStore) -> list[da.Array]:
    """All levels of the labels of ``store``, each (y, x), uint8."""
    return [_of_zarr(store.labels(level)) for level in range(store.levels)]


def probability_pyramid(store: FinishedStore) -> tuple[list[da.Array], Mapping[int, int]]:
    """The probabilities of ``store``, levels of (class, y, x), uint8, and the index of each label's class.

    The store has the finest level only. Coarser ones are the means of all of it, made when they are first shown.
    """
    array, index = store.probabilities()
    finest = _of_zarr(array)
    pyramid, shrink = [finest], STEP
    while max(finest.shape[1:]) > OVERVIEW_PX * shrink // STEP:
        means = da.coarsen(np.mean, finest, {1: shrink, 2: shrink}, trim_excess=True)
        pyramid.append(means.round().astype(np.uint8))
        shrink *= STEP
    return pyramid, index


def _of_zarr(array: zarr.Array[Any]) -> da.Array:
    """A Zarr array (..., y, x), its chunks joined to such of `CHUNK_PX`."""
    chunks = (*(1 for _ in array.shape[:-2]), *(min(side, CHUNK_PX) for side in array.shape[-2:]))
    lazy: da.Array = da.from_array(array, chunks=chunks, inline_array=True)
    return lazy


def _piece(level: Level) -> tuple[int, int]:
    """(height, width) of what is read at once: whole tiles, whole strips, or a part of a huge tile."""
    if level.shrunk_from is not None:
        return CHUNK_PX // STEP, CHUNK_PX // STEP
    height, width = (min(piece, side) for piece, side in zip(level.tile, level.shape, strict=True))
    width *= max(1, CHUNK_PX // width)
    height *= max(1, CHUNK_PX**2 // (width * height))
    return (height, width) if height * width <= LARGEST_PIECE_PX else (CHUNK_PX, CHUNK_PX)


def _cut(side: int, piece: int) -> tuple[int, ...]:
    """``side`` in pieces of ``piece``, the last cut at the end."""
    return tuple(min(piece, side - start) for start in range(0, side, piece))


def _read_chunk(*, level: Level, block_info: Mapping[Any, Any] | None = None) -> Pixels:
    """The pixels of one chunk, (y, x, channel)."""
    assert block_info is not None
    (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
    return read_box(level, Box(y0, y1, x0, x1), unread={})
