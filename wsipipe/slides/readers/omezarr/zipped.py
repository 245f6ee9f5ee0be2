"""Zarr folders within a zip file: ``.ozx``, ``.ome.zarr.zip``, and what zarr's ``ZipStore`` writes.

Nothing is unpacked. The names in the file are only looked up, so one such as ``../a`` leads nowhere, and no more is
decompressed than is asked for. Of two entries of one name the last counts, as for `zipfile`: ``ZipStore`` writes a
document again when it changes.

Sources: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT; https://ngff.openmicroscopy.org/rfc/9/
"""

from __future__ import annotations

import asyncio
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from wsipipe.errors import SlideError, SlideFormatError, SlideReadError, TruncatedError
from wsipipe.files import Location
from wsipipe.slides.byte_source import SeekableSource, open_source, version_of
from wsipipe.slides.pixels.read_only_store import ReadOnlyStore

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

STARTS = (b"PK\x03\x04", b"PK\x05\x06")
"""First bytes of a zip file: of its first entry, or of the end of an empty one."""
MAX_DIRECTORY_BYTES = 2**26
"""A longer list of entries is refused: 64 MiB are that of 600 000 chunks, and take 370 MiB of memory."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and lengths of the name and of the extra field, before the data of an entry (APPNOTE 4.3.7)."""
ENCRYPTED = 1
"""Flag of an entry."""
PIECE_BYTES = 2**20
"""Bytes that are decompressed at a time."""
UNZIP = "unzip it, and give its folder"
ROOT_NAMES = ("zarr.json", ".zgroup", ".zattrs")


@dataclass(frozen=True)
class Entry:
    """A file within a zip file."""

    header: int
    """Where its own header begins."""
    stored_bytes: int
    """Its bytes in the zip file."""
    size: int
    """Its bytes, once decompressed."""
    crc: int
    """CRC-32 of these."""
    method: int
    """How it is compressed; -1 if it is encrypted."""


class Archive:
    """An open zip file.

    Raises
    ------
    SlideReadError
        If its list of entries is damaged.
    SlideFormatError
        If that list is too long.
    """

    def __init__(self, path: Location) -> None:
        self.name, self.source = path.name, open_source(path)
        try:
            with zipfile.ZipFile(_Directory(path.name, self.source)) as archive:
                self.entries = {info.filename: _entry(info) for info in archive.infolist() if not info.is_dir()}
        except SlideError:
            raise
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, OverflowError) as err:
            raise SlideReadError(f"{self.name} is not a whole zip file ({err}); copy it again") from err

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of entry ``name`` from ``start`` to ``stop``, or to its end.

        Raises
        ------
        KeyError
            If there is no such entry.
        SlideReadError
            If it is damaged, or compressed as is not supported; a TruncatedError if the file ends before it does.
        """
        entry = self.entries[name]
        stop = entry.size if stop is None else min(stop, entry.size)
        first = self._first_byte(name, entry)
        if entry.method == zipfile.ZIP_STORED:
            data = self.source.read(first + start, max(stop - start, 0))
        elif entry.method == zipfile.ZIP_DEFLATED:
            data = self._inflated(first, entry, stop)[start:]
        else:
            raise SlideReadError(
                f"{self.name}: {name} is encrypted, or compressed by another method than deflate; {UNZIP}"
            )
        if len(data) < stop - start:
            raise TruncatedError(f"{self.name}: {name} ends after {start + len(data)} of its {entry.size} bytes")
        if (start, stop) == (0, entry.size) and zlib.crc32(data) != entry.crc:
            raise SlideReadError(f"{self.name}: {name} is damaged: its checksum is not the one in the zip file")
        return data

    def _first_byte(self, name: str, entry: Entry) -> int:
        """Where the data of an entry begin."""
        head = self.source.read(entry.header, LOCAL_HEADER.size)
        if len(head) < LOCAL_HEADER.size or not head.startswith(STARTS[0]):
            raise SlideReadError(f"{self.name}: {name} is damaged: it has no header in the zip file")
        _, of_name, of_extra = LOCAL_HEADER.unpack(head)
        return entry.header + LOCAL_HEADER.size + int(of_name) + int(of_extra)

    def _inflated(self, at: int, entry: Entry, count: int) -> bytes:
        """The first ``count`` bytes of an entry whose data begin ``at``, or what there is of them."""
        inflater, pieces, end = zlib.decompressobj(-zlib.MAX_WBITS), [b""], at + entry.stored_bytes
        try:
            while count > 0 and at < end and (data := self.source.read(at, min(PIECE_BYTES, end - at))):
                pieces.append(inflater.decompress(data, count))
                at, count = at + len(data), count - len(pieces[-1])
        except zlib.error as err:
            raise SlideReadError(f"{self.name}: the compression within the zip file is damaged ({err})") from err
        return b"".join(pieces)


class _Directory(SeekableSource):
    """A file as `zipfile` reads its directory, which it does in one piece."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if super().seek(offset, whence) < 0:
            raise OSError(22, "a place before the beginning of the file")
        return self._at

    def read(self, count: int = -1) -> bytes:
        count = self._source.size - self._at if count < 0 else count
        if count > MAX_DIRECTORY_BYTES:
            raise SlideFormatError(
                f"{self.name} has a list of entries of {count} bytes; up to {MAX_DIRECTORY_BYTES} are read; {UNZIP}"
            )
        data = self._source.read(self._at, count)
        self._at += len(data)
        return data


@dataclass(frozen=True)
class ZippedFolder:
    """A file or folder within a zip file, in pathlib's words."""

    path: Location
    """The zip file."""
    archive: Archive
    """The same, open."""
    inner: str = ""
    """Where it is in there; empty for its root."""

    def __str__(self) -> str:
        return f"{self.path}/{self.inner}" if self.inner else str(self.path)

    def __truediv__(self, name: str) -> ZippedFolder:
        return ZippedFolder(self.path, self.archive, f"{self.inner}/{name}" if self.inner else name)

    @property
    def name(self) -> str:
        """The last part of its path; the zip file's name for its root."""
        return PurePosixPath(self.inner).name or self.path.name

    @property
    def size(self) -> int:
        """Bytes of a file; 0 if it does not exist."""
        entry = self.archive.entries.get(self.inner)
        return 0 if entry is None else entry.size

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return self.inner in self.archive.entries

    def read_bytes(self) -> bytes:
        """The whole content of a file; its size should be looked at first.

        Raises
        ------
        SlideReadError
            If it is damaged, or compressed as is not supported.
        """
        return self.archive.read(self.inner)

    def files(self) -> Iterator[tuple[str, int]]:
        """(relative name, size) of each file in the folder and in the folders within it."""
        start = f"{self.inner}/" if self.inner else ""
        entries = self.archive.entries.items()
        return ((name.removeprefix(start), entry.size) for name, entry in entries if name.startswith(start))

    def iterdir(self) -> Iterator[ZippedFolder]:
        """The folders directly in this folder."""
        return (self / name for name in dict.fromkeys(name.split("/")[0] for name, _ in self.files() if "/" in name))

    def check_methods(self, *, in_parts: bool) -> None:
        """Refuse a folder whose files cannot be read, or not ``in_parts``.

        Raises
        ------
        SlideFormatError
            If a file is encrypted, or compressed otherwise than by deflate; ``in_parts``, if it is compressed at all.
        """
        allowed = (zipfile.ZIP_STORED,) if in_parts else (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        for name, _ in self.files():
            if (self / name).archive.entries[(self / name).inner].method not in allowed:
                why = "its shards are compressed once more within the zip file, so no part of one can be read"
                other = "is encrypted within the zip file, or compressed by another method than deflate"
                what = why if in_parts else f"{(self / name).inner} {other}"
                raise SlideFormatError(f"{self.path.name}: {what}; {UNZIP}")


class ZippedStore(ReadOnlyStore):
    """The content of a folder within a zip file, for zarr.

    Not zarr's own ``ZipStore``: that unpacks whatever an entry unpacks to, and lets one thread read at a time.
    """

    def __init__(self, folder: ZippedFolder) -> None:
        super().__init__()
        self.folder = folder

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The content of a file, or a part of it; None if it does not exist."""
        file = self.folder / key
        if not file.is_file():
            return None
        start, stop = _part(byte_range, file.size)
        return prototype.buffer.from_bytes(await asyncio.to_thread(file.archive.read, file.inner, start, stop))

    async def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / key).is_file()


def is_zip(path: Location) -> bool:
    """Whether ``path`` is a file that begins as a zip file does.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    return path.is_file() and open_source(path).read(0, 4) in STARTS


def zip_root(path: Location) -> ZippedFolder:
    """The Zarr folder in the zip file ``path``: its root, or the only folder there that is one, with all else in it.

    Raises
    ------
    SlideError
        If the zip file is damaged, or its list of entries is too long.
    """
    root = ZippedFolder(path, _archive(path, version_of(path)))
    if any((root / name).is_file() for name in ROOT_NAMES):
        return root
    found = [folder for folder in root.iterdir() if any((folder / name).is_file() for name in ROOT_NAMES)]
    return found[0] if len(found) == 1 else root


@lru_cache(maxsize=2)
def _archive(path: Location, version: str) -> Archive:  # noqa: ARG001 - another version is read again
    """The zip file ``path``, open: each level opens it, and a list of 100 000 entries takes a second or more."""
    return Archive(path)


def _entry(info: zipfile.ZipInfo) -> Entry:
    method = -1 if info.flag_bits & ENCRYPTED else info.compress_type
    return Entry(info.header_offset, info.compress_size, info.file_size, info.CRC, method)


def _part(wanted: ByteRequest | None, size: int) -> tuple[int, int]:
    """Where a part of a file of ``size`` bytes begins and ends."""
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, wanted.end
    if isinstance(wanted, SuffixByteRequest):
        return max(size - wanted.suffix, 0), size
    return (wanted.offset if isinstance(wanted, OffsetByteRequest) else 0), size


FolderOfZarr = Location | ZippedFolder
"""A Zarr folder, wherever it is."""


def zarr_folder(path: Location) -> FolderOfZarr:
    """The Zarr folder at ``path``: itself, or the one in a zip file.

    Raises
    ------
    SlideError
        If it is a zip file that is damaged, or has too many entries.
    """
    return zip_root(path) if is_zip(path) else path
