"""The tiles of a TIFF image as a read-only Zarr array that never makes pixels up.

tifffile's own Zarr store decodes with the same functions, but hands out what can not be right: libjpeg
fills the rest of a truncated tile with grey and OpenJPEG with whatever, both without an error; a
tile missing from the offsets reads as zeros; one lock serialises all reads. So this store checks that every
tile is whole before and after it is decoded, and reads from a `Source`, which needs no lock.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
from zarr.abc.store import ByteRequest, Store

from wsipipe.errors import SlideReadError, TruncatedError
from wsipipe.events import Spent
from wsipipe.slides.jpeg import samples_said, what_is_missing
from wsipipe.slides.source import Source

if TYPE_CHECKING:
    from tifffile import TiffPage
    from zarr.core.buffer import Buffer, BufferPrototype

METADATA = "zarr.json"
PLACES = (273, 279, 324, 325)
"""The tags that say where strips and tiles are, and how long: StripOffsets to TileByteCounts."""
GDAL_NODATA = 42113
WHITE_IS_ZERO, PALETTE = 0, 3
"""Photometric interpretations."""
FILLED_UP = 2
"""A strip may be filled up with rows; one that says it has more than so many times its samples is not decoded."""
ONE_READ_BYTES, NARROW = 2**20, 16
"""Uncompressed rows are read together up to so many bytes, unless less than 1 / `NARROW` of them is wanted."""
Memory = npt.NDArray[np.uint8]
"""Bytes to read pixels into, one axis."""


@dataclass(frozen=True)
class TiledImage:
    """One level of a TIFF file: a page, or one page per channel.

    Palettes become RGB, and grey of less than 8 bit is stretched to 8; where white is zero it is inverted.
    """

    pages: tuple[TiffPage, ...]
    """One, or as many as there are channels, all alike."""
    ycc: bool = False
    """Whether what the codec gives is YCbCr, which nobody turned into RGB yet."""
    samples: tuple[int, ...] | None = None
    """Which channels of a page that has several; None: all."""
    white: bool = False
    """Whether tiles that were left out are white, where the file does not say: a brightfield scanner's are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As the page has it, after the pages if there are several, and of a palette with its colours."""
        return self._over_pages(self._over_channels(self.pages[0].shape), len(self.pages))

    @cached_property
    def expanded(self) -> bool:
        """Whether its samples are not what the codec gives."""
        page = self.pages[0]
        return int(page.photometric) in (WHITE_IS_ZERO, PALETTE) or page.bitspersample < 8

    @cached_property
    def planar(self) -> bool:
        """Whether one page has its channels one after the other."""
        return self.pages[0].planarconfig == 2 and self.pages[0].samplesperpixel > 1

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8] | None:
        """The colours of the indices, (n, 3)."""
        page = self.pages[0]
        if int(page.photometric) != PALETTE:
            return None
        colours = np.asarray(page.colormap).T
        # Of 16 bit, as the specification has it, or of 8, as some writers; libtiff tells them apart in the same way.
        return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)

    @cached_property
    def by_row(self) -> bool:
        """Whether a row's pixels lie in the file as they are: a strip of the whole image is then not read for a few."""
        page = self.pages[0]
        plain = page.compression == page.predictor == page.fillorder == 1 and page.bitspersample in (8, 16)
        plain = plain and not self.expanded and self.samples is None
        return plain and not page.is_tiled and page.ndim - (page.samplesperpixel > 1) == 2 and page.planarconfig == 1

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what is read at once: a tile, a strip, or a row of an uncompressed strip."""
        page = self.pages[0]
        if self.by_row:
            return self._over_pages((1, *page.shape[1:]), 1)
        if self.planar:
            return self._over_pages((1, *page.chunks), 1)
        return self._over_pages(self._over_channels(page.chunks), 1)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the decoded pixels, in the byte order of this machine."""
        narrow = self.pages[0].bitspersample < 8 or self.palette is not None
        return np.dtype(np.uint8 if narrow else self.pages[0].dtype)

    @cached_property
    def nodata(self) -> int | None:
        """What GDAL_NODATA says that a tile that the file left out is, if that is a sample."""
        text = str(self.pages[0].tags.valueof(GDAL_NODATA, "")).strip("\0 ")
        value = int(text) if text.isdecimal() else None
        return value if value is not None and value < 2 ** self.pages[0].bitspersample else None

    @cached_property
    def fill(self) -> int:
        """What a tile that the file left out reads as; of a palette, the first of the three samples."""
        if self.nodata is None and self.white:
            return int(np.iinfo(self.dtype).max)
        return int(self.expand(np.full(1, self.nodata or 0, self.dtype)).flat[0])

    @cached_property
    def tile_bytes(self) -> int:
        """Size of one decoded tile."""
        return self.tile_size * self.dtype.itemsize

    @cached_property
    def tile_size(self) -> int:
        """Samples of one decoded tile."""
        return prod(self.chunks)

    def prepare(self) -> None:
        """Make the decode functions, while the file is still open in tifffile.

        They look into the file for what kind of JPEG it is, and are not to be made by several threads at once.
        Where the tiles lie is then held as 8 bytes each; as Python's integers it is 14 MB for 10 gigapixels.
        """
        for page in self.pages:
            _ = page.decode  # a cached property; TiffPage.init_decode does the same, from tifffile 2026.2.20 on
            page.dataoffsets = np.asarray(page.dataoffsets, np.uint64)  # type: ignore[assignment]
            page.databytecounts = np.asarray(page.databytecounts, np.uint64)  # type: ignore[assignment]
            for tag in PLACES:
                if tag in page.tags:
                    del page.tags[tag]

    def expand(self, samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What ``samples``, as the codec gives them, show: with a new last axis if they are indices of a palette."""
        page = self.pages[0]
        if self.palette is not None:
            return self.palette[samples.astype(np.intp)]
        most = 2**page.bitspersample - 1
        if int(page.photometric) == WHITE_IS_ZERO:
            samples = most - samples.astype(self.dtype, copy=False)
        return samples if page.bitspersample >= 8 else samples.astype(np.uint8) * np.uint8(255 // most)

    def _over_channels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """``shape`` of a page, with the channels of which it is read."""
        if self.palette is not None:
            return (*shape, 3)
        if self.samples is None:
            return shape
        return (len(self.samples), *shape[1:]) if self.planar else (*shape[:-1], len(self.samples))

    def _over_pages(self, shape: tuple[int, ...], count: int) -> tuple[int, ...]:
        """``shape``, with the axis of the pages in front where there are several."""
        return (count, *shape) if len(self.pages) > 1 else shape

    def locate(self, chunk: tuple[int, ...]) -> tuple[TiffPage, int]:
        """The page of ``chunk`` and its number in that page's offsets."""
        page, within = (self.pages[chunk[0]], chunk[1:]) if len(self.pages) > 1 else (self.pages[0], chunk)
        if self.palette is not None:
            within = within[:-1]
        if self.planar and self.samples is not None:
            within = (self.samples[within[0]], *within[1:])
        number = 0
        for index, count in zip(within, page.chunked, strict=True):
            number = number * count + index
        return page, number

    def decode(self, page: TiffPage, number: int, data: bytes) -> npt.NDArray[Any]:
        """The pixels of tile ``number``, of the full tile size.

        Raises
        ------
        SlideReadError
            If the data are not those of a whole tile.
        """
        extra = {}
        if page.jpegtables is not None:
            extra["jpegtables"] = page.jpegtables
        if page.jpegheader is not None:
            extra["jpegheader"] = page.jpegheader
        missing = what_is_missing(data, page.compression, headless="jpegheader" in extra)
        if missing:
            raise SlideReadError(f"tile {number} is damaged: {missing}")
        said = samples_said(data, page.compression)
        if said > FILLED_UP * prod(page.chunks):
            raise SlideReadError(f"tile {number} of {page.chunks} says that it has {said} samples: it is damaged")
        try:
            pixels = page.decode(data, number, _fullsize=True, **extra)[0]
        except MemoryError:
            raise
        except Exception as err:  # every codec raises a class of its own
            raise SlideReadError(f"tile {number} can not be decoded: {type(err).__name__}: {err}") from err
        if pixels is None or pixels.size != prod(page.chunks) or pixels.dtype != page.dtype:
            got = "nothing" if pixels is None else f"{pixels.shape} {pixels.dtype}"
            raise SlideReadError(f"tile {number} decodes to {got}, not to {page.chunks} {page.dtype}")
        if self.expanded:
            return self.expand(pixels.reshape(page.chunks))
        if self.samples is not None and not self.planar:
            pixels = pixels.reshape(page.chunks)[..., list(self.samples)]
        return rgb_of_ycc(pixels) if self.ycc else pixels


@dataclass(frozen=True)
class Keep:
    """Which decoded tiles stay in memory: those that the reads to the left and right need too, the latest that fit.

    Of two neighbours that are read at once either may come first to what they share.
    """

    overlap_px: int
    """How far those reads reach into this one."""
    most_bytes: int
    """What all of them may take."""


NONE_KEPT = Keep(0, 0)
NOTHING: Mapping[int, bytes] = {}
Tile = npt.NDArray[Any] | None
"""Decoded pixels, or None for one that the file left out."""


class KeptTiles:
    """Decoded tiles of all slides; each is decoded by the first thread that asks, and the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiles: OrderedDict[Hashable, tuple[Future[Tile], int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, decode: Callable[[], Tile], *, size: int, most: int) -> Tile:
        """Tile ``key``: one that was kept, or what ``decode`` gives.

        Parameters
        ----------
        key
            Which tile of which file.
        decode
            Gives the tile; what it raises comes from here, and then nothing is kept.
        size
            Bytes of the tile.
        most
            Bytes that all kept tiles may take, this one among them, or 0: it is not needed again.
        """
        with self._lock:
            kept = self._tiles.get(key)
            if kept is None and size <= most:
                mine: Future[Tile] = Future()
                self._tiles[key] = mine, size
                self._bytes += size
                while self._bytes > most:
                    self._bytes -= self._tiles.popitem(last=False)[1][1]
        if kept is not None:
            return kept[0].result()
        if size > most:
            return decode()
        try:
            mine.set_result(decode())
        except BaseException as err:
            self._forget(key)
            mine.set_exception(err)
        return mine.result()

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            self._bytes -= self._tiles.pop(key, (None, 0))[1]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tiles

    def __len__(self) -> int:
        return len(self._tiles)


_numbers = itertools.count()
KEPT = KeptTiles()
"""Those of this process: what one slide leaves behind goes as the next one comes."""


class Tiling(Protocol):
    """An array as its tiles make it up."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        ...

    @property
    def chunks(self) -> tuple[int, ...]:
        """Of one tile."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the decoded pixels, in the byte order of this machine."""
        ...

    @property
    def fill(self) -> int:
        """What a tile that the file left out reads as."""
        ...

    @property
    def tile_bytes(self) -> int:
        """Size of one decoded tile."""
        ...


@dataclass(frozen=True)
class Tiles:
    """A `Tiling` that is what it says."""

    shape: tuple[int, ...]
    """Of the array."""
    chunks: tuple[int, ...]
    """Of one tile."""
    dtype: np.dtype[Any] = field(default_factory=partial(np.dtype, np.uint8))
    """Of the decoded pixels, in the byte order of this machine."""
    fill: int = 0
    """What a tile that the file left out reads as."""

    @property
    def tile_bytes(self) -> int:
        """Size of one decoded tile."""
        return prod(self.chunks) * self.dtype.itemsize

    def within(self, chunk: tuple[int, ...]) -> tuple[slice, ...]:
        """Where tile ``chunk`` lies in the array; less than a tile at the far borders."""
        return tuple(
            slice(i * side, min((i + 1) * side, size))
            for i, side, size in zip(chunk, self.chunks, self.shape, strict=True)
        )


class TileStore(Store):
    """A Zarr store, read-only, of one array whose tiles a file format decodes."""

    def __init__(self, image: Tiling) -> None:
        super().__init__(read_only=True)
        self.image = image
        self._number = next(_numbers)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open file can not be pickled; pickle the Level and open it again")

    def read_tile(self, chunk: tuple[int, ...], spent: Spent) -> Tile:
        """The pixels of ``chunk``, of the full tile size, or None if the file left it out; adds its time to ``spent``.

        Raises
        ------
        SlideReadError
            If there is a tile, and it can not be read or decoded.
        """
        raise NotImplementedError

    def read(
        self,
        where: Sequence[slice],
        spent: Spent,
        into: npt.NDArray[Any] | None = None,
        *,
        across: int,
        keep: Keep = NONE_KEPT,
    ) -> npt.NDArray[Any]:
        """``array[where]``, decoded by the calling thread; adds the time that it takes to ``spent``.

        It is put ``into`` an array of that shape, if one is given. Tiles are kept for its neighbours along
        axis ``across`` as ``keep`` says.

        zarr runs every read through the one thread of its event loop, which pastes the tiles together
        there: with two reading threads 30 MP/s of the SVS in the tests, and 85 MP/s so. All here is done once for
        each tile, and a tile decodes in 0.4 ms.

        Raises
        ------
        SlideReadError
            If a tile can not be read or decoded.
        """
        if into is None:
            into = np.empty([part.stop - part.start for part in where], self.image.dtype)
        self._read_into(into, where, spent, across, keep)
        return into

    def _read_into(self, into: npt.NDArray[Any], where: Sequence[slice], spent: Spent, across: int, keep: Keep) -> None:
        image = self.image
        start, end = where[across].start, where[across].stop
        before = start + keep.overlap_px if start > 0 else 0
        behind = end - keep.overlap_px if end < image.shape[across] else math.inf
        overlaps = [tuple(zip(*each, strict=True)) for each in itertools.product(*map(_overlaps, where, image.chunks))]
        read_tile = self._tile_reader((chunk for chunk, _, _ in overlaps if (self._number, chunk) not in KEPT), spent)
        for chunk, here, of in overlaps:
            first = chunk[across] * image.chunks[across]
            shared = first < before or first + image.chunks[across] > behind
            tile = KEPT.get(
                (self._number, chunk),
                partial(read_tile, chunk),
                size=image.tile_bytes,
                most=keep.most_bytes if shared else 0,
            )
            into[here] = image.fill if tile is None else tile.reshape(image.chunks)[of]

    def _tile_reader(
        self,
        chunks: Iterable[tuple[int, ...]],  # noqa: ARG002
        spent: Spent,
    ) -> Callable[[tuple[int, ...]], Tile]:
        """What reads a tile, after the data of ``chunks`` were fetched at once where that is quicker."""
        return lambda chunk: self.read_tile(chunk, spent)

    def metadata(self) -> bytes:
        """The document ``zarr.json`` of the array."""
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.image.shape,
            "data_type": str(self.image.dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.image.chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.image.fill,
            "codecs": [{"name": "bytes", "configuration": {"endian": sys.byteorder}}],
            "attributes": {},
        }
        return json.dumps(document).encode()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The document, or a decoded tile; None for a tile that the file left out."""
        if key == METADATA:
            return prototype.buffer.from_bytes(self.metadata())
        if not key.startswith("c/"):
            return None
        assert byte_range is None, "tiles are decoded whole"
        pixels = await asyncio.to_thread(self.read_tile, tuple(int(i) for i in key[2:].split("/")), Spent())
        if pixels is None:
            return None
        return prototype.buffer.from_array_like(np.ascontiguousarray(pixels).reshape(-1).view("B"))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several of `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is such a key; of the tiles nobody asks."""
        return key == METADATA

    @property
    def supports_writes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Never: the tiles of a slide are too many to be listed."""
        return False

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        """Refuse."""
        raise PermissionError(f"slides are read only, {key} can not be written")

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise PermissionError(f"slides are read only, {key} can not be deleted")

    async def list(self) -> AsyncIterator[str]:
        """The document."""
        yield METADATA

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The document, if it begins with ``prefix``."""
        if METADATA.startswith(prefix):
            yield METADATA

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The document, at the root."""
        if not prefix:
            yield METADATA


class TiffStore(TileStore):
    """The tiles of one `TiledImage`."""

    image: TiledImage

    def __init__(self, file: Source, image: TiledImage) -> None:
        super().__init__(image)
        self.file = file

    def read_tile(self, chunk: tuple[int, ...], spent: Spent, ahead: Mapping[int, bytes] = NOTHING) -> Tile:
        """See `TileStore.read_tile`; the data are taken from ``ahead``, by their offset, if they are there."""
        if self.image.by_row:
            plane, row = chunk[:2] if len(self.image.pages) > 1 else (0, chunk[0])
            return self.read_rows(plane, slice(row, row + 1), slice(0, self.image.pages[0].imagewidth), spent)
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
        pixels = self.image.decode(page, number, data)
        spent.decode += time.perf_counter() - read
        return pixels

    def _tile_reader(self, chunks: Iterable[tuple[int, ...]], spent: Spent) -> Callable[[tuple[int, ...]], Tile]:
        """See `TileStore._tile_reader`."""
        places = (_place(*self.image.locate(chunk)) for chunk in chunks)
        with spent.on("read"):
            ahead = self.file.ahead((offset, count) for offset, count in places if offset and count)
        return lambda chunk: self.read_tile(chunk, spent, ahead)

    def read_rows(self, plane: int, rows: slice, cols: slice, spent: Spent) -> Tile:
        """As `read_tile`, but of an image in uncompressed strips: ``rows``, all of one strip, and of them ``cols``.

        They are read with what lies between them, up to `ONE_READ_BYTES`: each read takes 15 µs.
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

    def _read_strips(self, where: Sequence[slice], spent: Spent, into: npt.NDArray[Any]) -> None:
        """As `read`, of an image in uncompressed strips."""
        image, page = self.image, self.image.pages[0]
        several = len(image.pages) > 1
        ys, xs = where[several : several + 2]
        most = 1
        if (xs.stop - xs.start) * NARROW >= page.imagewidth:
            most = max(1, ONE_READ_BYTES // (page.imagewidth * page.samplesperpixel * image.dtype.itemsize))
        for plane in range(where[0].start, where[0].stop) if several else (0,):
            pixels, y = into[plane - where[0].start] if several else into, ys.start
            while y < ys.stop:
                stop = min(ys.stop, y + most, (y // page.rowsperstrip + 1) * page.rowsperstrip)
                here = pixels[y - ys.start : stop - ys.start]
                rows = self.read_rows(plane, slice(y, stop), xs, spent)
                here[...] = image.fill if rows is None else rows.reshape(here.shape)
                y = stop

    def _read_into(self, into: npt.NDArray[Any], where: Sequence[slice], spent: Spent, across: int, keep: Keep) -> None:
        """As in `TileStore`; uncompressed strips are read by rows, and nothing of them is kept."""
        if self.image.by_row:
            self._read_strips(where, spent, into)
        else:
            super()._read_into(into, where, spent, across, keep)


def _place(page: TiffPage, number: int) -> tuple[int, int]:
    """Where tile or strip ``number`` is, and how long: (offset, count), of which one is 0 where it was left out."""
    return int(page.dataoffsets[number]), int(page.databytecounts[number])


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
"""What makes an image upright, by its Orientation (TIFF 6.0, section 8): transpose it, then reverse its y and its x."""


class UprightStore(TileStore):
    """Another store's image, upright; every read of it is one of the other, so that no tile is decoded twice."""

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
        """See `TileStore.read_tile`; tiles of the array begin at its first pixel, and each may meet several."""
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
            across = {self.x: self.y, self.y: self.x}[across]
        pixels = self.stored.read(there, spent, across=across, keep=keep)
        if transposed:
            pixels = pixels.swapaxes(self.y, self.x)
        into[...] = np.flip(pixels, backwards)


def array_in(memory: Memory | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array of ``shape`` at the beginning of ``memory``, if that is large enough, or in new memory."""
    count = prod(shape) * dtype.itemsize
    if memory is None or memory.size < count:
        memory = np.empty(count, np.uint8)
    return memory[:count].view(dtype).reshape(shape)


def _overlaps(part: slice, side: int) -> list[tuple[int, slice, slice]]:
    """The tiles of ``side`` px that meet ``part`` along one axis: index, where in the part, and where in the tile."""
    overlaps = []
    for index in range(part.start // side, -(-part.stop // side)):
        start, stop = max(part.start, index * side), min(part.stop, (index + 1) * side)
        into, of = slice(start - part.start, stop - part.start), slice(start - index * side, stop - index * side)
        overlaps.append((index, into, of))
    return overlaps


def rgb_of_ycc(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """RGB, uint8, of YCbCr, uint8, (..., 3): JFIF 1.02, the inverse of ITU-R BT.601 at full range."""
    y, cb, cr = np.moveaxis(pixels.astype(np.float32) - np.array([0, 128, 128], np.float32), -1, 0)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    rounded: npt.NDArray[Any] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded
