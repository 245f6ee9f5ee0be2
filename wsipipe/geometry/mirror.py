"""The mirror: how a slide continues beyond its border.

The edge pixel is repeated, and the reflection continues for ever with period ``2 * size``::

    position   -3 -2 -1 | 0 1 2 3 | 4 5 6 7 8 9
    pixel       2  1  0 | 0 1 2 3 | 3 2 1 0 0 1        size = 4

This is numpy's ``symmetric`` and dask's ``reflect`` (not numpy's ``reflect``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def mirror(positions: Indices, size: int) -> Indices:
    """The index, in ``0 .. size - 1``, of the pixel at each of ``positions``, int64.

    ``np.pad(x, (a, b), mode="symmetric") == x[mirror(np.arange(-a, len(x) + b), len(x))]``.
    """
    wrapped: Indices = np.mod(positions, 2 * size)
    mirrored: Indices = np.minimum(wrapped, 2 * size - 1 - wrapped)
    return mirrored
