"""What can be looked at: slides, finished stores, and stores that a run is writing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

from wsipipe.errors import OutputError, WsipipeError
from wsipipe.files import Location, Named, absolute
from wsipipe.objects.read import ObjectTable, open_objects
from wsipipe.rasters.region import Region, read_region
from wsipipe.rasters.segmented_slide import open_segmented_slide
from wsipipe.slides.open import open_slide
from wsipipe.store.finished import FinishedStore, is_store, open_finished
from wsipipe.store.spec import PARTIAL, REGION, STORE
from wsipipe.viewer.slide_tiles import SlideTiles
from wsipipe.viewer.tiling import TilePyramid


@dataclass(frozen=True, eq=False)
class Item:
    """A slide, its result, or both."""

    path: str
    """Path of the store, or of the slide where there is no store."""
    slide: SlideTiles | None
    """The slide; None if it cannot be read."""
    store: FinishedStore | None
    """The result; None for a slide alone."""
    warning: str = ""
    """What cannot be shown, and why."""
    serial: int = field(default_factory=count().__next__)
    """Tells it from all others that this process opened."""

    @property
    def name(self) -> str:
        """Its name, for people."""
        return Path(self.path).name

    @cached_property
    def tiling(self) -> TilePyramid:
        """Its tiles: those of the slide, or of the labels if that cannot be read."""
        if self.slide is not None:
            return self.slide.tiling
        assert self.store is not None
        height, width = (round(side * self.store.downsample) for side in self.store.shapes[0])
        return TilePyramid((height, width))

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the slide's finest level; None if unknown."""
        of_store = None if self.store is None else self.store.slide_mpp
        return self.slide.slide.mpp if of_store is None and self.slide is not None else of_store

    @property
    def classes(self) -> list[tuple[str, int, str]]:
        """(name, label, #rrggbb) of each class."""
        return [] if self.store is None else list(self.store.classes)

    @cached_property
    def objects(self) -> ObjectTable | None:
        """Its table of objects; None if it has none."""
        try:
            return None if self.store is None else open_objects(self.store.path)
        except WsipipeError:
            return None

    @cached_property
    def has_tissue(self) -> bool:
        """Whether its store has a tissue mask."""
        return self.store is not None and self.store.tissue() is not None

    @cached_property
    def region(self) -> Region | None:
        """The region that was segmented; None for the whole slide, or if it cannot be read."""
        try:
            document = None if self.store is None else self.store.region()
            if self.store is None or document is None:
                return None
            return read_region(document, REGION, self.store.shapes[0], self.store.downsample)
        except (WsipipeError, OSError):
            return None


def items_in(paths: Iterable[Named]) -> list[Location]:
    """What there is to look at in ``paths``: slides and stores themselves, and in a folder of results all its stores.

    Raises
    ------
    OutputError
        If a folder cannot be listed.
    """
    found: list[Location] = []
    for where in map(absolute, paths):
        if isinstance(where, Path) and where.is_dir() and (stores := _stores(where)) is not None:
            found += stores
        else:
            found.append(where)
    return list(dict.fromkeys(found))


def _stores(folder: Path) -> list[Path] | None:
    """The stores in ``folder``, sorted, also those that a run is writing, unless an older one is in their place.

    None if it is no folder of results. One of a run that has just begun is empty, or has no more than leases.
    """
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as err:
        raise OutputError(f"{folder} cannot be listed: {err.strerror or err}") from err
    finished = {name for name in names if name.endswith(STORE)}
    begun = {name for name in names if name.endswith(STORE + PARTIAL) and name.removesuffix(PARTIAL) not in finished}
    if names and not any(STORE in name for name in names):
        return None
    return sorted(folder / name for name in finished | begun)


def open_item(path: Location) -> Item:
    """The item at ``path``; a result whose slide cannot be read is shown without it.

    Raises
    ------
    SlideError
        If it is neither a store nor a slide.
    """
    if not is_store(path):
        return Item(str(path), SlideTiles(open_slide(path)), None)
    store = open_finished(path)
    try:
        return Item(str(path), SlideTiles(open_segmented_slide(store)), store)
    except WsipipeError as err:
        return Item(str(path), None, store, warning=f"without the slide: {err}")
