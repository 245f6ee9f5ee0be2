"""Files that appear whole or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path

from wsipipe.errors import OutputError

MAKE_ROOM = "make room, or use another -o"


def write_whole(path: Path, blob: bytes, *, kind: str = "", way_out: str = MAKE_ROOM, shared: bool = False) -> None:
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
    partial = path.with_name(path.name + (f".{secrets.token_hex(4)}" if shared else "") + ".partial")
    try:
        partial.write_bytes(blob)
        partial.replace(path)
    except OSError as err:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{kind}{path} can not be written: {err.strerror or err}; {way_out}") from err


def make_folder(path: Path) -> None:
    """Make the folder ``path``, and those above it, unless it is there.

    Raises
    ------
    OutputError
        If the disk does not take it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"{path} can not be made: {err.strerror or err}; {MAKE_ROOM}") from err
