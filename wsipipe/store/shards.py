"""A shard of a Zarr array, written whole: its chunks, compressed one by one, then an index of where each is.

zarr writes the same, with an event loop and three copies of every chunk: 60 ms of processor time for a block of
4096 px, of which the compressor takes 23. Everything is read with zarr.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import Zstd

from wsipipe.files import Location, write_whole

ZSTD_LEVEL = 3
NOT_WRITTEN = 2**64 - 1
"""Offset and length in the index of a chunk that is missing."""


def write_shard(
    path: Location, pixels: npt.NDArray[np.uint8], chunks: tuple[int, ...], shards: tuple[int, ...], *, way_out: str
) -> None:
    """Write one shard, by rename.

    Parameters
    ----------
    path
        Path of the file, in a folder that exists.
    pixels
        The pixels of the shard, uint8, (y, x) or (class, y, x), from its origin; fewer than a shard at the array's end.
    chunks, shards
        Shapes of a chunk and of a whole shard, in pixels.
    way_out
        What to do if the disk does not take it; the end of the message.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    compressor = Zstd(level=ZSTD_LEVEL, checksum=True)
    index = np.full((*(shard // chunk for shard, chunk in zip(shards, chunks, strict=True)), 2), NOT_WRITTEN, "<u8")
    parts, offset = [], 0
    for at in np.ndindex(*(-(-size // chunk) for size, chunk in zip(pixels.shape, chunks, strict=True))):
        here = tuple(slice(i * chunk, (i + 1) * chunk) for i, chunk in zip(at, chunks, strict=True))
        data = compressor.encode(_whole(pixels[here], chunks))
        parts.append(data)
        index[at] = offset, len(data)
        offset += len(data)
    table = index.tobytes()
    checksum = google_crc32c.value(table).to_bytes(4, "little")
    write_whole(path, b"".join([*parts, table, checksum]), way_out=way_out, shared=True)


def _whole(piece: npt.NDArray[np.uint8], chunks: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """``piece``, contiguous in memory, padded with zeros to a whole chunk."""
    if piece.shape == chunks:
        return np.ascontiguousarray(piece)
    whole = np.zeros(chunks, np.uint8)
    whole[tuple(map(slice, piece.shape))] = piece
    return whole
