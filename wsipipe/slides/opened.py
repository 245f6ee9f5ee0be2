"""Whatever this process has open, by source: levels of slides here, images and labels in `wsipipe.rasters.opened`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import zarr

MAX_OPEN = 32
"""Levels kept open per process; far below the 256 open files that macOS allows."""

Opened_co = TypeVar("Opened_co", covariant=True)


class Source(Protocol[Opened_co]):
    """Where pixels are, as a value that can be hashed and pickled; equal sources hold equal pixels."""

    def open(self) -> Opened_co:
        """Open it in this process.

        Raises
        ------
        SlideError
            If it is gone, damaged, or has changed since it was first opened.
        """
        ...


@dataclass(frozen=True)
class AsSeen(Generic[Opened_co]):
    """A source whose files were in ``state``: once they are in another, it is another source, and opened again."""

    source: Source[Opened_co]
    state: str
    """See `wsipipe.slides.identity.files_state`."""

    def open(self) -> Opened_co:
        """See `Source.open`; raises a SlideError as it says there."""
        return self.source.open()


class OpenedSources(Generic[Opened_co]):
    """Sources kept open, up to a limit; the least recently used is forgotten first.

    What is forgotten stays usable for whoever holds it; its file is closed with the last reference to it.

    Parameters
    ----------
    most
        Limit of their total cost; the last one opened is kept whatever it costs.
    cost
        Cost of one of them; by default 1, so that they are counted.
    """

    def __init__(self, most: int, cost: Callable[[Any], int] = lambda _: 1) -> None:
        self.most = most
        self._cost = cost
        self._lock = threading.Lock()
        self._opened: OrderedDict[Source[Any], Any] = OrderedDict()

    def get(self, source: Source[Opened_co]) -> Opened_co:
        """``source``, opened by the first call in this process, and again after it was forgotten.

        Raises
        ------
        SlideError
            As `Source.open`.
        """
        with self._lock:
            if source in self._opened:
                self._opened.move_to_end(source)
                return self._opened[source]  # type: ignore[no-any-return]
        # Opened outside the lock, so that a slow file server stops nobody who reads something else. Two
        # threads may both open it; the second is dropped, and its file closed.
        opened = source.open()
        with self._lock:
            opened = self._opened.setdefault(source, opened)
            while len(self._opened) > 1 and self.cost > self.most:
                self._opened.popitem(last=False)
        return opened

    @property
    def cost(self) -> int:
        """Total cost of the sources that are open."""
        return sum(map(self._cost, self._opened.values()))

    def clear(self) -> None:
        """Forget all of them; a file is closed when nobody holds it any more."""
        with self._lock:
            self._opened.clear()


LEVELS: OpenedSources[zarr.Array[Any]] = OpenedSources(MAX_OPEN)
"""The levels that this process has open."""
