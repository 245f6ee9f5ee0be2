"""Counts of the objects in a table, class by class."""

from __future__ import annotations

from collections import Counter

from wsipipe.events import ClassCount
from wsipipe.objects.areas import Areas
from wsipipe.objects.read import ObjectTable


def count_classes(table: ObjectTable, searched_pixels: float) -> tuple[ClassCount, ...]:
    """Counts of each class of ``table``, in the order of their labels, in memory that does not grow with the table.

    Parameters
    ----------
    table
        The objects.
    searched_pixels
        Pixels of the labels where there was a search for objects, such as those of tissue.

    Raises
    ------
    DamagedStoreError
        If the table cannot be read.
    """
    names = [one.name for one in sorted(table.description.classes, key=lambda one: one.label)]
    found = {name: Counter[int]() for name in names}
    for part in table.parts(columns=["class", "pixels"]):
        for row in part.group_by(["class", "pixels"]).aggregate([([], "count_all")]).to_pylist():
            found[row["class"]][row["pixels"]] += row["count_all"]
    areas = {name: Areas(tuple(sorted(counts.items()))) for name, counts in found.items()}
    return tuple(_count(name, areas[name], searched_pixels, table.description.mpp) for name in names)


def _count(name: str, areas: Areas, searched_pixels: float, mpp: float | None) -> ClassCount:
    searched_mm2 = None if mpp is None else searched_pixels * mpp * mpp / 1e6
    return ClassCount(
        name,
        areas.objects,
        areas.objects / searched_mm2 if searched_mm2 else None,
        areas.pixels / searched_pixels if searched_pixels else None,
        areas.median,
        None if mpp is None or areas.median is None else areas.median * mpp * mpp,
        areas.histogram,
    )
