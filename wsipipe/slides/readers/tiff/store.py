"""The tiles of a TIFF image as a read-only Zarr array that never makes pixels up.

tifffile's own Zarr store decodes with the same functions, but gives wrong pixels without an error: libjpeg fills the
rest of a truncated tile with grey and OpenJPEG with anything; a tile missing from the offsets reads as zeros. And one
lock serialises all its reads. So this store checks that every tile is whole before and after it is decoded, and reads
from a `ByteSource`, which needs no lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsipipe.errors import TruncatedError
from wsipipe.events import Spent
from wsipipe.slides.byte_source import ByteSource
from wsipipe.slides.pixels.tile_cache import Keep, Tile
from wsipipe.slides.pixels.tile_store import TileReader, Tiles, TileStore
from wsipipe.slides.readers.tiff.image import TiledImage

if TYPE_CHECKING:
    from tifffile import TiffPage

ONE_READ_BYTES, NARROW = 2**20, 16
"""Uncompressed rows are read together up to this many bytes, unless less than 1 / `NARROW` of them is wanted."""
NO_TILES: Mapping[int, bytes] = {}
UPRIGHT: Mapping[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""Whether to transpose, then reverse y and x, to make an image upright, by Orientation (TIFF 6.0, section 8)."""


def tiff_store(file: ByteSource, image: TiledImage) -> TiffStore:
    """The store that reads ``image`` of ``file``."""
    return StripStore(file, image) if image.by_row else TiffStore(file, image)


class TiffStore(TileStore):
    """The tiles of one `TiledImage`."""

    image: TiledImage

    def __init__(self, file: ByteSource, image: TiledImage) -> None:
        super().__init__(image)
        self.file, self.decodes_into = file, image.colours is not None

    def read_tile(
        self,
        chunk: tuple[int, ...],
        spent: Spent,
        into: npt.NDArray[Any] | None = None,
        ahead: Mapping[int, bytes] = NO_TILES,
    ) -> Tile:
        """See `TileStore.read_tile` and `TileReader`: (...), uint8 or uint16.

        The data are taken from ``ahead``, by their offset, if they are there.

        Raises
        ------
        SlideReadError
            If the tile is damaged; a TruncatedError if the file ends before it does.
        """
        page, number = self.image.locate(chunk)
        offset, count = _place(page, number)
        if offset == 0 or count == 0:
            if self.image.palette is None:
                return None
            return self.image.expand(np.full(page.chunks, self.image.nodata or 0, self.image.dtype))
        started = time.perf_counter()
        data = ahead[offset] if offset in ahead else self.file.read(offset, count)
        read = time.perf_counter()
        spent.read += read - started
        if len(data) < count:
            raise TruncatedError(f"tile {number} ends after {len(data)} of its {count} bytes: the file was truncated")
        pixels = self.image.decode(page, number, data, into)
        spent.decode += time.perf_counter() - read
        return pixels

    def _tile_reader(self, chunks: Iterable[tuple[int, ...]], spent: Spent) -> TileReader:
        """See `TileStore._tile_reader`."""
        places = (_place(*self.image.locate(chunk)) for chunk in chunks)
        with spent.on("read"):
            ahead = self.file.ahead((offset, count) for offset, count in places if offset and count)
        return lambda chunk, into=None: self.read_tile(chunk, spent, into, ahead)


class StripStore(TiffStore):
    """The rows of an image in uncompressed strips, as its tiles; none of them is kept."""

    def read_tile(self, chunk: tuple[int, ...], spent: Spent, *_: Any) -> Tile:
        """See `TileStore.read_tile`: a row, (1, samples), uint8 or uint16."""
        plane, row = chunk[:2] if len(self.image.pages) > 1 else (0, chunk[0])
        return self.read_rows(plane, slice(row, row + 1), slice(0, self.image.pages[0].imagewidth), spent)

    def read_rows(self, plane: int, rows: slice, cols: slice, spent: Spent) -> Tile:
        """Like `read_tile`, but ``rows``, all of one strip, and of them ``cols``: (rows, samples), uint8 or uint16.

        They are read together with what lies between them, up to `ONE_READ_BYTES`: each read takes 15 µs.

        Raises
        ------
        TruncatedError
            If the file, or the strip, ends before the rows do.
        """
        image, page = self.image, self.image.pages[plane]
        number, first = divmod(rows.start, page.rowsperstrip)
        pixel = page.samplesperpixel * image.dtype.itemsize
        row, count = page.imagewidth * pixel, (cols.stop - cols.start) * pixel
        start, height = first * row + cols.start * pixel, rows.stop - rows.start
        span = (height - 1) * row + count
        offset, length = _place(page, number)
        if offset == 0 or length == 0:
            return None
        with spent.on("read"):
            data = self.file.read(offset + start, span) if start + span <= length else b""
        if len(data) < span:
            raise TruncatedError(f"strip {number} ends before its row {first + height} does: the file was truncated")
        stored = image.dtype.newbyteorder(page.parent.byteorder)
        shape = (height, count // image.dtype.itemsize)
        return np.ndarray(shape, stored, data, strides=(row, stored.itemsize)).astype(image.dtype, copy=False)

    def _read_into(
        self,
        into: npt.NDArray[Any],
        where: Sequence[slice],
        spent: Spent,
        across: int,  # noqa: ARG002
        keep: Keep,  # noqa: ARG002
    ) -> None:
        image, page = self.image, self.image.pages[0]
        several = len(image.pages) > 1
        ys, xs, *samples = where[several:]
        most = 1
        if (xs.stop - xs.start) * NARROW >= page.imagewidth:
            most = max(1, ONE_READ_BYTES // (page.imagewidth * page.samplesperpixel * image.dtype.itemsize))
        for plane in range(where[0].start, where[0].stop) if several else (0,):
            pixels, y = into[plane - where[0].start] if several else into, ys.start
            while y < ys.stop:
                stop = min(ys.stop, y + most, (y // page.rowsperstrip + 1) * page.rowsperstrip)
                here = pixels[y - ys.start : stop - ys.start]
                rows = self.read_rows(plane, slice(y, stop), xs, spent)
                every = (stop - y, xs.stop - xs.start, *page.shape[2:])
                here[...] = image.fill if rows is None else rows.reshape(every)[:, :, *samples]
                y = stop


class UprightStore(TileStore):
    """Another store's image, upright; each read is one read of the other store, so that no tile is decoded twice."""

    image: Tiles

    def __init__(self, stored: TiffStore, axes: str, orientation: int) -> None:
        self.stored, self.ways = stored, UPRIGHT[orientation]
        self.y, self.x = axes.index("y"), axes.index("x")
        image = stored.image
        super().__init__(Tiles(self._turned(image.shape), self._turned(image.chunks), image.dtype, image.fill))

    def _turned(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """``sides`` with those of y and x exchanged, if the image is transposed."""
        turned = list(sides)
        if self.ways[0]:
            turned[self.y], turned[self.x] = sides[self.x], sides[self.y]
        return tuple(turned)

    def read_tile(self, chunk: tuple[int, ...], spent: Spent) -> Tile:
        """See `TileStore.read_tile`: (...), uint8 or uint16; each tile may overlap several of the other store."""
        pixels = self.read(self.image.within(chunk), spent, across=self.x)
        return np.pad(pixels, [(0, side - size) for side, size in zip(self.image.chunks, pixels.shape, strict=True)])

    def _read_into(self, into: npt.NDArray[Any], where: Sequence[slice], spent: Spent, across: int, keep: Keep) -> None:
        transposed, *reversed_ = self.ways
        there = list(where)
        backwards = tuple(axis for axis, each in zip((self.y, self.x), reversed_, strict=True) if each)
        for axis in backwards:
            side, part = self.image.shape[axis], where[axis]
            there[axis] = slice(side - part.stop, side - part.start)
        if transposed:
            there[self.y], there[self.x] = there[self.x], there[self.y]
            across = {self.x: self.y, self.y: self.x}.get(across, across)
        pixels = self.stored.read(there, spent, across=across, keep=keep)
        if transposed:
            pixels = pixels.swapaxes(self.y, self.x)
        into[...] = np.flip(pixels, backwards)


def _place(page: TiffPage, number: int) -> tuple[int, int]:
    """(offset, count) of tile or strip ``number``, in bytes; one of them is 0 if it was left out."""
    return int(page.dataoffsets[number]), int(page.databytecounts[number])
