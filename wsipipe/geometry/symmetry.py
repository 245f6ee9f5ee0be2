"""The symmetries of a square, over which test-time averaging takes the mean.

The network sees each tile mirrored, its output is mirrored back, and the probabilities are averaged. Tiles agree with
the whole image as they do without averaging, for every network that commutes with shifts of its stride; its
response need not be symmetric. A tile is mirrored at the middle of its core, which has as much margin on either side:

    |<-- margin/2 -->|<----- core ----->|<-- margin/2 -->|
                     x0       |        x0 + a        mirrored at x0 + a/2: the core comes to lie on itself

Another core, x1 .. x1 + b, is mirrored at x1 + b/2. To mirror there is to mirror at x0 + a/2 and to shift by twice the
distance of the two, 2 (x1 - x0) + (b - a): a multiple of the stride, as cores begin and end on its grid. So both tiles
show the network the same mirrored image in the same phase of its poolings: that of the whole image, mirrored at any
line of the grid. Transposition moves the grid onto itself in the same way.

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
