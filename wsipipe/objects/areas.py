"""How many objects of one class there are, and how large."""

from __future__ import annotations

from collections import Counter
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

    @property
    def histogram(self) -> tuple[tuple[float, int], ...]:
        """(smallest area in pixels, number of objects) of each bin; bins are half an octave wide, without a gap.

        Bin n holds the areas a with ``2**n <= a**2 < 2**(n + 1)``, so no rounding decides.
        """
        found = Counter[int]()
        for area, count in self.counts:
            found[(area * area).bit_length() - 1] += count
        bins = range(min(found), max(found) + 1) if found else ()
        return tuple((2 ** (number / 2), found[number]) for number in bins)
