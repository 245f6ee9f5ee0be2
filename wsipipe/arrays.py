"""Array types that many modules share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
"""Pixels of an image, in the dtype of its file: uint8 or uint16."""
Labels = npt.NDArray[np.uint8]
"""Class ids, (y, x); 0 is the background."""
Mask = npt.NDArray[np.bool_]
"""Booleans, (y, x)."""
