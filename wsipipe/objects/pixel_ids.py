"""The ids of pixels, from the outlines in a table of objects: within any box, or of a whole slide, block by block.

Outlines go along the edges of pixels, clockwise on a screen around an object, counterclockwise around a hole, so their
vertical edges alone say which pixels an object has. Where it begins, ``y`` falls along the outline, and its id is added
to all pixels to the right; where it ends, ``y`` rises, and the id is taken away again. Holes and pieces need no rule of
their own, and objects do not overlap::

    change   0  +7   0   0  -7+3  0  -3   0
    id       0   7   7   7    3   3   0   0     the sum of the changes so far, along a row
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from wsipipe.errors import StoreError
from wsipipe.geometry.grid import Box
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import stretches
from wsipipe.objects.read import ObjectTable, geometries

Ids = npt.NDArray[np.uint32]
MOST_IDS = 2**32 - 1
"""The largest id that fits into a pixel."""
OUTLINES_AT_ONCE = 4096
"""Objects whose outlines are taken apart at once."""
CORNERS_AT_ONCE = 2**20
"""About as many corners are looked at together. An outline may have 2**24."""
ROWS_AT_ONCE = 256
"""Rows of a block that are filled at once."""


def ids_within(table: ObjectTable, box: Box) -> Counts:
    """The id of the object that each pixel of ``box`` belongs to, (y, x), int64; 0 for none.

    Takes all objects apart that reach into the box, however large they are; for every block of a slide there is
    `EdgeFiles`.

    Parameters
    ----------
    table
        The objects.
    box
        Which pixels of the labels.

    Raises
    ------
    DamagedStoreError
        If the table cannot be read.
    """
    scale = table.description.downsample
    ids: Counts = np.zeros(box.shape, np.int64)
    for part in table.meeting((box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale), ["id", "geometry"]):
        for edges in _vertical_edges(part, scale):
            here = edges.x < box.x1
            x = np.maximum(edges.x[here] - box.x0, 0)  # what lies to the left comes in there
            _add(ids, _Edges(x, edges.top[here], edges.bottom[here], edges.change[here]), box.y0)
    return np.cumsum(ids, axis=1, out=ids)


@dataclass(frozen=True)
class EdgeFiles:
    """The vertical edges of all outlines, in one file for each block that has any.

    An edge is in the one block that has the pixel on its right; what comes in from the left are the ids of the pixels
    there. Edges are put down block by block, so that memory holds those of one block.
    """

    folder: Path
    """Where they are."""
    shape: tuple[int, int]
    """(height, width) of the slide in pixels of the labels."""
    block_px: int
    """Side of the blocks in pixels."""

    def write(self, table: ObjectTable) -> None:
        """Take the outlines of a table apart, and append their edges to the files.

        Raises
        ------
        DamagedStoreError
            If the table cannot be read.
        StoreError
            If an id does not fit into 32 bits.
        OSError
            If the disk does not take them.
        """
        for part in table.parts(columns=["id", "geometry"]):
            most = part["id"].to_numpy().max(initial=0)
            if most > MOST_IDS:
                raise StoreError(f"{table.path} has the id {most}; at most {MOST_IDS} fits into a pixel of instances")
            for edges in _vertical_edges(part, table.description.downsample):
                self._append(edges)

    def fill(self, box: Box, before: Ids) -> Ids:
        """The id of the object of each pixel of a block, (y, x), uint32; 0 for none.

        Parameters
        ----------
        box
            The block.
        before
            (y,), uint32: the ids of the pixels to its left; zeros where the slide begins.

        Raises
        ------
        OSError
            If the edges cannot be read.
        """
        path = self._path(box.y0 // self.block_px, box.x0 // self.block_px)
        read = np.fromfile(path, self._kind) if path.exists() else np.zeros(0, self._kind)
        top = read["y"].astype(np.int64)
        edges = _Edges(read["x"], top, top + read["size"], read["change"])
        ids = np.zeros(box.shape, np.uint32)
        ids[:, 0] = before
        for y0 in range(0, len(ids), ROWS_AT_ONCE):
            rows = ids[y0 : y0 + ROWS_AT_ONCE]
            _add(rows, edges, y0)
            np.cumsum(rows, axis=1, dtype=np.uint32, out=rows)
        return ids

    @property
    def _kind(self) -> np.dtype[np.void]:
        """An edge: its place in the block, its size, and what it adds to the ids on its right, modulo 2**32."""
        side = np.min_scalar_type(self.block_px)
        return np.dtype([("y", side), ("x", side), ("size", side), ("change", np.uint32)])

    def _path(self, row: int, col: int) -> Path:
        return self.folder / f"{row}.{col}.edges"

    def _append(self, edges: _Edges) -> None:
        """Append edges to the files of their blocks; one over several rows of blocks is cut."""
        some = np.flatnonzero(edges.x < self.shape[1])  # nothing is right of the others
        first, last = edges.top[some] // self.block_px, (edges.bottom[some] - 1) // self.block_px
        count = last - first + 1
        whole, row = np.repeat(some, count), stretches(first, count)
        col = edges.x[whole] // self.block_px
        cut = np.empty(len(whole), self._kind)
        start = np.maximum(edges.top[whole], row * self.block_px)
        cut["y"], cut["x"] = start - row * self.block_px, edges.x[whole] - col * self.block_px
        cut["size"] = np.minimum(edges.bottom[whole], (row + 1) * self.block_px) - start
        cut["change"] = edges.change[whole].astype(np.uint32)
        block = row * -(-self.shape[1] // self.block_px) + col
        order = np.argsort(block, kind="stable")
        ends = np.flatnonzero(np.diff(block[order], append=-1)) + 1
        for begin, end in pairwise([0, *ends.tolist()]):
            with self._path(int(row[order[begin]]), int(col[order[begin]])).open("ab") as file:
                file.write(cut[order[begin:end]].tobytes())


@dataclass(frozen=True, eq=False)
class _Edges:
    """Vertical edges; all (edges,), integers, in pixels of the labels."""

    x: npt.NDArray[Any]
    """The column on their right."""
    top: Counts
    bottom: Counts
    """The rows beside them: from ``top`` on, up to the one before ``bottom``."""
    change: npt.NDArray[Any]
    """What they add to the ids on their right."""


def _vertical_edges(part: pa.Table, downsample: float) -> Iterator[_Edges]:
    """The vertical edges of the outlines of some objects, those of a few objects and corners at a time."""
    for start in range(0, len(part), OUTLINES_AT_ONCE):
        some = part.slice(start, OUTLINES_AT_ONCE)
        polygons, owner = shapely.get_parts(geometries(some), return_index=True)
        rings, polygon = shapely.get_rings(polygons, return_index=True)
        ids = some["id"].to_numpy()[owner[polygon]]
        del polygons
        lot = np.cumsum(shapely.get_num_coordinates(rings)) // CORNERS_AT_ONCE
        ends = np.flatnonzero(np.diff(lot, append=-1)) + 1
        for begin, end in pairwise([0, *ends.tolist()]):
            points, ring = shapely.get_coordinates(rings[begin:end], return_index=True)
            x, y = np.rint(points / downsample).astype(np.int64).T
            at = np.flatnonzero((ring[1:] == ring[:-1]) & (x[1:] == x[:-1]) & (y[1:] != y[:-1]))
            one, other, own = y[at], y[at + 1], ids[begin:end][ring[at]]
            change = np.where(other < one, own, -own)
            yield _Edges(x[at], np.minimum(one, other), np.maximum(one, other), change)


def _add(ids: npt.NDArray[Any], edges: _Edges, y0: int) -> None:
    """Add what ``edges`` change to rows of ids, (y, x), the first of which is row ``y0``; none lies beside them."""
    within = (edges.top < y0 + len(ids)) & (edges.bottom > y0)
    top = np.maximum(edges.top[within], y0) - y0
    size = np.minimum(edges.bottom[within], y0 + len(ids)) - y0 - top
    place = stretches(top, size) * ids.shape[1] + np.repeat(edges.x[within], size)
    np.add.at(ids.reshape(-1), place, np.repeat(edges.change[within], size))
