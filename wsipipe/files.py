"""Files and folders, on a disk or behind a URL; what is written appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from wsipipe.errors import OutputError, WsipipeError
from wsipipe.urls import Url, is_url

if TYPE_CHECKING:
    from zarr.abc.store import Store

MAKE_ROOM = "make room, or use another -o"
"""What messages say to do about a disk that is full."""
RESUMES = "once it can, the same command resumes"
"""What messages say to do about a disk that fails while a store is written."""
COPIES = 16
"""Objects of a bucket that are copied at the same time."""
NAME_BYTES = 255
"""The longest name of a file, in bytes, where a file system does not say its own limit."""
OF_AN_ENTRY = {
    errno.EACCES,
    errno.EBUSY,
    errno.EEXIST,
    errno.EILSEQ,  # a name that is not UTF-8, where names must be
    errno.EINVAL,  # a name with a colon, on a disk of Windows
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
}
"""Errors that can be about one name in a folder alone. All others, such as those of a full disk, are the folder's."""
Location = Path | Url
Named = str | os.PathLike[str] | Url
"""A file or folder, as a user names it."""


def locate(text: Named) -> Location:
    """The path or URL that ``text`` names; a ``file://`` URL becomes a path.

    Raises
    ------
    UsageError
        If it is a URL of an unsupported kind.
    """
    if isinstance(text, Url) or not is_url(text):
        return text if isinstance(text, Url) else Path(text)
    return Path(unquote(urlsplit(str(text)).path)) if str(text).startswith("file://") else Url(str(text))


def absolute(text: Named) -> Location:
    """Like `locate`, but a path is absolute and without ``..``, so that a file has one name; links are kept."""
    here = locate(text)
    return here if isinstance(here, Url) else Path(os.path.abspath(here))  # noqa: PTH100 - Path.absolute keeps ".."


def one_name(here: Location) -> str:
    """The canonical name of a file: the path with its links resolved, or the URL."""
    return str(here) if isinstance(here, Url) else os.path.realpath(here)


def name_limit(folder: Location) -> int:
    """The longest name, in bytes, that the file system of ``folder`` takes, whether or not ``folder`` exists yet."""
    if isinstance(folder, Url):
        return NAME_BYTES
    there = next(parent for parent in (folder.absolute() / "_").parents if os.path.lexists(parent))
    try:
        limit = os.pathconf(there, "PC_NAME_MAX")
    except (OSError, ValueError):
        return NAME_BYTES
    return limit if limit > 0 else NAME_BYTES


def fitted_name(name: str, end: str, limit: int) -> str:
    """``name`` and ``end``, in at most ``limit`` bytes: a name that is too long ends in a hash of all of it instead."""
    if len(os.fsencode(name + end)) <= limit:
        return name + end
    end = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}{end}"
    while name and len(os.fsencode(name + end)) > limit:
        name = name[:-1]
    return name + end


def takes_files(folder: Location) -> bool:
    """Whether a file can be made in ``folder``, which is then removed."""
    token = folder / f".seen-{secrets.token_hex(4)}"
    try:
        token.write_bytes(b"")
        token.unlink()
    except OSError:
        return False
    return True


def write_whole(path: Location, blob: bytes, *, kind: str = "", way_out: str = MAKE_ROOM, shared: bool = False) -> None:
    """Write ``blob`` to ``path``, by rename.

    Parameters
    ----------
    path
        The target; an existing file is replaced.
    blob
        The whole content.
    kind
        Text before the path in messages, such as ``"model "``.
    way_out
        What messages tell the user to do.
    shared
        Whether several processes may write it at the same time; a partial file that a killed one leaves is then not
        replaced by the next write.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    with _as_output_error(path, kind, way_out):
        if isinstance(path, Url):
            path.write_bytes(blob)
            return
        with _renamed(path, shared=shared) as partial:
            partial.write_bytes(blob)


@contextmanager
def appearing(path: Path, *, kind: str = "", way_out: str = MAKE_ROOM, shared: bool = False) -> Iterator[Path]:
    """The partial file to write in place of ``path``, which it becomes at the end of the context; options as above.

    It may be a folder as well, which replaces nothing but an empty one.

    Raises
    ------
    OutputError
        If the file cannot be written; then, as after any other error, ``path`` is as before.
    """
    with _as_output_error(path, kind, way_out), _renamed(path, shared=shared) as partial:
        yield partial


@contextmanager
def _renamed(path: Path, *, shared: bool) -> Iterator[Path]:
    """The partial file or folder that becomes ``path`` at the end, or is removed after an error."""
    token = f".{secrets.token_hex(4)}" if shared else ""
    partial = path.with_name(fitted_name(path.name, f"{token}.partial", name_limit(path.parent)))
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            remove_entry(partial)
        raise


@contextmanager
def _as_output_error(path: Location, kind: str, way_out: str) -> Iterator[None]:
    """A context whose errors of the operating system become an OutputError about ``path``."""
    try:
        yield
    except WsipipeError:
        raise
    except OSError as err:
        raise OutputError(f"{kind}{path} cannot be written: {err.strerror or err}; {way_out}") from err


def make_folder(path: Location, *, way_out: str = MAKE_ROOM, within: Location | None = None) -> None:
    """Make the folder ``path`` and its parents, unless they exist; behind a URL there is nothing to make.

    ``within`` is the parent that must exist: where another process has moved it away, it is not made anew.

    Raises
    ------
    OutputError
        If the folder cannot be created.
    """
    if isinstance(path, Url):
        return
    try:
        if isinstance(within, Path):
            _make_within(path, within)
        else:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{path} cannot be created: {err.strerror or err}; {way_out}") from err


def _make_within(path: Path, root: Path) -> None:
    """Make ``path`` and its parents as far as ``root``."""
    if path == root:
        root.stat()
        return
    try:
        path.mkdir(exist_ok=True)
    except FileNotFoundError:
        _make_within(path.parent, root)
        path.mkdir(exist_ok=True)


def files_in(folder: Location) -> Iterator[tuple[str, int]]:
    """(relative name with slashes, size in bytes) of each file in ``folder`` and in the folders within it.

    Raises
    ------
    OSError
        If they cannot be listed, as on a web server.
    """
    if isinstance(folder, Url):
        yield from folder.files()
        return
    for file in folder.rglob("*"):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file.stat().st_size


def remove_folder(folder: Location, *, root: str) -> None:
    """Remove ``folder`` with its content; on a disk its file ``root`` goes last, in a bucket first.

    On a disk, ``root`` identifies what a kill leaves behind. In a bucket, readers look for ``root``, so it must not
    outlast the rest.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    if isinstance(folder, Url):
        names = [name for name, _ in folder.files()]
        folder.remove([name for name in names if name == root])
        folder.remove([name for name in names if name != root])
        return
    if not folder.is_symlink():
        for entry in folder.glob("*/"):
            remove_entry(entry)
    remove_entry(folder)


def remove_entry(path: Path) -> None:
    """Remove ``path``, a folder with its content or a file, if it exists; of a link only the link.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_matching(folder: Path, *patterns: str, but: Path | None = None) -> None:
    """Remove the entries of ``folder`` that match a pattern, ``but`` one, and the folder if nothing is left in it.

    Raises
    ------
    OutputError
        If one cannot be removed.
    """
    try:
        for entry in [entry for pattern in patterns for entry in folder.glob(pattern)]:
            if entry != but:
                remove_entry(entry)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as err:
        raise OutputError(f"{folder} cannot be cleaned up: {err.strerror or err}; remove the folders in it") from err


def move_folder(folder: Location, to: Location, *, root: str) -> None:
    """Rename ``folder`` to ``to``, which must not exist; in a bucket its files are copied, ``root`` last.

    If that is killed half-way, ``folder`` or ``to`` is whole.

    Raises
    ------
    OSError
        If it cannot be moved.
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
    """The content of ``folder`` as a read-only zarr store."""
    from zarr.storage import LocalStore, ObjectStore

    if isinstance(folder, Url):
        return ObjectStore(folder.store, read_only=True)
    return LocalStore(folder, read_only=True)
