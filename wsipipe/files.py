"""Files and folders, on a disk or behind a URL; those that are written appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from wsipipe.errors import OutputError
from wsipipe.urls import Url, is_url

if TYPE_CHECKING:
    from zarr.abc.store import Store

MAKE_ROOM = "make room, or use another -o"
COPIES = 16
"""Objects of a bucket that are copied at the same time."""
Location = Path | Url
Named = str | os.PathLike[str] | Url
"""What a user names a file or folder by."""


def locate(text: Named) -> Location:
    """Where ``text`` is: a path, also that of a ``file://``, or a URL.

    Raises
    ------
    UsageError
        If it is a URL of a kind that can not be read.
    """
    if isinstance(text, Url) or not is_url(text):
        return text if isinstance(text, Url) else Path(text)
    return Path(unquote(urlsplit(str(text)).path)) if str(text).startswith("file://") else Url(str(text))


def absolute(text: Named) -> Location:
    """As `locate`, a path from the root and without ``..``, so that a file has one name; links are left alone."""
    here = locate(text)
    return here if isinstance(here, Url) else Path(os.path.abspath(here))  # noqa: PTH100 - Path.absolute keeps ".."


def one_name(here: Location) -> str:
    """What all names of one file have in common: the path without links, or the URL."""
    return str(here) if isinstance(here, Url) else os.path.realpath(here)


def write_whole(path: Location, blob: bytes, *, kind: str = "", way_out: str = MAKE_ROOM, shared: bool = False) -> None:
    """Write ``blob`` to ``path``, by rename.

    Parameters
    ----------
    path
        Where to; what is there is replaced.
    blob
        All of it.
    kind
        What the message calls the file, before its path.
    way_out
        What the message says to do.
    shared
        Whether several processes may write it at the same time; what a kill leaves is then not replaced by the next.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    try:
        if isinstance(path, Url):
            path.write_bytes(blob)
            return
        partial = path.with_name(path.name + (f".{secrets.token_hex(4)}" if shared else "") + ".partial")
        try:
            partial.write_bytes(blob)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except OSError as err:
        raise OutputError(f"{kind}{path} can not be written: {err.strerror or err}; {way_out}") from err


def make_folder(path: Location, *, way_out: str = MAKE_ROOM) -> None:
    """Make the folder ``path``, and those above it, unless it is there; behind a URL there is nothing to make.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    if isinstance(path, Url):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{path} can not be made: {err.strerror or err}; {way_out}") from err


def files_in(folder: Location) -> Iterator[tuple[str, int]]:
    """Relative name, with slashes, and size in bytes of each file in ``folder`` and in the folders within.

    Raises
    ------
    OSError
        If that can not be told, as of a web server.
    """
    if isinstance(folder, Url):
        yield from folder.files()
        return
    for file in folder.rglob("*"):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file.stat().st_size


def remove_folder(folder: Location, *, root: str) -> None:
    """Remove ``folder`` and all that is in it; on a disk its file ``root`` last, in a bucket first.

    On a disk, what a kill leaves is then known by it. In a bucket it is what readers look for, and must not outlast
    the rest.

    Raises
    ------
    OSError
        If it can not be removed.
    """
    if isinstance(folder, Url):
        names = [name for name, _ in folder.files()]
        folder.remove([name for name in names if name == root])
        folder.remove([name for name in names if name != root])
        return
    for entry in folder.glob("*/"):
        shutil.rmtree(entry)
    if folder.exists():
        shutil.rmtree(folder)


def move_folder(folder: Location, to: Location, *, root: str) -> None:
    """Give ``folder`` the name ``to``, which is free; in a bucket its files are copied, ``root`` after the rest.

    Killed there half-way, ``folder`` is still whole, or ``to`` is.

    Raises
    ------
    OSError
        If it can not be moved.
    """
    if not isinstance(folder, Url) or not isinstance(to, Url):
        assert isinstance(folder, Path)
        assert isinstance(to, Path)
        folder.rename(to)
        return
    names = [name for name, _ in folder.files() if name != root]
    with ThreadPoolExecutor(COPIES) as copying:
        list(copying.map(lambda name: folder.copy(name, to), names))
    folder.copy(root, to)
    remove_folder(folder, root=root)


def zarr_store(folder: Location) -> Store:
    """What is in ``folder`` as zarr reads it; nothing is written through it."""
    from zarr.storage import LocalStore, ObjectStore

    if isinstance(folder, Url):
        return ObjectStore(folder.store, read_only=True)
    return LocalStore(folder, read_only=True)
