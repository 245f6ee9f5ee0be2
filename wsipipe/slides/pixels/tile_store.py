"""A read-only array that a file format decodes tile by tile: as Zarr, or in blocks assembled from its tiles."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from wsipipe.events import Spent
from wsipipe.slides.pixels.read_only_store import ReadOnlyStore
from wsipipe.slides.pixels.tile_cache import KEPT, NONE_KEPT, Keep, Tile

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

METADATA_KEY = "zarr.json"
Memory = npt.NDArray[np.uint8]
"""Bytes to read pixels into, (n,)."""
TOGETHER_BYTES = 2**20
"""Bytes of adjacent tiles that are decoded before they are put in their place: they stay in a core's cache."""
TilePart = tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]
"""A tile that overlaps what is read: its index, the overlap within what is read, and that within the tile."""
_numbers = itertools.count()  # they tell the tiles of one store in the cache from those of another


class Tiling(Protocol):
    """An array made up of tiles."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        ...

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of one tile."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the decoded pixels, in the byte order of this machine."""
        ...

    @property
    def fill(self) -> int:
        """Value of the pixels of a tile that the file left out."""
        ...

    @property
    def tile_bytes(self) -> int:
        """Size of one decoded tile."""
        ...


@dataclass(frozen=True)
class Tiles:
    """A `Tiling` of plain values."""

    shape: tuple[int, ...]
    """Shape of the array."""
    chunks: tuple[int, ...]
    """Shape of one tile."""
    dtype: np.dtype[Any] = field(default_factory=partial(np.dtype, np.uint8))
    """Type of the decoded pixels, in the byte order of this machine."""
    fill: int = 0
    """Value of the pixels of a tile that the file left out."""

    @property
    def tile_bytes(self) -> int:
        """Size of one decoded tile."""
        return prod(self.chunks) * self.dtype.itemsize

    def within(self, chunk: tuple[int, ...]) -> tuple[slice, ...]:
        """Where tile ``chunk`` lies in the array, cut at its far borders."""
        return tuple(
            slice(i * side, min((i + 1) * side, size))
            for i, side, size in zip(chunk, self.chunks, self.shape, strict=True)
        )


class TileReader(Protocol):
    """Reads a tile."""

    def __call__(self, chunk: tuple[int, ...], into: npt.NDArray[Any] | None = None) -> Tile:
        """Like `TileStore.read_tile`, but decodes ``into`` an array of a tile's shape if it can, and returns that."""
        ...


class TileStore(ReadOnlyStore):
    """A read-only Zarr store of one array, whose tiles a file format decodes."""

    decodes_into = False
    """Whether tiles can be decoded into given memory."""

    def __init__(self, image: Tiling) -> None:
        super().__init__()
        self.image = image
        self._number = next(_numbers)

    def read_tile(self, chunk: tuple[int, ...], spent: Spent) -> Tile:
        """The pixels of tile ``chunk``, or None if the file left it out; adds its time to ``spent``.

        They are as many as a full tile has, in the array's dtype; their shape (...) is the tile's, or one that can be
        reshaped to it.

        Raises
        ------
        SlideReadError
            If there is a tile, and it cannot be read or decoded.
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
        """``array[where]``, (...) in the array's dtype, decoded by the calling thread; adds its time to ``spent``.

        It is put ``into`` an array of that shape, if one is given. Tiles are kept for its neighbours along
        axis ``across`` as ``keep`` says.

        zarr runs every read through the one thread of its event loop, which pastes the tiles together there: two
        threads read 30 MP/s of the SVS in the tests that way, and 85 MP/s this way. All code here runs once for each
        tile, and a tile decodes in 0.3 ms.

        Raises
        ------
        SlideReadError
            If a tile cannot be read or decoded.
        """
        if into is None:
            into = np.empty([part.stop - part.start for part in where], self.image.dtype)
        self._read_into(into, where, spent, across, keep)
        return into

    def _read_into(self, into: npt.NDArray[Any], where: Sequence[slice], spent: Spent, across: int, keep: Keep) -> None:
        image = self.image
        side, start, end = image.chunks[across], where[across].start, where[across].stop
        before = start + keep.overlap_px if start > 0 else 0
        behind = end - keep.overlap_px if end < image.shape[across] else math.inf

        def shared(place: TilePart) -> bool:
            first = place[0][across] * side
            return first < before or first + side > behind

        places = [tuple(zip(*each, strict=True)) for each in itertools.product(*map(_overlaps, where, image.chunks))]
        read_tile = self._tile_reader((chunk for chunk, _, _ in places if (self._number, chunk) not in KEPT), spent)
        along = max(range(len(where)), key=lambda axis: (places[0][0][axis] != places[-1][0][axis], axis))
        most = min(max(1, TOGETHER_BYTES // image.tile_bytes), len(places)) if self.decodes_into else 0
        together = np.empty((most, *image.chunks), image.dtype)
        for run in _runs(places, along, image.chunks[along], most, alone=shared):
            if self.decodes_into and not shared(run[0]):
                self._read_run(into, run, along, read_tile, together[: len(run)])
                continue
            ((chunk, here, of),) = run
            tile = KEPT.get(
                (self._number, chunk),
                partial(read_tile, chunk),
                size=image.tile_bytes,
                most=keep.most_bytes if shared(run[0]) else 0,
            )
            into[here] = image.fill if tile is None else tile.reshape(image.chunks)[of]

    def _read_run(
        self,
        into: npt.NDArray[Any],
        run: Sequence[TilePart],
        along: int,
        read_tile: TileReader,
        together: npt.NDArray[Any],
    ) -> None:
        """Read a run of tiles ``together``, and put them in their place with one pass over its rows.

        Rows of a single tile are short, and each begins where no cache line was fetched yet: a tile of 240 px takes
        58 µs into a block of 4096 px on its own, and 34 µs as one of four.
        """
        for pixels, (chunk, _, _) in zip(together, run, strict=True):
            tile = read_tile(chunk, pixels)
            if tile is not pixels:
                pixels[...] = self.image.fill if tile is None else tile.reshape(pixels.shape)
        (_, start, of), (_, end, _) = run[0], run[-1]
        here = into[tuple(slice(a.start, b.stop) for a, b in zip(start, end, strict=True))]
        pixels = np.moveaxis(together[:, *of], 0, along)
        here.reshape(pixels.shape)[...] = pixels  # a view: one axis is split in two

    def _tile_reader(self, chunks: Iterable[tuple[int, ...]], spent: Spent) -> TileReader:  # noqa: ARG002
        """A reader of tiles, after the data of ``chunks`` were fetched together if that is quicker."""
        return lambda chunk, into=None: self.read_tile(chunk, spent)  # noqa: ARG005

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
        if key == METADATA_KEY:
            return prototype.buffer.from_bytes(self.metadata())
        if not key.startswith("c/"):
            return None
        assert byte_range is None, "tiles are decoded whole"
        pixels = await asyncio.to_thread(self.read_tile, tuple(int(i) for i in key[2:].split("/")), Spent())
        if pixels is None:
            return None
        return prototype.buffer.from_array_like(np.ascontiguousarray(pixels).reshape(-1).view("B"))

    async def exists(self, key: str) -> bool:
        """Whether ``key`` is that of the document; tiles are not asked for."""
        return key == METADATA_KEY


def array_in(memory: Memory | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array of ``shape`` (...) and ``dtype`` at the beginning of ``memory`` if that suffices, or in new memory."""
    count = prod(shape) * dtype.itemsize
    if memory is None or memory.size < count:
        memory = np.empty(count, np.uint8)
    return memory[:count].view(dtype).reshape(shape)


def _runs(
    places: Iterable[TilePart], along: int, side: int, most: int, *, alone: Callable[[TilePart], bool]
) -> Iterator[list[TilePart]]:
    """``places`` in their order, up to ``most`` together that are adjacent and whole ``along`` an axis.

    Those that should be ``alone`` are.
    """
    run: list[TilePart] = []
    for place in places:
        whole = place[2][along].stop - place[2][along].start == side and not alone(place)
        if run and not (whole and len(run) < most and place[1][along].start == run[-1][1][along].stop):
            yield run
            run = []
        run.append(place)
        if not whole:
            yield run
            run = []
    if run:
        yield run


def _overlaps(part: slice, side: int) -> list[tuple[int, slice, slice]]:
    """Tiles of ``side`` px that overlap ``part`` along one axis: index, overlap within the part and within the tile."""
    overlaps = []
    for index in range(part.start // side, -(-part.stop // side)):
        start, stop = max(part.start, index * side), min(part.stop, (index + 1) * side)
        into, of = slice(start - part.start, stop - part.start), slice(start - index * side, stop - index * side)
        overlaps.append((index, into, of))
    return overlaps
