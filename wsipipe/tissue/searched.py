"""Which pixels of a plane are segmented: those of the tissue, and of the region that a user chose, where there are any.

What lies outside the region is not counted as glass: nobody asked for it, so nobody says what it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Mask
from wsipipe.geometry.grid import Box
from wsipipe.rasters.region import Region
from wsipipe.tissue.mask import TissueMask

SAMPLES = 2**22
"""Most pixels that `tissue_share_in` looks at: all of a region of 2048 x 2048 px, and four or more of each cell."""


@dataclass(frozen=True, eq=False)
class Searched:
    """What is segmented of one box of a plane; made by `searched_in`."""

    box: Box
    """In pixels of the plane."""
    tissue: TissueMask | None
    """None: there is no mask."""
    inside: Mask | None
    """Which pixels of the box are in the region, bool (y, x); None: all."""

    @property
    def everywhere(self) -> bool:
        """Whether all of it is segmented, because there is neither a mask nor an end of the region."""
        return self.tissue is None and self.inside is None

    def meets(self, part: Box) -> bool:
        """Whether any pixel of ``part`` of the box, in pixels of the plane, may be searched."""
        if self.inside is not None and not self.inside[part.seen_from(self.box).slices].any():
            return False
        return self.tissue is None or self.tissue.meets(part)

    def clear_outside(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Set to 0 those ``pixels`` of the box, (..., y, x), uint8, that are not searched."""
        if self.tissue is not None:
            self.tissue.clear_outside(pixels, self.box)
        if self.inside is not None:
            np.multiply(pixels, self.inside, out=pixels)

    @property
    def outside(self) -> int:
        """Number of pixels of the box that are outside the region."""
        return 0 if self.inside is None else self.inside.size - int(np.count_nonzero(self.inside))

    def count(self, parts: Iterable[Box]) -> int:
        """Number of pixels of the region in ``parts`` of the box, which are in pixels of the plane."""
        areas = (part.seen_from(self.box).slices for part in parts)
        if self.inside is None:
            return sum((y.stop - y.start) * (x.stop - x.start) for y, x in areas)
        return sum(int(np.count_nonzero(self.inside[area])) for area in areas)


def searched_in(box: Box, tissue: TissueMask | None, region: Region | None) -> Searched:
    """What is segmented of ``box`` of a plane, by its tissue mask and its region; None: everywhere."""
    inside = None if region is None else region.inside(box)
    return Searched(box, tissue, None if inside is None or inside.all() else inside)


def tissue_share_in(tissue: TissueMask, region: Region | None) -> float:
    """Share of the region that is tissue, or of the plane where there is none, 0 to 1."""
    if region is None:
        return tissue.share
    inside, bounds, step = region.sampled(SAMPLES)
    rows, cols = (
        tissue.cells_at(axis, np.arange(start, stop, step))
        for axis, (start, stop) in enumerate(((bounds.y0, bounds.y1), (bounds.x0, bounds.x1)))
    )
    return float(tissue.cells[rows][:, cols][inside].mean()) if inside.any() else 0.0
