"""The pieces of a block: what hangs together by the sides of pixels, found from runs of equal labels.

An object is one piece, or, where corners join pixels as well (8-connectivity), several of the same class that touch at
their corners. Either way each piece has an outline of its own: one simple ring around it, and one around each hole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.objects.numbers import Counts
from wsipipe.objects.paths import connected


@dataclass(frozen=True, eq=False)
class Pieces:
    """The pieces of a block, numbered from 0 in the order of their first pixels, and the runs that they consist of.

    A run is a stretch of pixels of one row that have the same label, which is not the background.
    """

    numbers: npt.NDArray[np.int32]
    """(y, x): the piece of each pixel, -1 for the background."""
    starts: Counts
    """Positions, row by row, of the first pixels of all runs, of the background as well (`run_starts`)."""
    labels: npt.NDArray[Any]
    """(pieces,), in the dtype of the block's labels: the label of each piece."""
    run_piece: Counts
    """(runs,): the piece of each run; runs are in the order of their pixels, row by row."""
    run_y: Counts
    """(runs,): the row of each run."""
    run_x0: Counts
    """(runs,): its first column."""
    run_x1: Counts
    """(runs,): the column after its last one."""

    @property
    def first(self) -> Counts:
        """The first pixel of each piece, (pieces, 2), int64: row and column."""
        run = np.empty(self.count, np.int64)
        run[self.run_piece[::-1]] = np.arange(len(self.run_piece))[::-1]  # of several runs, the first one stays
        return np.stack([self.run_y[run], self.run_x0[run]], axis=1)

    @property
    def count(self) -> int:
        """Number of pieces."""
        return len(self.labels)


def run_starts(labels: npt.NDArray[np.unsignedinteger[Any]]) -> Counts:
    """The position, row by row, of the first pixel of each run of equal labels (y, x), unsigned integers."""
    changes = np.empty(labels.shape, np.bool_)
    values = labels.ravel()
    np.not_equal(values[1:], values[:-1], out=changes.ravel()[1:])  # in one stretch, which is quick
    changes[:, :1] = True
    return np.flatnonzero(changes)


def find_pieces(labels: npt.NDArray[np.unsignedinteger[Any]]) -> Pieces:
    """The pieces of a block of labels, (y, x), unsigned integers."""
    height, width = labels.shape
    starts = run_starts(labels)
    stops = np.append(starts[1:], labels.size)
    values = labels.ravel()[starts]
    there = np.flatnonzero(values)
    first, behind, label = starts[there], stops[there], values[there]
    one, other = _touching(first, behind, width)
    same = label[one] == label[other]
    count, piece = connected(len(there), one[same], other[same])
    numbers = np.full(len(starts), -1, np.int32)
    numbers[there] = piece
    of_piece = np.zeros(count, labels.dtype)
    of_piece[piece] = label
    y = first // max(width, 1)
    return Pieces(
        np.repeat(numbers, stops - starts).reshape(height, width),
        starts,
        of_piece,
        piece,
        y,
        first - y * width,
        behind - y * width,
    )


def _touching(first: Counts, behind: Counts, width: int) -> tuple[Counts, Counts]:
    """Pairs of runs, one below the other, that have a column in common; a run is ``first <= pixel < behind``."""
    begin = np.searchsorted(behind, first + width, side="right")
    count = np.maximum(np.searchsorted(first, behind + width, side="left") - begin, 0)
    above = np.repeat(np.arange(len(first)), count)
    offset = np.arange(len(above)) - np.repeat(np.cumsum(count) - count, count)
    return above, begin[above] + offset
