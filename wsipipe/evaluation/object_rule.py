"""What an object is, on either side: a row of the tables in stores, or what the pixels say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from wsipipe.errors import UsageError
from wsipipe.model.min_areas import min_area_of_older
from wsipipe.store.finished import is_store, open_finished
from wsipipe.store.spec import OBJECTS_TABLE

if TYPE_CHECKING:
    from wsipipe.objects.read import ObjectTable


ValuesAre = Literal["objects", "classes", "instances"]
"""Meaning of the values of rasters that may be stores: ``objects`` are classes, whose objects the table in the store
has."""


@dataclass(frozen=True)
class ObjectRule:
    """Where objects come from, and by which rule they were made."""

    source: Literal["table", "components", "instances"]
    """The tables in the stores; the connected components of the classes; or the values of the pixels."""
    connectivity: int | None = None
    """Whether pixels that touch at a corner belong together (8) or not (4); None for instances."""
    split: bool = False
    """Whether objects were parted where they are narrow."""
    min_area_um2: float = 0.0
    """Area below which objects were left out, in square micrometres (in pixels where their size is unknown)."""

    def __str__(self) -> str:
        size = f"{self.min_area_um2:g} um2 or more" if self.min_area_um2 else "any size"
        if self.source == "instances":
            return f"instances of {size}"
        rule = f"{self.connectivity}-connected"
        if self.source == "components":
            return f"connected components of {size}, {rule}"
        parted = ", parted where they are narrow" if self.split else ""
        return f"those in the tables of the stores, of {size}, {rule}{parted}"

    def least_px(self, mpp: float | None) -> float:
        """The area in pixels of ``mpp`` micrometres, None if unknown, below which objects are still to be left out."""
        return 0.0 if self.source == "table" else self.min_area_um2 / (mpp or 1.0) ** 2


class FoundObjects(NamedTuple):
    """What `find_objects` found."""

    rule: ObjectRule
    """What an object is."""
    tables: Sequence[ObjectTable] = ()
    """The tables that have them, one for each file; empty if the pixels have them."""


def find_objects(files: Sequence[Path], are: ValuesAre | None, *, min_area_um2: float | None = None) -> FoundObjects:
    """The objects of predictions, or of labels: those of the tables in their stores, or what their pixels say.

    Connected components are left out where they are smaller than the model's objects, which stores know; other files
    have components of any size.

    Parameters
    ----------
    files
        The rasters.
    are
        What they are; None for the objects of the tables where stores have them, otherwise classes.
    min_area_um2
        Area of the smallest component or instance, instead of the model's; in pixels where their size is unknown.

    Raises
    ------
    UsageError
        If only some have a table, or their objects are made by different rules.
    StoreError
        If a table was asked for, and there is none.
    DamagedStoreError
        If a table cannot be read.
    """
    if are == "instances":
        return FoundObjects(ObjectRule("instances", min_area_um2=min_area_um2 or 0.0))
    without = [path for path in files if not (path / OBJECTS_TABLE).exists()]
    if are == "classes" or (are is None and len(without) == len(files)):
        return FoundObjects(_components(files, min_area_um2))
    if min_area_um2 is not None:
        raise UsageError(
            "--min-area is for components and instances, and the tables of the stores have the objects; make these "
            "with another (wsipipe objects --min-area), or score components (--predictions-are classes)"
        )
    from wsipipe.objects.read import open_objects

    if are is None and without:
        one = next(path for path in files if path not in without)
        raise UsageError(
            f"{one} has a table of objects, and {without[0]} has none; make it (wsipipe objects), or score connected "
            "components (--predictions-are classes)"
        )
    tables = [open_objects(path) for path in files]
    rules = [
        ObjectRule("table", one.connectivity, one.split, one.min_area_um2)
        for one in (table.description for table in tables)
    ]
    for rule, path in zip(rules, files, strict=True):
        if rule != rules[0]:
            raise UsageError(
                f"objects are {rules[0]} in {files[0]}, but {rule} in {path}; make them alike (wsipipe objects), "
                "or score connected components (--predictions-are classes)"
            )
    return FoundObjects(rules[0], tables)


def _components(files: Sequence[Path], min_area_um2: float | None) -> ObjectRule:
    """Connected components, without those smaller than the objects of the model that made the stores."""
    if min_area_um2 is not None:
        return ObjectRule("components", 4, min_area_um2=min_area_um2)
    least = [_least_um2(path) for path in files]
    for area, path in zip(least, files, strict=True):
        if area != least[0]:
            raise UsageError(
                f"the smallest objects have {least[0]:g} um2 in {files[0]}, but {area:g} um2 in {path}, by their "
                "models; give one area for all (--min-area)"
            )
    return ObjectRule("components", 4, min_area_um2=least[0])


def _least_um2(path: Path) -> float:
    """The smallest object of the model that made the store at ``path``; 0 if it is none, or does not say."""
    if not is_store(path):
        return 0.0
    store = open_finished(path)
    return min_area_of_older(store.model_sha256) if store.min_area_um2 is None else store.min_area_um2
