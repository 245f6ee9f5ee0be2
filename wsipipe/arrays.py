"""Array types that many modules share, and how a size is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
"""Pixels of an image, in the dtype of its file: uint8 or uint16."""
Labels = npt.NDArray[np.uint8]
"""Class ids, (y, x); 0 is the background."""
Mask = npt.NDArray[np.bool_]
"""Booleans, (y, x)."""


def size_text(shape: Sequence[int]) -> str:
    """The size of an image as people read it, ``2220 wide x 2967 high``; ``shape`` begins with height and width, px."""
    height, width = shape[:2]
    return f"{width} wide x {height} high"
