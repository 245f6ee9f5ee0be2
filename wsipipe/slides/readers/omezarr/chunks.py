"""The arrays of an OME-Zarr image, and whether their chunks are all there and whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, Store
from zarr.storage import WrapperStore

from wsipipe.errors import SlideError, SlideFormatError, SlideReadError
from wsipipe.files import files_in, zarr_store
from wsipipe.slides.readers.omezarr.attributes import METADATA, check_metadata, is_zarr
from wsipipe.slides.readers.omezarr.zipped import FolderOfZarr, ZippedFolder, ZippedStore
from wsipipe.slides.readers.sparse import StoredPieces, check_share
from wsipipe.urls import Url

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

MAX_CHUNK_BYTES = 2**30
"""A chunk that needs more than this once decoded is refused: every block would need it."""
CHUNK_HEAD_BYTES = 18
"""First bytes of a chunk, in which Blosc and Zstandard say how many bytes it decodes to."""
NUMBER = re.compile(r"\d+")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class WholeChunkStore(WrapperStore[Store]):
    """A store that refuses chunks that are truncated, or say that they decode to more than a chunk.

    Blosc, through numcodecs, reads as many bytes as the header of a chunk says, beyond the end of a truncated one: what
    comes out is garbage from the memory behind it, without an error. It and Zstandard allocate as much memory as the
    header says before anybody compares that with the size of a chunk.
    """

    codec = "none"
    """Name of the compressor that was applied last."""
    most_bytes = MAX_CHUNK_BYTES
    """Most bytes of a chunk, encoded or decoded."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Like `Store.get`.

        Raises
        ------
        SlideReadError
            If a chunk is shorter than its header says, or says that it decodes to more than there is room for.
        """
        if byte_range is not None or key.rpartition("/")[2] in METADATA:
            return await super().get(key, prototype, byte_range)
        data = await super().get(key, prototype, RangeByteRequest(0, self.most_bytes + 1))
        if data is None:
            return None
        head = data[:CHUNK_HEAD_BYTES].to_bytes()
        said = max(len(data), decoded_bytes(head, self.codec))
        if said > self.most_bytes:
            raise SlideReadError(
                f"chunk {key} has, or decodes to, {said} bytes or more; a chunk has {self.most_bytes} at most"
            )
        encoded = int.from_bytes(head[12:16], "little") if self.codec == "blosc" else 0
        if self.codec == "blosc" and len(data) < max(encoded, 16):
            raise SlideReadError(f"chunk {key} has {len(data)} of its {max(encoded, 16)} bytes: it was truncated")
        return data


def decoded_bytes(head: bytes, codec: str) -> int:
    """How many bytes a chunk decodes to according to its first `CHUNK_HEAD_BYTES`; 0 if it does not say.

    Sources: https://github.com/Blosc/c-blosc, README_CHUNK_FORMAT; RFC 8878, section 3.1.1.1, of Zstandard.
    """
    if codec == "blosc":
        return int.from_bytes(head[4:8], "little")
    if codec != "zstd" or not head.startswith(ZSTD_MAGIC) or len(head) < 5:
        return 0
    single, wide = head[4] >> 5 & 1, head[4] >> 6
    start = 5 + (1 - single) + (0, 1, 2, 4)[head[4] & 3]
    size = (single, 2, 4, 8)[wide]
    return int.from_bytes(head[start : start + size], "little") + 256 * (size == 2)


def open_dataset(path: FolderOfZarr, dataset: str) -> zarr.Array[Any]:
    """Open the array of ``dataset``, read-only; chunks are checked to be whole where their codec does not do it.

    Raises
    ------
    SlideFormatError
        If ``dataset`` is outside the folder, or its metadata are too large.
    SlideReadError
        If there is no such array, or it cannot be opened.
    """
    if not _is_within(path, dataset):
        raise SlideFormatError(f"{path.name}: dataset {dataset!r} is outside its folder")
    folder = path / dataset
    if not is_zarr(folder):
        raise SlideReadError(f"{path.name} is half-written: there is no array {dataset}; write it again")
    check_metadata(path, folder)
    try:
        array = _open_array(folder)
    except SlideError:
        raise
    except Exception as err:  # zarr raises all sorts on damaged metadata
        raise SlideReadError(f"{path.name}: array {dataset} cannot be opened ({type(err).__name__}: {err})") from err
    if isinstance(folder, ZippedFolder):
        folder.check_methods(in_parts=array.shards is not None)
    return array


def _is_within(path: FolderOfZarr, dataset: str) -> bool:
    """Whether the folder of ``dataset`` is within ``path``."""
    if not isinstance(path, Path):
        return not {"", ".", ".."} & set(dataset.split("/"))
    return (path / dataset).resolve().is_relative_to(path.resolve())


def _open_array(folder: FolderOfZarr) -> zarr.Array[Any]:
    """The array of ``folder``, behind a `WholeChunkStore` unless it has shards.

    Raises
    ------
    ValueError
        If its chunks are empty.
    """
    array = zarr.open_array(_store(folder), mode="r")
    if min(array.shards or array.chunks) < 1:
        raise ValueError(f"its chunks are of {array.shards or array.chunks} px")
    if array.shards is not None:  # a shard has a checksum of its own
        return array
    store = WholeChunkStore(_store(folder))
    store.codec = codec_names(array)[-1]
    pixels = prod(array.chunks) * array.dtype.itemsize
    # Data that cannot be compressed become a little longer, and a filter may make each sample 8 bytes.
    store.most_bytes = pixels * (8 if array.filters else 1) + pixels // 8 + 1024
    return zarr.open_array(store, mode="r")


def _store(folder: FolderOfZarr) -> Store:
    """The content of ``folder`` as a read-only zarr store."""
    return ZippedStore(folder) if isinstance(folder, ZippedFolder) else zarr_store(folder)


def codec_names(array: zarr.Array[Any]) -> list[str]:
    """Names of the compressors of an array's chunks, in the order of encoding."""
    return [type(codec).__name__.removesuffix("Codec").lower() for codec in array.compressors] or ["none"]


def missing_chunks(path: FolderOfZarr, dataset: str, array: zarr.Array[Any]) -> Iterator[str]:
    """A warning if some chunks of ``dataset`` have no file: that is allowed, but a broken copy looks the same.

    Raises
    ------
    SlideReadError
        If no chunk has a file, or nearly none.
    """
    there, total = count_pieces(path, dataset, array)
    if not there:
        raise SlideReadError(f"{path.name} is half-written: {dataset} has no chunks; write it again")
    shape = " x ".join(map(str, array.shape))
    check_share(path.name, there, total, f"array {dataset}, {shape} px,", way_out="write it again")
    if there < total:
        yield f"{total - there} of {total} chunks of {dataset} have no file, and read as {array.fill_value}"


def count_pieces(path: FolderOfZarr, dataset: str, array: zarr.Array[Any]) -> tuple[int, int]:
    """How many shards, or chunks, of the array of ``dataset`` have a file, and how many it has room for."""
    total = prod(pieces_of(array))
    if isinstance(path, Url) and not path.lists:
        return total, total
    return sum(1 for _ in chunk_files(path / dataset)), total


def pieces_there(path: FolderOfZarr, dataset: str, array: zarr.Array[Any], axes: str) -> StoredPieces | None:
    """Which shards, or chunks, of the array of ``dataset`` have a file; None on a web server, which cannot list them.

    The planes of all other ``axes`` than y and x are one axis.
    """
    if isinstance(path, Url) and not path.lists:
        return None
    there = np.zeros(pieces_of(array), np.bool_)
    for name, _ in chunk_files(path / dataset):
        key = tuple(map(int, NUMBER.findall(name)))
        if len(key) == there.ndim and all(number < size for number, size in zip(key, there.shape, strict=True)):
            there[key] = True
    y, x = axes.index("y"), axes.index("x")
    sides = array.shards or array.chunks
    planes = np.moveaxis(there, (y, x), (-2, -1)).reshape(-1, there.shape[y], there.shape[x])
    return StoredPieces((array.shape[y], array.shape[x]), (sides[y], sides[x]), planes)


def pieces_of(array: zarr.Array[Any]) -> tuple[int, ...]:
    """How many shards, or chunks, an array has room for along each axis."""
    pieces = array.shards or array.chunks
    return tuple(-(-size // piece) for size, piece in zip(array.shape, pieces, strict=True))


def chunk_files(folder: FolderOfZarr) -> Iterator[tuple[str, int]]:
    """Relative path and size of every chunk file of an array."""
    files = folder.files() if isinstance(folder, ZippedFolder) else files_in(folder)
    return ((name, size) for name, size in files if name.rpartition("/")[2] not in METADATA)
