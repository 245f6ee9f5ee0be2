"""The symmetries of a square, over which test-time averaging takes the mean.

The network sees each tile mirrored, its output is mirrored back, and the probabilities are averaged. Tiles agree with
the whole image as they do without averaging, whatever the network: mirroring a tile maps its core onto itself. Two
tiles whose cores are x0 .. x0 + a and x1 .. x1 + b are mirrored at lines that lie (x1 - x0) + (b - a) / 2 apart. Mirroring
at the one is mirroring at the other, shifted by twice that, a multiple of the stride, as cores begin and end on
the grid; and the network commutes with such shifts. Its response need not be symmetric. It takes the turned tile, as
that has the same sides, and margins that are alike before and after the core.

Source: Szegedy et al. 2015, arXiv:1409.4842, section 7 (averaged crops and mirror images); for U-Nets the authors' own
segmentations average over 7 rotations (Ronneberger, Fischer, Brox 2015, arXiv:1505.04597, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Symmetry:
    """One of the eight ways in which a square is moved onto itself."""

    transposed: bool = False
    """Whether y and x change places, before anything is mirrored."""
    mirrored: tuple[int, ...] = ()
    """The axes along which it is then mirrored: -2 for y, -1 for x."""


MIRRORED = ((), (-1,), (-2,), (-2, -1))
TTA_OFF, TTA_FLIPS, TTA_ALL = "off", "flips", "all"
SYMMETRIES = {
    TTA_OFF: (Symmetry(),),
    TTA_FLIPS: tuple(Symmetry(False, axes) for axes in MIRRORED),
    TTA_ALL: tuple(Symmetry(transposed, axes) for transposed in (False, True) for axes in MIRRORED),
}
"""The symmetries of each kind of test-time averaging, in the order in which they are added up; the first is none."""
