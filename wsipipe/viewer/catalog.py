"""Everything that one viewer shows, by number: the only names that a browser can ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zict import LRU

from wsipipe.errors import WsipipeError
from wsipipe.events import ClassCount
from wsipipe.files import Location, Named
from wsipipe.pictures.thumbnail import StoreSummary, summarise
from wsipipe.store.finished import FinishedStore, is_store, open_finished
from wsipipe.store.spec import PARTIAL, ROOT
from wsipipe.viewer.items import Item, items_in, open_item

OPEN_ITEMS = 32
"""Slides and stores that are held open."""


@dataclass(frozen=True)
class CatalogEntry:
    """One line of the page of thumbnails."""

    number: int
    """What the browser calls it."""
    name: str
    """Its file's name."""
    folder: str
    """Where it is."""
    status: str
    """``done``, ``43% done`` for a store that is not finished, ``slide``, or ``failed``."""
    done: float
    """Share of its blocks that are done, 0 to 1."""
    model: str
    """Name of the model."""
    counts: tuple[ClassCount, ...]
    """Its objects, class by class."""
    message: str = ""
    """What is wrong with it."""


class Catalog:
    """Slides and stores, each with the number that it had when it was first seen. For several threads.

    A store keeps its number when it is finished, which gives it another name.
    """

    def __init__(self, paths: Iterable[Named]) -> None:
        self._paths = tuple(paths)
        self._numbers: dict[Location, int] = {}
        self._entries: dict[object, CatalogEntry] = {}
        self._lock = threading.Lock()
        self._open: LRU[Any, Item] = LRU(OPEN_ITEMS, {})
        self.refresh()

    def refresh(self) -> list[int]:
        """Look again for what there is, and return the numbers of it."""
        with self._lock:
            finished = [path.with_name(path.name.removesuffix(PARTIAL)) for path in items_in(self._paths)]
            return [self._numbers.setdefault(path, len(self._numbers)) for path in dict.fromkeys(finished)]

    def path(self, number: int) -> Location:
        """The path of number ``number`` as it is now; raises a LookupError if there is none."""
        with self._lock:
            finished = list(self._numbers)[number]
        partial = finished.with_name(finished.name + PARTIAL)
        begun = isinstance(finished, Path) and not finished.exists() and partial.exists()
        return partial if begun else finished

    def item(self, number: int) -> Item:
        """Item number ``number``, opened anew if its store was finished meanwhile.

        Raises
        ------
        LookupError
            If there is no such number.
        SlideError
            If it cannot be opened.
        """
        path = self.path(number)
        state = _state(path)
        with self._lock:
            held = self._open.get((path, state))
        if held is None:
            held = open_item(path)
            with self._lock:
                self._open[path, state] = held
        return held

    def entries(self) -> list[CatalogEntry]:
        """One for each slide and store that there is now."""
        return [self._entry(number) for number in self.refresh()]

    def _entry(self, number: int) -> CatalogEntry:
        path = self.path(number)
        key = number, _state(path)
        held = self._entries.get(key)
        if held is None:
            held = _entry(number, path)
            if held.done == 1.0:  # of others it is not the root that changes
                self._entries[key] = held
        return held

    def summary(self, number: int) -> StoreSummary:
        """The thumbnail of item ``number``, whose labels are outlined; raises only a LookupError, for the number."""
        path = self.path(number)
        try:
            return summarise(open_finished(path).slide_path, str(path))
        except WsipipeError as err:
            return StoreSummary(notes=(str(err),))


def _state(path: Location) -> object:
    """Something that changes when the item is made anew, or is finished."""
    if not isinstance(path, Path):
        return None
    try:
        found = (root if (root := path / ROOT).is_file() else path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _entry(number: int, path: Location) -> CatalogEntry:
    try:
        if not is_store(path):
            return CatalogEntry(number, path.name, str(path.parent), "slide", 1.0, "", ())
        store = open_finished(path)
        done = 1.0 if store.complete else _share_done(store)
        status = "done" if store.complete else f"{done:.0%} done"
        return CatalogEntry(number, path.name, str(path.parent), status, done, store.model, store.objects or ())
    except (WsipipeError, OSError) as err:
        return CatalogEntry(number, path.name, str(path.parent), "failed", 0.0, "", (), str(err))


def _share_done(store: FinishedStore) -> float:
    """Share of the blocks whose shards are there."""
    height, width = store.shapes[0]
    blocks = -(-height // store.block) * -(-width // store.block)
    shards = Path(store.path) / "0" / "c"
    return sum(1 for row in shards.iterdir() for _ in row.iterdir()) / blocks if shards.is_dir() else 0.0
