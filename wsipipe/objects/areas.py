"""How many objects of one class there are, and how large."""

from __future__ import annotations

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
