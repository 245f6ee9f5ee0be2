"""Coarser levels of a label array: the most frequent label of every 2 x 2 pixels, never a mean.

A level therefore holds only labels that occur, and the mode of a block is the block of the mode: blocks
start at even pixels at every level that they write by themselves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]


def halve(labels: Labels) -> Labels:
    """The mode of every 2 x 2 pixels of ``labels`` (y, x), uint8; sides are halved and rounded up.

    Two labels twice each, or four different ones: the first in reading order. At an odd end the last row or
    column counts twice.
    """
    height, width = labels.shape
    if height % 2 or width % 2:
        labels = np.pad(labels, ((0, height % 2), (0, width % 2)), mode="edge")
    a, b, c, d = labels[0::2, 0::2], labels[0::2, 1::2], labels[1::2, 0::2], labels[1::2, 1::2]
    rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, rest)
