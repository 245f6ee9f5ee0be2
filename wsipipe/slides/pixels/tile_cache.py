"""Decoded tiles that stay in memory for neighbouring reads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Tile = npt.NDArray[Any] | None
"""Decoded pixels, or None for a tile that the file left out."""


@dataclass(frozen=True)
class Keep:
    """Which decoded tiles stay in memory: the latest that the reads to the left and right need too, as many as fit.

    Of two neighbours that are read at once, either may be the first to need a tile that they share.
    """

    overlap_px: int
    """Pixels by which those reads overlap this one."""
    most_bytes: int
    """Limit of all kept tiles together."""


NONE_KEPT = Keep(0, 0)
"""No tile is kept."""


class KeptTiles:
    """Decoded tiles of all slides; each is decoded by the first thread that asks, and the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiles: OrderedDict[Hashable, tuple[Future[Tile], int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, decode: Callable[[], Tile], *, size: int, most: int) -> Tile:
        """Tile ``key``, (...) in the dtype of its file: one that was kept, or what ``decode`` gives.

        Parameters
        ----------
        key
            Which tile of which file.
        decode
            Decodes the tile; an error of it is raised here, and nothing is kept.
        size
            Bytes of the tile.
        most
            Bytes that all kept tiles may take, with this one; 0 if it is not needed again.
        """
        with self._lock:
            kept = self._tiles.get(key)
            if kept is None and size <= most:
                mine: Future[Tile] = Future()
                self._tiles[key] = mine, size
                self._bytes += size
                while self._bytes > most:
                    self._bytes -= self._tiles.popitem(last=False)[1][1]
        if kept is not None:
            return kept[0].result()
        if size > most:
            return decode()
        try:
            mine.set_result(decode())
        except BaseException as err:
            self._forget(key)
            mine.set_exception(err)
        return mine.result()

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            self._bytes -= self._tiles.pop(key, (None, 0))[1]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tiles

    def __len__(self) -> int:
        return len(self._tiles)


KEPT = KeptTiles()
"""The process-wide cache; tiles of an earlier slide are evicted by those of the next."""
