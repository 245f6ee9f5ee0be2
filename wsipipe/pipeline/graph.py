"""The task graph of one slide: one task per block, and no pixel between tasks.

What dask overlaps are not the pixels but their **coordinates**: two tiny arrays, rows (H, 1) and columns (1, W).
`map_overlap` with the reflect boundary gives each block the indices of its mirror-padded tile, and the block's
task reads those pixels itself. Overlapping pixels instead takes about 14 tasks a block and keeps whole strips
of the slide alive (dask issues 3671, 6688, 11580, 11934).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from wsipipe.geometry.grid import Grid
from wsipipe.geometry.mirror import Indices

BlockFunction = Callable[..., Any]


def mirrored_coordinates(grid: Grid, axis: int) -> da.Array:
    """Pixel indices along ``axis``, int64, (H, 1) or (1, W): one chunk a block, with half a margin on either side.

    They take a few bytes per pixel of a side, so they are computed at once. That leaves 1.1 tasks a block for a slide
    of 100 000 px and blocks of 4096; overlapping both axes lazily within the graph takes 1.6.
    """
    positions, chunks = grid.coordinates(axis)
    across = 1 - axis
    overlapped = da.map_overlap(
        np.asarray,
        da.from_array(np.expand_dims(positions, across), chunks=(chunks, 1) if axis == 0 else (1, chunks)),
        depth={axis: grid.receptive.margin // 2, across: 0},
        boundary={axis: "reflect", across: "none"},
        trim=False,
        allow_rechunk=False,
        dtype=np.int64,
        meta=np.empty((0, 0), np.int64),
    )
    coordinates: da.Array = overlapped.persist(scheduler="synchronous")
    return coordinates


@dataclass(frozen=True)
class _Call:
    """The content of every task of a graph: a function, and the values that it needs.

    dask tokenizes each task by its whole content; here that is done once (100 000 px square, blocks of 2048:
    submitting the graph took 4.5 s before).
    """

    function: BlockFunction
    work: Any
    token: str

    def __dask_tokenize__(self) -> str:
        return self.token

    def __call__(self, rows: Indices, cols: Indices, block_id: tuple[int, int]) -> Any:
        return self.function(self.work, block_id, rows[:, 0], cols[0])


def map_blocks(function: BlockFunction, work: Any, grid: Grid, **output: Any) -> da.Array:
    """A lazy array whose block (i, j) is ``function(work, (i, j), rows, cols)``.

    Parameters
    ----------
    function
        Takes ``work``, the (row, column) of the block, and the row and column numbers, int64, of the pixels in
        its mirror-padded tile.
    work
        The values that it needs; small, for they travel with every task.
    grid
        The blocks.
    output
        ``chunks``, ``dtype`` and ``meta`` of the result, as `dask.array.map_blocks` takes them.
    """
    call = _Call(function, work, tokenize(function, work))
    rows, cols = (mirrored_coordinates(grid, axis) for axis in (0, 1))
    array: da.Array = da.map_blocks(call.__call__, rows, cols, name=f"{function.__name__}-{call.token}", **output)
    return array


def tasks_of(blocks: da.Array, indices: Iterable[tuple[int, int]]) -> dict[Any, Any]:
    """The tasks of ``blocks``, an array of `map_blocks`, that compute those at ``indices``.

    `HighLevelGraph.cull` makes a list of all keys first: 2 GB and 20 s for a header that claims 2^46 pixels.
    """
    layers = blocks.dask.layers
    layer, needed = layers[blocks.name].cull({(blocks.name, *index) for index in indices}, ())
    return dict(layer) | {key: layers[key[0]][key] for keys in needed.values() for key in keys}
