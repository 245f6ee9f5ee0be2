"""The levels that this process has open: the one cache of `wsipipe.slides`.

An array that falls out of the cache stays usable for whoever holds it; its file is closed with the
last reference to it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from wsipipe.errors import SlideError, SlideReadError

if TYPE_CHECKING:
    import zarr

    from wsipipe.slides.slide import Level

MAX_OPEN = 32
"""Levels kept open per process; far below the 256 open files that macOS allows."""

_lock = threading.Lock()
_arrays: OrderedDict[Hashable, zarr.Array[Any]] = OrderedDict()


def opened_array(level: Level) -> zarr.Array[Any]:
    """The array of ``level``, opened at the first call in this process."""
    key = (level.path, level.identity, level.index, level.reader, level.planes)
    with _lock:
        if key in _arrays:
            _arrays.move_to_end(key)
            return _arrays[key]
    # Opened outside the lock, so that a slow file server stops nobody who reads another slide. Two
    # threads may both open it; the array that comes second is dropped, and its file closed.
    array = _open(level)
    with _lock:
        array = _arrays.setdefault(key, array)
        while len(_arrays) > MAX_OPEN:
            _arrays.popitem(last=False)
    return array


def close_all() -> None:
    """Forget every open level; a file is closed when nobody holds its array any more."""
    with _lock:
        _arrays.clear()


def _open(level: Level) -> zarr.Array[Any]:
    """Open ``level`` with the reader that it names."""
    from wsipipe.slides.readers.registry import named

    (reader,) = named(level.reader)
    try:
        return reader.open_array(level)
    except SlideError:
        raise
    except FileNotFoundError as err:
        raise SlideReadError(f"{level.name} is gone: there is no {level.path} any more") from err
    except Exception as err:  # whatever zarr or the file system raises
        raise SlideReadError(f"{level.name} can not be opened: {type(err).__name__}: {err}") from err
