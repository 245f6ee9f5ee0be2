"""The identity of a slide: it tells files apart without reading all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from wsipipe.files import Location
from wsipipe.slides.byte_source import ByteSource, RemoteFile, open_source
from wsipipe.urls import Url

WINDOWS = 16
"""Pieces of a file, or chunk files of a folder, that are read."""
WINDOW_BYTES = 4096
"""Size of each piece."""


def file_identity(path: Location) -> str:
    """sha256 of the file's size and of 16 evenly spaced windows of 4 KiB, the first and last bytes among them.

    The same file has the same identity on a disk and behind a URL.
    """
    if isinstance(path, Url):
        return _identity_behind(path, RemoteFile(path).version)
    return _identity(open_source(path))


def _identity(source: ByteSource) -> str:
    most = max(source.size - WINDOW_BYTES, 0)
    offsets = [most * i // (WINDOWS - 1) for i in range(WINDOWS)]
    ahead = source.ahead((offset, min(WINDOW_BYTES, source.size)) for offset in offsets) if source.size else {}
    digest = hashlib.sha256(f"{source.size}\n".encode())
    for offset in offsets:
        digest.update(ahead[offset] if offset in ahead else source.read(offset, WINDOW_BYTES))
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _identity_behind(url: Url, version: str) -> str:  # noqa: ARG001 - another version is read again
    return _identity(open_source(url))


def folder_identity(folder: Location, documents: Iterable[bytes], sizes: Sequence[tuple[str, int]]) -> str:
    """sha256 of metadata documents, the (relative path, size) of chunk files, and the middle 4 KiB of 16 of these."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(hashlib.sha256(document).digest())
    sizes = sorted(sizes)
    for name, size in sizes:
        digest.update(f"{name}\0{size}\n".encode())
    for i in sorted({(len(sizes) - 1) * i // (WINDOWS - 1) for i in range(WINDOWS)}) if sizes else ():
        name, size = sizes[i]
        digest.update(open_source(folder / name).read(max(size - WINDOW_BYTES, 0) // 2, WINDOW_BYTES))
    return digest.hexdigest()
