"""From the files of all blocks to the table of a slide.

First the objects that reach over the sides of blocks are joined, row by row, and put down in scratch files. Then the
table is written tile by tile. Tiles have a size of their own, so that row groups hold what lies together, and neither
their rows nor their bytes depend on the blocks. Memory holds the objects of one tile, and the first pixels of those in
one row of tiles.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsipipe.files import RESUMES, Location, appearing, make_folder
from wsipipe.geometry.grid import Box
from wsipipe.objects.block import Counting
from wsipipe.objects.block_file import BlockFile, block_file
from wsipipe.objects.joining import MAX_CORNERS, Joined, Joining
from wsipipe.objects.numbers import Counts
from wsipipe.objects.sums import AREA
from wsipipe.objects.table import FIRST, Description, empty_table, make_table, parquet_writer, schema_of

TILE_PX = 4096
"""Side in pixels of the tiles in whose order objects are written, about a row group of nuclei at 0.5 um/px."""
ROW_GROUP = 16384
"""Rows of a row group."""


def write_table(
    path: Path,
    folder: Location,
    *,
    counting: Counting,
    block_px: int,
    description: Description,
    max_corners: int = MAX_CORNERS,
) -> int:
    """Join what the blocks of a slide gave, and write the table of its objects; it appears whole or not at all.

    Returns how many objects were left out because they are small.

    Parameters
    ----------
    path
        The Parquet file to write; an existing one is replaced.
    folder
        Where the files of the blocks are (`block_file`), of all of them.
    counting
        What the blocks were measured with.
    block_px
        Side in pixels of the blocks.
    description
        What the table is to say of itself.
    max_corners
        The most corners in the outline of one object; see `MAX_CORNERS`.

    Raises
    ------
    UsageError
        If the labels have a class that the description does not name.
    OutlineError
        If the outline of an object has too many corners.
    SlideReadError, DamagedStoreError, FingerprintError
        If the file of a block is missing, damaged, or was made with another ``counting``.
    OutputError
        If there is no room.
    """
    blocks = _Blocks(folder, counting, block_px, description)
    joining = Joining(counting, max_corners=max_corners)
    make_folder(path.parent, way_out=RESUMES)
    scratch = path.with_name(path.name + ".scratch")  # the next call replaces what a kill leaves behind
    try:
        with appearing(path, kind="objects ", way_out=RESUMES) as partial:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            joined = _Spill(scratch, counting.shape[1], description)
            for number, row in enumerate(blocks.rows):
                joined.add(joining.add(row, last=number == len(blocks.rows) - 1))
            joined.close()
            return _write_tiles(partial, blocks, joined, description)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Blocks:
    """The whole objects of all blocks, by tile."""

    def __init__(self, folder: Location, counting: Counting, block_px: int, description: Description) -> None:
        self._block_px, self._description = block_px, description
        self.height, self.width = counting.shape
        rows, cols = (-(-size // block_px) for size in counting.shape)
        self.rows = [
            [BlockFile(block_file(folder, (row, col)), counting) for col in range(cols)] for row in range(rows)
        ]

    def first(self, band: Box) -> Iterator[Counts]:
        """The first pixels of the objects that begin within ``band``, in the blocks' order."""
        for block in self._blocks_of(band):
            yield _within(band, block.first(), self.width)[0]

    def tables(self, tile: Box) -> Iterator[pa.Table]:
        """The rows of the objects that begin within ``tile``, and are large enough."""
        for block in self._blocks_of(tile):
            sums, hulls, rings = block.whole()
            _, inside = _within(tile, sums.first, self.width)
            which = np.flatnonzero(inside & self._description.large_enough(sums.added[:, AREA]))
            yield make_table(sums.taken(which), hulls[which], rings.taken(which), self._description)

    def _blocks_of(self, box: Box) -> Iterator[BlockFile]:
        for row in self.rows[box.y0 // self._block_px : -(-box.y1 // self._block_px)]:
            yield from row[box.x0 // self._block_px : -(-box.x1 // self._block_px)]


class _Spill:
    """The rows of joined objects on a disk, by the row of tiles in which they begin."""

    def __init__(self, folder: Path, width: int, description: Description) -> None:
        self._folder, self._width, self._description = folder, width, description
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}

    def add(self, joined: Joined) -> None:
        """Put down some."""
        table = make_table(joined.sums, joined.hulls, joined.rings, self._description)
        tile_rows = joined.sums.first // self._width // TILE_PX
        for row in np.unique(tile_rows).tolist():
            if row not in self._writers:
                self._writers[row] = pa.ipc.new_stream(self._path(row), table.schema)
            self._writers[row].write_table(table.filter(pa.array(tile_rows == row)))

    def close(self) -> None:
        """End the files, before they are read."""
        for writer in self._writers.values():
            writer.close()

    def read(self, row: int) -> pa.Table:
        """The objects that begin in a row of tiles."""
        if row not in self._writers:
            return empty_table(self._description)
        with pa.memory_map(self._path(row)) as file:
            return pa.ipc.open_stream(file).read_all()

    def _path(self, row: int) -> str:
        return str(self._folder / f"{row}.arrow")


def _within(box: Box, first: Counts, width: int) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """The first pixels that lie within ``box``, and which they are."""
    y, x = np.divmod(first, width)
    inside = (y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1)
    return first[inside], inside


def _write_tiles(path: Path, blocks: _Blocks, joined: _Spill, description: Description) -> int:
    """Write the file, tile by tile; returns how many objects were too small for it."""
    ids = 0
    schema = schema_of(description)
    with parquet_writer(path, schema) as writer, closing(_RowGroups(writer)) as groups:
        for y0 in range(0, blocks.height, TILE_PX):
            band = Box(y0, min(y0 + TILE_PX, blocks.height), 0, blocks.width)
            across = joined.read(y0 // TILE_PX)
            across_first = across[FIRST].to_numpy()
            first = np.sort(np.concatenate([*blocks.first(band), across_first]))
            for x0 in range(0, blocks.width, TILE_PX):
                tile = Box(band.y0, band.y1, x0, min(x0 + TILE_PX, blocks.width))
                _, inside = _within(tile, across_first, blocks.width)
                inside &= description.large_enough(across["pixels"].to_numpy())
                table = pa.concat_tables([*blocks.tables(tile), across.filter(pa.array(inside))]).sort_by(FIRST)
                number = ids + 1 + np.searchsorted(first, table[FIRST].to_numpy())
                groups.add(table.drop_columns([FIRST]).add_column(0, "id", pa.array(number)).cast(schema))
            ids += len(first)
        groups.end()
    return ids - groups.rows


class _RowGroups:
    """Rows on their way to a file, in groups of equal size.

    A thread encodes a group while the next one is made.
    """

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer, self._waiting = writer, list[pa.Table]()
        self._thread = ThreadPoolExecutor(1, "wsipipe-table")
        self._writing: Future[None] | None = None
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        self.rows += len(table)
        self._waiting.append(table)
        self._write(ROW_GROUP)

    def end(self) -> None:
        self._write(1)
        self._wait()

    def close(self) -> None:
        self._thread.shutdown()

    def _write(self, least: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        while len(waiting) >= least:
            self._wait()
            group = waiting.slice(0, ROW_GROUP).combine_chunks()
            self._writing = self._thread.submit(self._writer.write_table, group, row_group_size=ROW_GROUP)
            waiting = waiting.slice(ROW_GROUP)
        self._waiting = [waiting]

    def _wait(self) -> None:
        """Return once the last group is written; raise what went wrong."""
        if self._writing is not None:
            self._writing.result()
