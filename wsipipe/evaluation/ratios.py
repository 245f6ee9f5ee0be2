"""Ratios and means that are NaN where there is nothing to divide by.

Sums of floats use `math.fsum`, which does not depend on the order: an image has the same scores to the last bit
however it is cut into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ratio(part: float, whole: float) -> float:
    """``part / whole``; NaN if ``whole`` is 0."""
    return part / whole if whole else math.nan


def ratios(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, of any shape (...), float64; NaN where ``whole`` is 0."""
    shares: Floats = np.divide(part, whole, out=np.full(whole.shape, math.nan), where=whole > 0)
    return shares


def mean(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return ratio(math.fsum(known), len(known))
