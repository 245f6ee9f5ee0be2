"""Areas and centroids of the objects of one image, added up over its blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wsipipe.evaluation.ratios import Floats
from wsipipe.geometry.grid import Box
from wsipipe.objects.numbers import Counts, class_of


@dataclass(frozen=True, eq=False)
class Centroids:
    """Objects, each once, in the order of their numbers, with the sums that their centroids follow from."""

    numbers: Counts
    """(objects,), int64: their numbers, without 0."""
    pixels: Counts
    """(objects,), int64: pixels of each."""
    sums: Counts
    """(objects, 2), int64: sums of the rows and of the columns of these pixels."""

    @classmethod
    def of(cls, numbers: Counts, box: Box) -> Centroids:
        """Those of the pixels of ``box``, whose objects are ``numbers`` (y, x), int64, 0 for none."""
        height, width = numbers.shape
        new = np.ones(numbers.shape, bool)  # runs of equal numbers, not pixels, are sorted
        new[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        starts = np.flatnonzero(new)
        lengths = np.diff(starts, append=height * width)
        found = numbers.ravel()[starts]
        rows, cols = np.divmod(starts[found > 0], width)
        pixels = lengths[found > 0]
        twice = 2 * (box.x0 + cols) + pixels - 1
        return _grouped(found[found > 0], pixels, np.stack([pixels * (box.y0 + rows), pixels * twice // 2], axis=1))

    @classmethod
    def total(cls, parts: Iterable[Centroids]) -> Centroids:
        """The sums of parts of one image."""
        columns = [(part.numbers, part.pixels, part.sums) for part in parts]
        if not columns:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
        return _grouped(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def renamed(self, numbers: Counts) -> Centroids:
        """With new ``numbers`` (objects,), int64, row by row; equal ones are added, 0 is left out."""
        kept = numbers > 0
        return _grouped(numbers[kept], self.pixels[kept], self.sums[kept])

    def without_small(self, least_px: float) -> Centroids:
        """Those of objects of ``least_px`` pixels or more."""
        kept = self.pixels >= least_px
        return Centroids(self.numbers[kept], self.pixels[kept], self.sums[kept])

    def points(self, class_id: int) -> Floats:
        """The centroids (y, x) of the objects of one class, (objects, 2), float64, px; pixel (0, 0) has 0.5, 0.5."""
        of_class = class_of(self.numbers) == class_id
        points: Floats = self.sums[of_class] / self.pixels[of_class, np.newaxis] + 0.5
        return points


def _grouped(numbers: Counts, pixels: Counts, sums: Counts) -> Centroids:
    """Rows as objects, each number once."""
    found, index = np.unique(numbers, return_inverse=True)
    area, total = np.zeros(len(found), np.int64), np.zeros((len(found), 2), np.int64)
    np.add.at(area, index, pixels)
    np.add.at(total, index, sums)
    return Centroids(found, area, total)
