"""The identity of a slide: it tells files apart without reading all of them; and the state and content of its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from wsipipe.files import Location, locate
from wsipipe.slides.byte_source import ByteSource, RemoteFile, open_source
from wsipipe.urls import Url

WINDOWS = 16
"""Pieces of a file, or chunk files of a folder, that are read."""
WINDOW_BYTES = 4096
"""Size of each piece."""
HASHED_BYTES = 2**23
"""Bytes of a file that are hashed at a time."""


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


def files_state(path: Location, parts: Sequence[str]) -> str:
    """sha256 of the sizes and modification times of a slide's files, or of their ETags behind a URL; none is read.

    Parameters
    ----------
    path
        The slide's file or folder.
    parts
        The files, and folders of files, that its pixels are read from; empty if ``path`` is all of them.

    Raises
    ------
    OSError
        If one of them does not exist, or cannot be reached.
    """
    files = sorted((name, version) for name, _, version in _files(path, parts))
    return hashlib.sha256("".join(f"{name}\0{version}\n" for name, version in files).encode()).hexdigest()


@lru_cache(maxsize=1024)
def files_sha256(path: Location, parts: tuple[str, ...], state: str) -> str:  # noqa: ARG001 - another state is read again
    """sha256 of the whole content of a slide's files, which are in ``state`` (`files_state`).

    It is that of the one file, or of the list that ``sha256sum`` prints of several. Not another hash: it is in every
    Python, and faster than disks deliver.

    Raises
    ------
    OSError
        If a file does not exist, or cannot be read.
    """
    files = sorted(((name, file) for name, file, _ in _files(path, parts)), key=lambda pair: pair[0])
    digests = [(_sha256(file), name) for name, file in files]
    if len(digests) == 1:
        return digests[0][0]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()


def _sha256(file: Location) -> str:
    source, digest = open_source(file), hashlib.sha256()
    for offset in range(0, source.size, HASHED_BYTES):
        digest.update(source.read(offset, HASHED_BYTES))
    return digest.hexdigest()


def _files(path: Location, parts: Sequence[str]) -> Iterator[tuple[str, Location, str]]:
    """(name, place, version) of each file; a slide of one file has the same under any name."""
    for part in map(locate, parts or [str(path)]):
        name = os.path.relpath(str(part), str(path)) if parts else ""
        if isinstance(part, Url):
            yield from _behind(part, str(part).removeprefix(str(path)) if parts else "")
        elif part.is_dir():
            yield from ((f"{name}/{file.relative_to(part).as_posix()}", file, _version(file)) for file in _within(part))
        else:
            yield name, part, _version(part)


def _within(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def _version(file: Path) -> str:
    there = file.stat()
    return f"{there.st_size} {there.st_mtime_ns}"


def _behind(url: Url, name: str) -> Iterator[tuple[str, Location, str]]:
    """As `_files`; a folder on a web server cannot be listed, and has none."""
    try:
        heads = [({"path": ""} | url.head())]
    except FileNotFoundError:
        heads = list(url.rows()) if url.lists else []
    for head in heads:
        below = head["path"]
        file = url / below if below else url
        yield f"{name}/{below}", file, f"{head['size']} {head.get('e_tag') or head['last_modified']}"
