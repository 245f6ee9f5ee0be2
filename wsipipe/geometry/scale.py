"""The sides of a level that is resampled to another resolution."""

from __future__ import annotations

import math

SLIVER = 1e-6
"""A part of a pixel below this, at the end of an axis, is a rounding error of ``shrink``, not a pixel."""


def shrunk_side(side: int, shrink: float) -> int:
    """Number of pixels, each ``shrink`` wide, that cover ``side``."""
    return max(1, math.ceil(side / shrink - SLIVER))


def stored_side(side: int, shrink: float) -> int:
    """The most pixels of the stored axis that ``side`` pixels in a row overlap."""
    return side if shrink == 1.0 else math.ceil(side * shrink) + 1
