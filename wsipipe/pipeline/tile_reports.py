"""Reports of tiles that are predicted within blocks under way, from the workers to the process of the run.

A block takes seconds on a GPU and minutes on a CPU, and its task returns only at its end. So each task says in between
how far it is, by an event of dask's, which may get lost: only progress bars need it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from threading import Lock
from typing import Any

from distributed import Client, get_worker

from wsipipe.events import TilesDone

TOPIC = "wsipipe-tiles"
LEAST_SECONDS = 0.25
"""Least time between two reports of a block."""


class TileReporter:
    """Says how much of block ``index`` of ``slide`` is predicted; made in its task, and called by any thread.

    It is called with the pixels of each tile.
    """

    def __init__(self, slide: str, index: tuple[int, int]) -> None:
        self._worker, self._lock = get_worker(), Lock()
        self._slide, self._index = os.fsencode(slide), index  # a name that is not Unicode cannot be sent as text
        self._computed, self._next = 0, time.monotonic() + LEAST_SECONDS

    def __call__(self, computed: int) -> None:
        """Add ``computed`` pixels."""
        with self._lock:
            self._computed += computed
            if time.monotonic() >= self._next:
                self._worker.log_event(TOPIC, [self._slide, *self._index, self._computed])
                self._next = time.monotonic() + LEAST_SECONDS


class TileReports:
    """The reports that reach ``client``, whose thread receives them; they wait until somebody takes them."""

    def __init__(self, client: Client) -> None:
        self._arrived: deque[tuple[float, Any]] = deque()
        client.subscribe_topic(TOPIC, self._arrived.append)

    def take(self) -> Iterator[TilesDone]:
        """Those that arrived since the last call."""
        while self._arrived:
            _, (slide, row, col, computed) = self._arrived.popleft()
            yield TilesDone(os.fsdecode(slide), (row, col), computed)
