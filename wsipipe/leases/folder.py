"""The folder of a lease: its files, read and removed.

On a file system the lease of a store is a folder, see `wsipipe.leases.lease`.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from wsipipe.errors import OutputError
from wsipipe.files import MAKE_ROOM

GONE = {errno.ENOENT, errno.ESTALE}
"""Errors of a file that does not exist. NFS answers ESTALE if another machine removed it."""
NOT_FREE = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
"""Errors of a rename onto a name that is taken."""
LARGEST_BYTES = 4096
"""Bytes read of a file, which anybody may have written; a lease has about 250."""


def file_name(token: str) -> str:
    """Name of the holder's own file in the folder of a lease."""
    return f"{token}.json"


def look_at(path: Path) -> dict[Path, bytes]:
    """The files in the lease at ``path``, and their content: none if it is free, ``path`` itself if that is a file.

    Raises
    ------
    OutputError
        If the folder cannot be read.
    """
    try:
        files = list(path.iterdir())
    except NotADirectoryError:
        files = [path]
    except OSError as err:
        if err.errno in GONE:
            return {}
        raise OutputError(f"{path} cannot be read: {err.strerror or err}; {MAKE_ROOM}") from err
    return {file: content for file in files if (content := read_file(file)) is not None}


def read_file(file: Path) -> bytes | None:
    """The first `LARGEST_BYTES` of ``file``; None if it does not exist, empty if it is a folder.

    The file is opened, not only looked up: only then does NFS ask its server.

    Raises
    ------
    OutputError
        If it cannot be read.
    """
    try:
        with file.open("rb", buffering=0) as opened:
            return opened.read(LARGEST_BYTES)
    except IsADirectoryError:
        return b""
    except OSError as err:
        if err.errno in GONE:
            return None
        raise OutputError(f"{file} cannot be read: {err.strerror or err}; {MAKE_ROOM}") from err


def evict(path: Path, file: Path) -> None:
    """Remove ``file``, which a dead holder left in the lease at ``path``.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    try:
        file.unlink()
    except OSError as err:
        replaced = file == path and path.is_dir()  # a foreign file, evicted by another process that has claimed since
        if err.errno not in GONE and not replaced:
            raise OutputError(
                f"{file}, left by a dead process, cannot be removed: {err.strerror or err}; "
                "remove it, or use another -o"
            ) from err


def discard(folder: Path, token: str) -> None:
    """Remove the file of ``token`` from ``folder``, and the folder if that leaves it empty."""
    with suppress(OSError):
        (folder / file_name(token)).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
