"""Planes of ids from the outlines in a table of objects.

Outlines go along the edges of pixels, so their vertical edges alone say which pixels an object has. Where it begins,
``y`` falls along the outline, and its id is added to all pixels to the right; where it ends, ``y`` rises, and the id is
taken away again. Holes and pieces need no rule of their own, and objects do not overlap::

    change   0  +7   0   0  -7+3  0  -3   0
    id       0   7   7   7    3   3   0   0     the sum of the changes so far, along a row

Every edge is needed in the one block that has the pixel on its right; what comes in from the left are the ids of the
pixels there. Edges are put down block by block, so that memory holds those of one block.
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


@dataclass(frozen=True)
class EdgeFiles:
    """The vertical edges of all outlines, in one file for each block that has any."""

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
            for start in range(0, len(part), OUTLINES_AT_ONCE):
                for rings, ids in self._rings(part.slice(start, OUTLINES_AT_ONCE), table):
                    self._append(rings, ids, table.description.downsample)

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
        edges = np.fromfile(path, self._kind) if path.exists() else np.zeros(0, self._kind)
        ids = np.zeros(box.shape, np.uint32)
        ids[:, 0] = before
        top, bottom = edges["y"].astype(np.int64), edges["y"].astype(np.int64) + edges["size"]
        for y0 in range(0, len(ids), ROWS_AT_ONCE):
            rows = ids[y0 : y0 + ROWS_AT_ONCE]
            within = (top < y0 + len(rows)) & (bottom > y0)
            first = np.maximum(top[within], y0) - y0
            size = np.minimum(bottom[within], y0 + len(rows)) - y0 - first
            row = np.arange(int(size.sum())) + np.repeat(first - np.cumsum(size) + size, size)
            place = row * ids.shape[1] + np.repeat(edges["x"][within], size)
            np.add.at(rows.reshape(-1), place, np.repeat(edges["change"][within], size))
            np.cumsum(rows, axis=1, dtype=np.uint32, out=rows)
        return ids

    @property
    def _kind(self) -> np.dtype[np.void]:
        """An edge: its place in the block, its size, and what it adds to the ids on its right, modulo 2**32."""
        side = np.min_scalar_type(self.block_px)
        return np.dtype([("y", side), ("x", side), ("size", side), ("change", np.uint32)])

    def _path(self, row: int, col: int) -> Path:
        return self.folder / f"{row}.{col}.edges"

    def _rings(self, part: pa.Table, table: ObjectTable) -> Iterator[tuple[Any, Ids]]:
        """The rings of some objects, (rings,), an object array of shapely, and the id of each; a few at a time."""
        ids = part["id"].to_numpy()
        if ids.max(initial=0) > MOST_IDS:
            raise StoreError(f"{table.path} has the id {ids.max()}; at most {MOST_IDS} fits into a pixel of instances")
        polygons, owner = shapely.get_parts(geometries(part), return_index=True)
        rings, polygon = shapely.get_rings(polygons, return_index=True)
        own = ids[owner[polygon]].astype(np.uint32)
        del polygons
        lot = np.cumsum(shapely.get_num_coordinates(rings)) // CORNERS_AT_ONCE
        ends = np.flatnonzero(np.diff(lot, append=-1)) + 1
        for start, end in pairwise([0, *ends.tolist()]):
            yield rings[start:end], own[start:end]

    def _append(self, rings: Any, ids: Ids, downsample: float) -> None:
        """Append the vertical edges of some rings to the files of their blocks."""
        points, ring = shapely.get_coordinates(rings, return_index=True)
        corners = np.rint(points / downsample).astype(np.int64)
        x, y = corners.T
        inside = x[:-1] < self.shape[1]  # nothing is right of the others
        at = np.flatnonzero(inside & (ring[1:] == ring[:-1]) & (x[1:] == x[:-1]) & (y[1:] != y[:-1]))
        one, other, own = y[at], y[at + 1], ids[ring[at]]
        x, top, bottom, change = x[at], np.minimum(one, other), np.maximum(one, other), np.where(other < one, own, -own)
        # An edge over several rows of blocks is cut.
        first, last = top // self.block_px, (bottom - 1) // self.block_px
        count = last - first + 1
        whole = np.repeat(np.arange(len(x)), count)
        row = np.arange(len(whole)) + np.repeat(first - np.cumsum(count) + count, count)
        col = x[whole] // self.block_px
        cut = np.empty(len(whole), self._kind)
        start = np.maximum(top[whole], row * self.block_px)
        cut["y"], cut["x"] = start - row * self.block_px, x[whole] - col * self.block_px
        cut["size"] = np.minimum(bottom[whole], (row + 1) * self.block_px) - start
        cut["change"] = change[whole]
        block = row * -(-self.shape[1] // self.block_px) + col
        order = np.argsort(block, kind="stable")
        ends = np.flatnonzero(np.diff(block[order], append=-1)) + 1
        for begin, end in pairwise([0, *ends.tolist()]):
            with self._path(int(row[order[begin]]), int(col[order[begin]])).open("ab") as file:
                file.write(cut[order[begin:end]].tobytes())
