"""Counts of the objects in a table, class by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wsipipe.objects.numbers import Counts
from wsipipe.objects.read import ObjectTable


@dataclass(frozen=True)
class ClassCount:
    """The objects of one class."""

    name: str
    """Name of the class."""
    objects: int
    """Number of objects."""
    per_mm2: float | None
    """Objects per square millimetre of the area that was searched; None if that is unknown, or nothing."""
    area_share: float | None
    """Share of that area that they cover; None if nothing was searched."""
    median_pixels: float | None
    """Median of their areas in pixels of the labels; None without objects."""
    median_um2: float | None
    """The same in square micrometres; None if the size of a pixel is unknown."""


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
    none = np.zeros(0, np.int64)
    found: dict[str, tuple[Counts, Counts]] = dict.fromkeys(names, (none, none))
    for part in table.parts(columns=["class", "pixels"]):
        classes = part["class"].cast(pa.string())
        for name in names:
            areas = part["pixels"].filter(pc.equal(classes, name)).to_numpy()
            found[name] = _merged(found[name], np.unique(areas, return_counts=True))
    return tuple(_count(name, *found[name], searched_pixels, table.description.mpp) for name in names)


def _merged(one: tuple[Counts, Counts], other: tuple[Counts, Counts]) -> tuple[Counts, Counts]:
    """Two histograms as one: values, ascending, and how often each occurs."""
    values, place = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, np.concatenate([one[1], other[1]]))
    return values, counts


def _count(name: str, areas: Counts, counts: Counts, searched_pixels: float, mpp: float | None) -> ClassCount:
    objects = int(counts.sum())
    median = None
    if objects:
        middle = np.searchsorted(np.cumsum(counts), [(objects - 1) // 2, objects // 2], side="right")
        median = float(areas[middle].mean())
    searched_mm2 = None if mpp is None else searched_pixels * mpp * mpp / 1e6
    return ClassCount(
        name,
        objects,
        objects / searched_mm2 if searched_mm2 else None,
        float((areas * counts).sum() / searched_pixels) if searched_pixels else None,
        median,
        None if mpp is None or median is None else median * mpp * mpp,
    )
