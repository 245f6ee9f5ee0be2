"""A shard of a Zarr array, written whole: its chunks, compressed one by one, then an index of where each is.

zarr writes the same, with an event loop and three copies of every chunk: 60 ms of processor time for a block of
4096 px, of which the compressor takes 23. It reads labels of 2048 px in 6 ms, of which the decoder takes 2; where that
counts, `read_box` does it. Everything else is read with zarr.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import Zstd

from wsipipe.arrays import Labels
from wsipipe.files import Location, write_whole
from wsipipe.geometry.grid import Box, boxes
from wsipipe.urls import Url

Unsigned = npt.NDArray[np.unsignedinteger[Any]]
ZSTD_LEVEL = 3
NOT_WRITTEN = 2**64 - 1
"""Offset and length in the index of a chunk that is missing."""


def write_shard(
    path: Location, pixels: Unsigned, chunks: tuple[int, ...], shards: tuple[int, ...], *, way_out: str
) -> None:
    """Write one shard, by rename.

    Parameters
    ----------
    path
        Path of the file, in a folder that exists.
    pixels
        The pixels of the shard, (y, x) or (class, y, x), uint8 or little-endian uint32, from its origin; fewer than a
        shard at the array's end.
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


def read_index(file: BinaryIO, chunks: int) -> npt.NDArray[np.uint64] | None:
    """Offset and length of each of a shard's ``chunks``, (chunk, 2), uint64; those not written are all ones.

    None unless the index fits its checksum, and the file is as long as it says.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    index_bytes = 16 * chunks + 4
    size = file.seek(0, io.SEEK_END)
    if size < index_bytes:
        return None
    file.seek(size - index_bytes)
    table, checksum = file.read(index_bytes - 4), file.read()
    if google_crc32c.value(table).to_bytes(4, "little") != checksum:
        return None
    index = np.frombuffer(table, "<u8").reshape(-1, 2)
    end = int(index[index[:, 0] != NOT_WRITTEN].sum(axis=1).max(initial=0))
    return index if end == size - index_bytes else None


def read_box(folder: Path, box: Box, *, chunk_px: int, shard_px: int) -> Labels:
    """The pixels of ``box``, (y, x), uint8, of the array in ``folder``, which has shards as `write_shard` writes them.

    Parameters
    ----------
    folder
        The folder of the array.
    box
        Which pixels.
    chunk_px, shard_px
        Sides of a chunk and of a shard, in pixels.

    Raises
    ------
    OSError
        If a shard cannot be read, or is missing.
    ValueError
        If its index is damaged. Damaged chunks raise what the codec raises.
    """
    pixels: Labels = np.zeros(box.shape, np.uint8)
    chunk: Labels = np.empty((chunk_px, chunk_px), np.uint8)
    rows, cols = (
        range(start // shard_px, -(-stop // shard_px)) for start, stop in ((box.y0, box.y1), (box.x0, box.x1))
    )
    for row, col in product(rows, cols):
        with (folder / "c" / str(row) / str(col)).open("rb") as file:
            index = read_index(file, (shard_px // chunk_px) ** 2)
            if index is None:
                raise ValueError(f"the index of shard {row}/{col} is damaged, or the file is cut")
            places = boxes((shard_px, shard_px), chunk_px)
            for place, (offset, length) in zip(places, index.tolist(), strict=True):
                here = place.moved(row * shard_px, col * shard_px)
                met = here.overlap(box)
                if met is not None and offset != NOT_WRITTEN:
                    file.seek(offset)
                    Zstd().decode(file.read(length), out=chunk)
                    pixels[met.seen_from(box).slices] = chunk[met.seen_from(here).slices]
    return pixels


def damage_of_shard(path: Location, *, chunks: int, chunk_bytes: int) -> str:
    """What is wrong with a shard; an empty string if its index and each of its chunks fit their checksums.

    Parameters
    ----------
    path
        Path of the file; from a disk it is read chunk by chunk.
    chunks
        Number of chunks that the shard has room for.
    chunk_bytes
        Size of a chunk once it is decoded.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    try:
        with io.BytesIO(path.read_bytes()) if isinstance(path, Url) else path.open("rb") as file:
            index = read_index(file, chunks)
            if index is None:
                return "its index is damaged, or the file is cut"
            written = [(int(offset), int(length)) for offset, length in index if offset != NOT_WRITTEN]
            into = np.empty(chunk_bytes, np.uint8)
            damaged = sum(not _decodes(file, offset, length, into) for offset, length in written)
    except FileNotFoundError:
        return "it is missing"
    return f"{damaged} of its {len(written)} chunks are damaged" if damaged else ""


def _decodes(file: BinaryIO, offset: int, length: int, into: npt.NDArray[np.uint8]) -> bool:
    """Whether the chunk at ``offset`` decodes to the size of ``into``, and fits its checksum."""
    file.seek(offset)
    data = file.read(length)
    try:
        Zstd().decode(data, out=into)
    except Exception:  # a codec may raise anything
        return False
    return True


def _whole(piece: Unsigned, chunks: tuple[int, ...]) -> Unsigned:
    """``piece``, contiguous in memory, padded with zeros to a whole chunk."""
    if piece.shape == chunks:
        return np.ascontiguousarray(piece)
    whole = np.zeros(chunks, piece.dtype)
    whole[tuple(map(slice, piece.shape))] = piece
    return whole
