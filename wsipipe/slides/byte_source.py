"""The bytes of a slide's file, on a disk or behind a URL, for many threads at once."""

from __future__ import annotations

import io
import os
import threading
import weakref
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from wsipipe.files import Location
from wsipipe.urls import Url

FETCHED_BYTES = 2**15
"""Bytes fetched at once of a file's description, which is scattered over the file."""
MOST_WINDOWS = 256
"""Pieces of `FETCHED_BYTES` kept in memory, 8 MiB: a file is opened for the plan, and again in each process."""


class ByteSource(Protocol):
    """An open file."""

    size: int
    """Size of the file in bytes."""

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset``; fewer only at the end of the file.

        Raises
        ------
        OSError
            If they cannot be read.
        """
        ...

    def ahead(self, ranges: Iterable[tuple[int, int]]) -> Mapping[int, bytes]:
        """The bytes at ``ranges`` (offset, count), by their offset, if it is quicker to fetch them together.

        If it is not, the result is empty, and ``ranges`` is not iterated.
        """
        ...


def open_source(path: Location) -> ByteSource:
    """Open the file at ``path``.

    Raises
    ------
    OSError
        If it does not exist, or cannot be read.
    """
    return RemoteFile(path) if isinstance(path, Url) else OpenFile(path)


def version_of(path: Location) -> str:
    """It tells the file at ``path`` from those that were there before.

    Raises
    ------
    OSError
        If it does not exist, or cannot be reached.
    """
    if isinstance(path, Url):
        return RemoteFile(path).version
    there = path.stat()
    return f"{there.st_size} {there.st_mtime_ns} {there.st_ino}"


class OpenFile:
    """A file descriptor that is closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        self.close = weakref.finalize(self, os.close, self.fd)
        self.size = os.fstat(self.fd).st_size
        self.seeking = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        data = self._pread(count, offset)
        while 0 < len(data) < count:  # a network file system may give less than asked for
            more = self._pread(count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def _pread(self, count: int, offset: int) -> bytes:
        """``os.pread``, also where there is none: on Windows, threads take turns at seeking and reading."""
        if hasattr(os, "pread"):
            return os.pread(self.fd, count, offset)
        with self.seeking:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.read(self.fd, count)

    def ahead(self, ranges: Iterable[tuple[int, int]]) -> Mapping[int, bytes]:  # noqa: ARG002
        """Nothing: the system reads ahead."""
        return {}


class RemoteFile:
    """A file behind a URL, as it was when it was opened, read by range requests."""

    def __init__(self, url: Url) -> None:
        head = url.head()
        self.url, self.size = url, int(head["size"])
        self.version = f"{head['e_tag']} {head['last_modified']} {self.size}"
        """Tag, date and size: a file that replaces this one has another version."""

    def read(self, offset: int, count: int) -> bytes:
        """See `ByteSource.read`."""
        count = min(count, self.size - offset)
        return self.url.read_ranges([offset], [count])[0] if count > 0 else b""

    def ahead(self, ranges: Iterable[tuple[int, int]]) -> Mapping[int, bytes]:
        """See `ByteSource.ahead`: several requests at a time, and one for ranges that are close."""
        counts = dict(ranges)
        return dict(zip(counts, self.url.read_ranges(list(counts), list(counts.values())), strict=True))


def as_file(source: RemoteFile) -> io.BufferedReader:
    """``source`` as a Python file, for libraries that seek and read."""
    return io.BufferedReader(_Windows(source.url.name, source), FETCHED_BYTES)


class SeekableSource(io.RawIOBase):
    """The seeking of a file over a byte source; a subclass reads from where it is, ``_at``."""

    def __init__(self, name: str, source: ByteSource) -> None:
        self.name, self._source, self._at = name, source, 0

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it in bytes; the place is not checked."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        return self._at


class _Windows(SeekableSource):
    _source: RemoteFile

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number, start = divmod(self._at, FETCHED_BYTES)
        if self._at >= self._source.size:
            return 0
        data = _window(self._source.url, self._source.version, number)[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@lru_cache(maxsize=MOST_WINDOWS)
def _window(url: Url, version: str, number: int) -> bytes:
    """Piece ``number`` of the file, of `FETCHED_BYTES`; ``version`` tells it from earlier files at ``url``."""
    size = int(version.rpartition(" ")[2])
    start = number * FETCHED_BYTES
    return url.read_ranges([start], [min(FETCHED_BYTES, size - start)])[0]
