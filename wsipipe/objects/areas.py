"""How many objects there are, and how large: what a run says of them in its end line and its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Areas:
    """The areas of the objects of one class."""

    counts: tuple[tuple[int, int], ...]
    """(pixels, number of objects of this area), by area."""

    @property
    def objects(self) -> int:
        """Number of objects."""
        return sum(count for _, count in self.counts)

    @property
    def pixels(self) -> int:
        """Their pixels."""
        return sum(area * count for area, count in self.counts)

    @property
    def median(self) -> float | None:
        """The median area in pixels; None if there are no objects."""
        half, seen, lower = self.objects, 0, None
        for area, count in self.counts:
            seen += count
            if lower is None and 2 * seen >= half:
                lower = area
            if 2 * seen > half:
                assert lower is not None
                return (lower + area) / 2
        return None

    def histogram(self, edges: Sequence[float]) -> tuple[int, ...]:
        """Number of objects from each of the ``edges`` to the next, ascending, in pixels; the upper one is left out."""
        numbers = Counter[int]()
        for area, count in self.counts:
            numbers[sum(edge <= area for edge in edges) - 1] += count
        return tuple(numbers[bin_] for bin_ in range(len(edges) - 1))
