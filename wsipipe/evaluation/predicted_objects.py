"""What an object of the predictions is: a row of the tables in their stores, or what their pixels say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from wsipipe.errors import UsageError
from wsipipe.evaluation.sources import PredictionsAre
from wsipipe.store.spec import OBJECTS_TABLE

if TYPE_CHECKING:
    from wsipipe.objects.read import ObjectTable


@dataclass(frozen=True)
class PredictedObjects:
    """Where the objects of predictions come from, and by which rule they were made."""

    source: Literal["table", "components", "instances"]
    """The tables in the stores; the connected components of the classes; or the values of the pixels."""
    connectivity: int | None = None
    """Whether pixels that touch at a corner belong together (8) or not (4); None for instances."""
    split: bool = False
    """Whether objects were parted where they are narrow."""
    min_area_um2: float = 0.0
    """Area below which objects were left out, in square micrometres (in pixels where their size is unknown)."""

    def __str__(self) -> str:
        if self.source == "instances":
            return "instances"
        rule = f"{self.connectivity}-connected"
        if self.source == "components":
            return f"connected components of any size, {rule}"
        parted = ", parted where they are narrow" if self.split else ""
        return f"those in the tables of the stores, of {self.min_area_um2:g} um2 or more, {rule}{parted}"


COMPONENTS, INSTANCES = PredictedObjects("components", 4), PredictedObjects("instances")


class FoundObjects(NamedTuple):
    """What `find_objects` found."""

    rule: PredictedObjects
    """What an object is."""
    tables: Sequence[ObjectTable] = ()
    """The tables that have them, one for each prediction; empty if the pixels have them."""


def find_objects(predictions: Sequence[Path], predictions_are: PredictionsAre | None) -> FoundObjects:
    """The objects of predictions: those of the tables in their stores, or what their pixels say.

    Parameters
    ----------
    predictions
        The rasters.
    predictions_are
        What they are; None for the objects of the tables where stores have them, otherwise classes.

    Raises
    ------
    UsageError
        If only some have a table, or their tables were made by different rules.
    StoreError
        If a table was asked for, and there is none.
    DamagedStoreError
        If a table cannot be read.
    """
    if predictions_are == "instances":
        return FoundObjects(INSTANCES)
    if predictions_are == "classes":
        return FoundObjects(COMPONENTS)
    without = [path for path in predictions if not (path / OBJECTS_TABLE).exists()]
    if predictions_are is None and len(without) == len(predictions):
        return FoundObjects(COMPONENTS)
    from wsipipe.objects.read import open_objects

    if predictions_are is None and without:
        one = next(path for path in predictions if path not in without)
        raise UsageError(
            f"{one} has a table of objects, and {without[0]} has none; make it (wsipipe objects), or score connected "
            "components (--predictions-are classes)"
        )
    tables = [open_objects(path) for path in predictions]
    rules = [
        PredictedObjects("table", one.connectivity, one.split, one.min_area_um2)
        for one in (table.description for table in tables)
    ]
    for rule, path in zip(rules, predictions, strict=True):
        if rule != rules[0]:
            raise UsageError(
                f"objects are {rules[0]} in {predictions[0]}, but {rule} in {path}; make them alike (wsipipe objects), "
                "or score connected components (--predictions-are classes)"
            )
    return FoundObjects(rules[0], tables)
