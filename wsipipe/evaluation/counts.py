"""The two counts from which every metric but the warping error is computed.

`Confusion` counts pixels by class, `Overlap` counts pixels by object. Both add up over the blocks of one image.

An object is numbered by its instance's id and its class, ``id << 8 | class``, so that equal ids of different
classes are different objects, and 0 is no object.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wsipipe.arrays import Mask
from wsipipe.objects.numbers import Counts, Integers, class_of


@dataclass(frozen=True, eq=False)
class Confusion:
    """Number of pixels of each class that were predicted as each class."""

    pixels: Counts
    """(1 + classes, 1 + classes), int64: ``pixels[truth, predicted]``; 0 is the background."""

    @classmethod
    def of(cls, predicted: Integers, truth: Integers, classes: int) -> Confusion:
        """Count two arrays of class ids, 0 to ``classes``, integers of the same shape (...)."""
        width = classes + 1
        cells = truth.ravel().astype(np.intp) * width + predicted.ravel()
        return cls(np.bincount(cells, minlength=width**2).reshape(width, width).astype(np.int64))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.pixels + other.pixels)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The objects of an overlap table, and which of them share pixels.

    Objects are identified by their index in ``truth_area`` and ``predicted_area``, in the order of their numbers.
    """

    truth: Counts
    """(pairs,): index of the truth object."""
    predicted: Counts
    """(pairs,): index of the predicted object."""
    shared: Counts
    """(pairs,): pixels that the two share, at least 1."""
    truth_area: Counts
    """(truth objects,): pixels of each."""
    predicted_area: Counts
    """(predicted objects,): pixels of each."""

    @property
    def union(self) -> Counts:
        """(pairs,), int64: pixels that are in either of the two."""
        return self.truth_area[self.truth] + self.predicted_area[self.predicted] - self.shared

    @property
    def partners(self) -> Mask:
        """(pairs,), bool: whether their intersection over union is above 0.5, so that neither has another partner."""
        return 2 * self.shared > self.union


@dataclass(frozen=True, eq=False)
class Overlap:
    """Number of pixels that each truth object shares with each predicted object: a sparse contingency table.

    Each pair occurs once, in ascending order. Number 0 stands for no object, and has its rows too.
    """

    truth: Counts
    """(rows,), int64: number of the truth object."""
    predicted: Counts
    """(rows,), int64: number of the predicted object."""
    pixels: Counts
    """(rows,), int64: pixels that are in both, at least 1."""

    @classmethod
    def of(cls, predicted: Integers, truth: Integers) -> Overlap:
        """Count two arrays of object numbers, integers of the same shape (...)."""
        p, t = predicted.ravel(), truth.ravel()
        # Neighbours mostly agree, so that runs of pixels, not pixels, are sorted.
        starts = np.flatnonzero((t[1:] != t[:-1]) | (p[1:] != p[:-1])) + 1
        starts = np.concatenate([[0], starts]) if t.size else starts
        return _grouped(t[starts], p[starts], np.diff(starts, append=t.size))

    @classmethod
    def total(cls, parts: Iterable[Overlap]) -> Overlap:
        """The sum of tables of one image."""
        tables = [(part.truth, part.predicted, part.pixels) for part in parts]
        if not tables:
            return cls.of(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return _grouped(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap.total([self, other])

    def renamed(self, *, predicted: Counts, truth: Counts) -> Overlap:
        """The table with new object numbers, (rows,), int64, row by row; rows that become the same pair are added."""
        return _grouped(truth, predicted, self.pixels)

    def without_small(self, *, predicted_px: float, truth_px: float) -> Overlap:
        """The table without objects of fewer pixels than these; theirs become those of no object."""
        if predicted_px <= 1 and truth_px <= 1:
            return self
        sides = []
        for objects, least in ((self.predicted, predicted_px), (self.truth, truth_px)):
            found, area = areas(objects, self.pixels)
            sides.append(np.where(np.isin(objects, found[area < least]), 0, objects))
        return self.renamed(predicted=sides[0], truth=sides[1])

    def of_class(self, class_id: int) -> Overlap:
        """The table of the objects of one class; those of other classes become 0, no object."""
        truth = np.where(class_of(self.truth) == class_id, self.truth, 0)
        predicted = np.where(class_of(self.predicted) == class_id, self.predicted, 0)
        return self.renamed(predicted=predicted, truth=truth)

    @cached_property
    def pairs(self) -> Pairs:
        """Areas of the objects, and the pairs of them that share pixels."""
        truth, truth_area = areas(self.truth, self.pixels)
        predicted, predicted_area = areas(self.predicted, self.pixels)
        both = (self.truth > 0) & (self.predicted > 0)
        return Pairs(
            np.searchsorted(truth, self.truth[both]),
            np.searchsorted(predicted, self.predicted[both]),
            self.pixels[both],
            truth_area,
            predicted_area,
        )


def areas(objects: Counts, pixels: Counts, *, least: int = 1) -> tuple[Counts, Counts]:
    """The objects numbered ``least`` or more, ascending, and the sum of ``pixels`` over the rows of each.

    All arrays are int64: ``objects`` and ``pixels`` are (rows,), and the two results are (found,).
    """
    kept = objects >= least
    found, index = np.unique(objects[kept], return_inverse=True)
    total = np.zeros(len(found), np.int64)
    np.add.at(total, index, pixels[kept])
    return found, total


def _grouped(truth: Integers, predicted: Integers, pixels: Counts) -> Overlap:
    """The table of these rows, each pair once."""
    truth, predicted, pixels = (column.astype(np.int64) for column in (truth, predicted, pixels))
    order = np.lexsort((predicted, truth))
    truth, predicted, pixels = truth[order], predicted[order], pixels[order]
    if not truth.size:
        return Overlap(truth, predicted, pixels)
    new = np.flatnonzero((truth[1:] != truth[:-1]) | (predicted[1:] != predicted[:-1])) + 1
    starts = np.concatenate([[0], new])
    return Overlap(truth[starts], predicted[starts], np.add.reduceat(pixels, starts))
