"""The file of one block: what `measure_block` gives, as arrays that can be read one by one.

::

    | magic, 8 bytes | header's size and checksum, 4 bytes each | header, JSON | arrays, each compressed (zstd) |

An array is stored in the smallest type that holds its values less the lowest one of each column; of an array of many
columns, less the lowest one of all.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from math import prod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wsipipe.errors import DamagedStoreError, FingerprintError, SlideReadError
from wsipipe.files import RESUMES, Location, write_whole
from wsipipe.objects.block import BlockObjects, Counting, CutPieces
from wsipipe.objects.fragments import Fragments
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import Diagonals, Lines
from wsipipe.objects.perimeter import OpenPixels
from wsipipe.objects.rings import Rings
from wsipipe.objects.sums import Sums
from wsipipe.urls import Url

MAGIC = b"wsiobj\x00\x01"
"""The last byte is the version of the format."""
FEW_COLUMNS = 64
"""Columns whose lowest values are all in the header."""
_PREFIX = struct.Struct("<8sII")
_CODEC = "zstd"
T = TypeVar("T")


def block_file(folder: Location, index: tuple[int, int]) -> Location:
    """The file of the block in row and column ``index``; the block is done if and only if it is there."""
    return folder / f"{index[0]}.{index[1]}.objects"


def write_block_file(path: Location, block: BlockObjects, counting: Counting) -> None:
    """Write what a block gives, by rename.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    cut = block.cut
    arrays: dict[str, npt.NDArray[Any]] = {"hulls": block.hulls, "group": cut.group}
    for name, part in (
        ("whole", block.whole),
        ("rings", block.rings),
        ("sums", cut.sums),
        ("lines", cut.lines),
        ("diagonals", cut.diagonals),
        ("pixels", cut.pixels),
        ("fragments", cut.fragments),
    ):
        arrays |= {f"{name}.{field.name}": getattr(part, field.name) for field in fields(part)}
    arrays |= {f"strips.{number}": strip for number, strip in enumerate(cut.strips)}
    stored, blobs, offset = {}, [], 0
    for name, array in arrays.items():
        stored[name], blob = _pack(array, offset)
        blobs.append(blob)
        offset += len(blob)
    header = json.dumps({"origin": block.origin, "counting": _described(counting), "arrays": stored}).encode()
    prefix = _PREFIX.pack(MAGIC, len(header), zlib.crc32(header))
    write_whole(path, b"".join([prefix, header, *blobs]), kind="objects ", way_out=RESUMES, shared=True)


@dataclass(frozen=True)
class BlockFile:
    """The file of a block; each method reads what it gives.

    Raises
    ------
    SlideReadError
        If the file cannot be read.
    DamagedStoreError
        If it is not as it was written.
    FingerprintError
        If it was made with another `Counting`.
    """

    path: Location
    """Where it is."""
    counting: Counting
    """What it must have been made with."""

    @cached_property
    def origin(self) -> tuple[int, int]:
        """(y, x) on the slide of the block's first pixel, with the frame."""
        y, x = self._header()["origin"]
        return y, x

    def first(self) -> Counts:
        """The first pixels of its whole objects, (objects,) int64; see `Sums.first`."""
        return self._arrays(self._header(), ["whole.first"])[0]

    def whole(self) -> tuple[Sums, Counts, Rings]:
        """Its whole objects: see `BlockObjects`; the areas of hulls are (objects,), int64."""
        header = self._header()
        (hulls,) = self._arrays(header, ["hulls"])
        return self._group(header, "whole", Sums), hulls, self._group(header, "rings", Rings)

    def cut(self) -> CutPieces:
        """Its pieces of objects that reach over its sides."""
        header = self._header()
        return CutPieces(
            self._group(header, "sums", Sums),
            self._arrays(header, ["group"])[0],
            self._group(header, "lines", Lines),
            self._group(header, "diagonals", Diagonals),
            self._group(header, "pixels", OpenPixels),
            self._group(header, "fragments", Fragments),
            tuple(self._arrays(header, [f"strips.{number}" for number in range(4)])),
        )

    def _header(self) -> Mapping[str, Any]:
        """What the file says of itself. It is read each time: its text alone is 13 kB, for every block of a slide."""
        (prefix,) = self._read([0], [_PREFIX.size])
        if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
            raise self._damaged("it does not begin as such a file does")
        _, size, checksum = _PREFIX.unpack(prefix)
        (text,) = self._read([_PREFIX.size], [size])
        if zlib.crc32(text) != checksum:
            raise self._damaged("its header has another checksum")
        header: Mapping[str, Any] = json.loads(text) | {"behind": _PREFIX.size + size}
        if header["counting"] != (wanted := _described(self.counting)):
            raise FingerprintError(
                f"{self.path} holds objects of another slide or made with other options: {header['counting']}, wanted "
                f"{wanted}; remove it, and measure the block again"
            )
        return header

    def _group(self, header: Mapping[str, Any], name: str, kind: type[T]) -> T:
        return kind(*self._arrays(header, [f"{name}.{field.name}" for field in fields(kind)]))  # type: ignore[arg-type]

    def _arrays(self, header: Mapping[str, Any], names: Sequence[str]) -> list[npt.NDArray[Any]]:
        every = [header["arrays"][name] for name in names]
        blobs = self._read([header["behind"] + one["offset"] for one in every], [one["size"] for one in every])
        for name, one, blob in zip(names, every, blobs, strict=True):
            if zlib.crc32(blob) != one["checksum"]:
                raise self._damaged(f"{name} has another checksum")
        return list(map(_unpack, every, blobs))

    def _read(self, starts: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        try:
            if isinstance(self.path, Url):
                return self.path.read_ranges(starts, counts)
            found = []
            with self.path.open("rb") as file:
                for start, count in zip(starts, counts, strict=True):
                    file.seek(start)
                    found.append(file.read(count))
            return found
        except OSError as err:
            raise SlideReadError(f"{self.path} cannot be read: {err.strerror or err}") from err

    def _damaged(self, why: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.path} is damaged: {why}; remove it, and measure the block again")


@cache
def _described(counting: Counting) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(asdict(counting)))
    return described


def _unpack(stored: Mapping[str, Any], blob: bytes) -> npt.NDArray[Any]:
    """The array that `_pack` stored."""
    shape, kind = stored["shape"], np.dtype(stored["stored"])
    raw = pa.decompress(blob, prod(shape) * kind.itemsize, _CODEC, asbytes=True) if blob else b""
    columns = np.frombuffer(raw, kind).reshape(shape[::-1]).astype(stored["dtype"])
    if stored["lowest"] is not None:
        columns += np.array(stored["lowest"], columns.dtype).reshape(-1, *[1] * (len(shape) - 1))
    return np.ascontiguousarray(columns.T)


def _pack(array: npt.NDArray[Any], offset: int) -> tuple[dict[str, Any], bytes]:
    """What the header says of an array, and its compressed values."""
    columns, lowest = np.ascontiguousarray(array.T), None  # column by column, which is quick
    if array.size and array.dtype.kind == "i":
        of_all = len(columns) > FEW_COLUMNS and array.ndim > 1
        lowest = columns.min() if of_all else columns.min(axis=-1, keepdims=True)
        columns = columns - lowest
        columns = columns.astype(np.min_scalar_type(int(columns.max())))
    blob = pa.compress(columns.tobytes(), _CODEC, asbytes=True) if array.size else b""
    return {
        "dtype": array.dtype.str,
        "stored": columns.dtype.str,
        "shape": array.shape,
        "lowest": None if lowest is None else lowest.ravel().tolist(),
        "offset": offset,
        "size": len(blob),
        "checksum": zlib.crc32(blob),
    }, blob
