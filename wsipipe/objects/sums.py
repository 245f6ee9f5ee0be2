"""Sums over the pixels of objects, in integers: exact, whatever the order in which parts are added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Labels, Pixels
from wsipipe.errors import UsageError
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import stretches
from wsipipe.objects.pieces import Pieces
from wsipipe.objects.stains import STAINS, stain_densities

AREA, Y, X, YY, XX, YX, PERIMETER = range(7)
"""Columns of sums: pixels; their rows and columns, squared, and multiplied; from `PERIMETER` on border pixels by
kind."""
SHAPE_COLUMNS = PERIMETER + 3
SUMMED_AT_ONCE = 2**20
"""Pixels whose intensities are in memory as 64-bit integers at the same time."""
AnyIntegers = npt.NDArray[Any]
"""int64, or Python's integers where sums may exceed 64 bits, as those of a region over half of a slide do."""


@dataclass(frozen=True)
class Layout:
    """Which sums there are besides those of the shape.

    Raises
    ------
    UsageError
        If two channels have the same name, or stains are wanted of other than three.
    """

    channels: tuple[str, ...] = ()
    """Names of the channels whose intensities are summed, and their squares."""
    stained: bool = False
    """Whether the channels are red, green and blue of tissue stained with haematoxylin and eosin."""
    probability: bool = False
    """Whether the probability of each pixel's class is summed."""

    def __post_init__(self) -> None:
        if len(set(self.channels)) < len(self.channels):
            raise UsageError(f"channels to measure must have different names; got {', '.join(self.channels)}")
        if self.stained and len(self.channels) != 3:
            raise UsageError(f"stains are measured of red, green and blue; got {len(self.channels)} channels")

    @cached_property
    def columns(self) -> int:
        """Number of columns of sums."""
        return self.probability_column + self.probability

    @property
    def stain_column(self) -> int:
        """The first column of stains."""
        return SHAPE_COLUMNS + 2 * len(self.channels)

    @property
    def probability_column(self) -> int:
        """The column of probabilities."""
        return self.stain_column + len(STAINS) * self.stained


SHAPES_ONLY = Layout()
"""No sums but those of the shape."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of several pieces or objects."""

    label: Labels
    """(n,): the class of each."""
    first: Counts
    """(n,): the position of its first pixel on the slide, ``y * width + x``."""
    extent: Counts
    """(n, 4): its bounding box on the slide: first row and column, and those behind the last."""
    added: AnyIntegers
    """(n, columns), integers: the sums, see `Layout`; rows and columns are counted from the slide's first."""

    def grouped(self, group: Counts, count: int) -> Sums:
        """The sums of groups: (groups, ...), of the groups (n,), int64, of these; no group is empty."""
        order = np.argsort(group, kind="stable")
        start = np.searchsorted(group[order], np.arange(count))
        extent = self.extent[order]
        low, high = np.minimum.reduceat(extent[:, :2], start), np.maximum.reduceat(extent[:, 2:], start)
        return Sums(
            self.label[order][start],
            np.minimum.reduceat(self.first[order], start),
            np.concatenate([low, high], axis=1),
            np.add.reduceat(self.added[order], start, axis=0),
        )

    def taken(self, which: npt.NDArray[Any]) -> Sums:
        """Those at the indices, or where the mask is true: ``which``, (n,) booleans or integers."""
        return Sums(self.label[which], self.first[which], self.extent[which], self.added[which])

    def moved(self, y: AnyIntegers, x: AnyIntegers) -> Sums:
        """The same sums, with rows counted from ``-y`` and columns from ``-x``, (n,) or (), integers."""
        added = self.added.copy()
        area, sum_y, sum_x = (self.added[:, column] for column in (AREA, Y, X))
        added[:, YY] += 2 * y * sum_y + y * y * area
        added[:, XX] += 2 * x * sum_x + x * x * area
        added[:, YX] += y * sum_x + x * sum_y + y * x * area
        added[:, Y] += y * area
        added[:, X] += x * area
        return Sums(self.label, self.first, self.extent, added)

    def unbounded(self) -> Sums:
        """The same sums as Python's integers."""
        return Sums(self.label, self.first, self.extent, self.added.astype(object))


@dataclass(frozen=True, eq=False)
class Intensities:
    """What is measured of the pixels of a block."""

    layout: Layout
    """What there is."""
    pixels: Pixels | None = None
    """(y, x, channel), uint8 or uint16; None if the layout has no channels."""
    probability: npt.NDArray[np.uint8] | None = None
    """(y, x), uint8: the probability of each pixel's class, times 255; None if the layout has none."""


def sum_pieces(
    pieces: Pieces, intensities: Intensities, *, frame: tuple[int, int], origin: tuple[int, int], width: int
) -> Sums:
    """Sums of the pieces of a block.

    Rows and columns are counted from those of the first pixel of ``pieces``. Border pixels are not counted, those
    columns are 0.

    Parameters
    ----------
    pieces
        Of a block, with or without a frame of background.
    intensities
        Of the block without a frame.
    frame
        (rows, columns) of the frame before the block's first pixel.
    origin
        (y, x) on the slide of the first pixel of ``pieces``.
    width
        Width of the slide in pixels.

    Returns
    -------
    Sums
        Of integers of 64 bits, int64 (pieces, columns). They are enough for blocks of up to 2**14 pixels a side.
    """
    piece, y, x0, x1 = pieces.run_piece, pieces.run_y, pieces.run_x0, pieces.run_x1
    length = x1 - x0
    sum_x = (x0 + x1 - 1) * length // 2
    sum_xx = (x1 * (x1 - 1) * (2 * x1 - 1) - x0 * (x0 - 1) * (2 * x0 - 1)) // 6
    added = np.zeros((intensities.layout.columns, pieces.count), np.int64)
    for column, values in enumerate((length, y * length, sum_x, y * y * length, sum_xx, y * sum_x)):
        np.add.at(added[column], piece, values)
    for runs, columns in _run_intensities(pieces, intensities, frame):
        for column, values in enumerate(columns, SHAPE_COLUMNS):
            np.add.at(added[column], piece[runs], values)
    extent = np.empty((4, pieces.count), np.int64)
    extent[:2], extent[2:] = 2**62, -1
    for column, (values, reduce) in enumerate(
        ((y, np.minimum), (x0, np.minimum), (y + 1, np.maximum), (x1, np.maximum))
    ):
        reduce.at(extent[column], piece, values)
    first = np.full(pieces.count, 2**62, np.int64)
    np.minimum.at(first, piece, (y + origin[0]) * width + x0 + origin[1])
    return Sums(pieces.labels, first, extent.T + np.array(origin * 2), np.ascontiguousarray(added.T))


def _run_intensities(
    pieces: Pieces, intensities: Intensities, frame: tuple[int, int]
) -> Iterator[tuple[slice, list[Counts]]]:
    """Some runs at a time: which, and for each column of intensities the sums of their pixels, (runs,) int64."""
    layout, pixels, probability = intensities.layout, intensities.pixels, intensities.probability
    some = pixels if pixels is not None else probability
    if some is None or not len(pieces.run_y):
        return
    size = pieces.run_x1 - pieces.run_x0
    first = (pieces.run_y - frame[0]) * some.shape[1] + pieces.run_x0 - frame[1]
    stops = np.cumsum(size)
    begins = np.unique(np.searchsorted(stops, range(0, int(stops[-1]), SUMMED_AT_ONCE))).tolist()
    for begin, end in pairwise([*begins, len(stops)]):
        start = stops[begin - 1] if begin else 0
        at = stretches(first[begin:end], size[begin:end])
        run_starts = np.append(0, stops[begin : end - 1] - start)
        values: list[Counts] = []
        if pixels is not None:
            here = pixels.reshape(-1, pixels.shape[2]).take(at, axis=0)  # a quarter of the time of [at]
            for channel in here.T.astype(np.int64):
                values += (channel, channel * channel)
            if layout.stained:
                values += list(stain_densities(here).T)
        if probability is not None:
            values.append(probability.ravel()[at].astype(np.int64))
        yield slice(begin, end), [np.add.reduceat(value, run_starts) for value in values]
