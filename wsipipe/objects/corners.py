"""Corners of outlines that are not complete: of seams in memory, of blocks read again when they are needed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import numpy as np

from wsipipe.objects.block import CutPieces
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import Points, stretches


class CutSource(Protocol):
    """A block, as joining reads it."""

    @property
    def origin(self) -> tuple[int, int]:
        """(y, x) on the slide of the block's first pixel, with the frame."""
        ...

    def cut(self) -> CutPieces:
        """Its pieces of objects that reach over its sides."""
        ...


class Corners:
    """Corners of outlines: those of seams in memory, those of blocks read again when they are needed."""

    def __init__(self) -> None:
        self._sources: list[CutSource | Points] = []
        self._recent: OrderedDict[int, Points] = OrderedDict()
        self._room = 2

    def add(self, block: CutSource, points: Points) -> int:
        """The number of a block, whose corners, (corners, 2), int32, are now in memory."""
        self._sources.append(block)
        return self._remember(len(self._sources) - 1, points)

    def keep(self, points: Points) -> int:
        """The number of a seam, whose corners, (corners, 2), int32, stay in memory."""
        self._sources.append(points)
        return len(self._sources) - 1

    def make_room(self, blocks: int) -> None:
        """Keep the corners of so many blocks in memory."""
        self._room = blocks

    def take(self, source: Counts, offset: Counts, size: Counts) -> Points:
        """The corners of lines, one line after the other, (corners, 2), int32.

        Parameters
        ----------
        source, offset, size
            (lines,), int64: the number of the block or seam that has a line, where in its corners the line begins, and
            how many there are.
        """
        points = np.empty((int(size.sum()), 2), np.int32)
        begin = np.cumsum(size) - size
        order = np.argsort(source, kind="stable")
        numbers, start = np.unique(source[order], return_index=True)
        for number, these in zip(numbers.tolist(), np.split(order, start[1:]), strict=True):
            at = stretches(offset[these], size[these])
            points[stretches(begin[these], size[these])] = self._of(number)[at]
        return points

    def _of(self, number: int) -> Points:
        source = self._sources[number]
        if isinstance(source, np.ndarray):
            return source
        if number not in self._recent:
            self._remember(number, source.cut().lines.points)
        self._recent.move_to_end(number)
        return self._recent[number]

    def _remember(self, number: int, points: Points) -> int:
        self._recent[number] = points
        while len(self._recent) > self._room:
            self._recent.popitem(last=False)
        return number
