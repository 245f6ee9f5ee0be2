"""A level resampled to another resolution: each pixel is the mean of the area that it covers.

Pixel i of an axis covers ``shrink`` pixels of the stored one, from ``i * shrink`` on; the last is cut at its end::

    stored  | 0 | 1 | 2 | 3 | 4 | 5 | 6 |
    pixel   |    0    |    1    |   2   |          shrink = 2.5: 0 is (2 [0] + 2 [1] + [2]) / 5

Weights depend on i alone, and each pixel is summed in the same order whatever is read with it, so that a pixel is the
same, to the last bit, in every box that holds it. Rows are averaged first, then columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Pixels
from wsipipe.geometry.mirror import Indices
from wsipipe.geometry.scale import stored_side

Float32s = npt.NDArray[np.float32]

ROWS = 8
"""Rows averaged at once: of 4096 px, with the stored rows they are made of, they fit into the cache."""
FEW = 0.1
"""A tap that at most this share of the columns need is added to those alone: 3.7, not 4.1 ns a pixel at 2.0145."""
STRIP_BYTES = 2**20
"""Bytes read at once of a file whose tiles or strips are small."""


@dataclass(frozen=True)
class Means:
    """Some pixels of an axis, in order, as weighted means of pixels of the stored axis."""

    first: Indices
    """The first stored pixel that each covers, (pixels,), int64."""
    weights: Float32s
    """The share of each of the stored pixels from there on, (pixels, taps), float32; the sum of a row is 1."""

    @property
    def stored(self) -> tuple[int, int]:
        """The stored pixels that they are made of: the first, and the one after the last."""
        return int(self.first[0]), int(self.stops[-1])

    @property
    def stops(self) -> Indices:
        """The stored pixel after the last that each covers, (pixels,), int64."""
        taps = self.weights.shape[1]
        last: Indices = taps - np.argmax(self.weights[:, ::-1] > 0, axis=1)
        return self.first + last

    def __getitem__(self, part: slice) -> Means:
        return Means(self.first[part], self.weights[part])

    def __len__(self) -> int:
        return len(self.first)


def taps(shrink: float) -> int:
    """Number of stored pixels that one pixel may cover, in part or whole."""
    return math.ceil(shrink) + 1


def means(start: int, stop: int, shrink: float, side: int) -> Means:
    """Pixels ``start`` to ``stop`` of an axis, each covering ``shrink`` of the ``side`` pixels of the stored axis."""
    low = np.arange(start, stop, dtype=np.float64) * shrink
    high = np.minimum(np.arange(start + 1, stop + 1, dtype=np.float64) * shrink, side)
    first = low.astype(np.int64)
    at = first[:, None] + np.arange(taps(shrink))
    covered = (np.minimum(at + 1, high[:, None]) - np.maximum(at, low[:, None])).clip(0)
    return Means(first, (covered / covered.sum(1, keepdims=True)).astype(np.float32))


def strip_rows(tile_rows: int, row_bytes: int) -> int:
    """Number of stored rows that are read at once: whole tiles, so that each is decoded once."""
    return tile_rows * max(1, STRIP_BYTES // (tile_rows * row_bytes))


def strips(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    """``start`` to ``stop``, cut at each multiple of ``rows``."""
    for at in range(start // rows * rows, stop, rows):
        yield max(at, start), min(at + rows, stop)


class Averaging:
    """Averages strips of stored rows into the columns ``cols``, in memory that it reuses from strip to strip."""

    def __init__(self, cols: Means, channels: int, shrink: float) -> None:
        start, stop = cols.stored
        width, self._stored = len(cols) * channels, (stop - start) * channels
        channel = np.arange(channels)
        first = (cols.first - start)[:, None] * channels + channel
        self._every: list[tuple[Indices, Float32s]] = []
        # The last taps: a column that needs one of them needs those before it.
        self._few: list[tuple[Indices, Indices, Float32s]] = []
        for k, weights in enumerate(np.repeat(cols.weights, channels, axis=0).T.copy()):
            at = np.minimum(first + k * channels, self._stored - channels + channel).ravel()
            some = np.flatnonzero(weights)
            if k == 0 or len(some) > FEW * width:
                self._every.append((at, weights))
            else:
                self._few.append((some, at[some], weights[some]))
        self._source = np.empty((math.ceil(ROWS * shrink) + taps(shrink), self._stored), np.float32)
        self._rows, self._row = np.empty((ROWS, self._stored), np.float32), np.empty(self._stored, np.float32)
        self._sum, self._tap = np.empty((ROWS, width), np.float32), np.empty((ROWS, width), np.float32)

    @staticmethod
    def held_bytes(width: int, channels: int, shrink: float) -> int:
        """Bytes that an object for ``width`` columns holds."""
        stored, made = stored_side(width, shrink) * channels, width * channels
        floats = (math.ceil(ROWS * shrink) + taps(shrink) + ROWS + 1) * stored + 2 * ROWS * made
        return 4 * floats + 2 * (8 + 4) * taps(shrink) * made  # places and weights, twice while they are made

    def average(self, strip: Pixels, rows: Means, into: Pixels) -> None:
        """Average the pixels of ``rows``, whose ``first`` counts from the first row of ``strip``, ``into`` their place.

        Parameters
        ----------
        strip
            Stored pixels of all columns that are needed, (y, x, channels), uint8 or uint16.
        rows
            The rows to make.
        into
            The pixels, (rows, columns, channels), of the same dtype; halves are rounded to even.
        """
        flat = strip.reshape(len(strip), self._stored)
        for y in range(0, len(rows), ROWS):
            some = rows[y : y + ROWS]
            made = self._over_columns(self._over_rows(flat, some))
            into[y : y + ROWS] = np.rint(made, out=made).reshape(into[y : y + ROWS].shape)

    def _over_rows(self, flat: Pixels, rows: Means) -> Float32s:
        """The means over rows of stored columns, (rows, values), float32."""
        start, stop = rows.stored
        source = self._source[: stop - start]
        source[...] = flat[start:stop]
        for out, first, weights in zip(self._rows, rows.first - start, rows.weights, strict=False):
            np.multiply(source[first], weights[0], out=out)
            for k in np.flatnonzero(weights[1:]) + 1:  # a weight of 0 changes no bit
                np.add(out, np.multiply(source[first + k], weights[k], out=self._row), out=out)
        return self._rows[: len(rows)]

    def _over_columns(self, rows: Float32s) -> Float32s:
        """The means of ``rows`` over columns, (rows, values), float32."""

        def weighted(at: Indices, weights: Float32s, out: Float32s) -> Float32s:
            return np.multiply(np.take(rows, at, axis=1, out=out, mode="clip"), weights, out=out)

        first, *others = self._every
        total = weighted(*first, out=self._sum[: len(rows)])
        for at, weights in others:
            np.add(total, weighted(at, weights, out=self._tap[: len(rows)]), out=total)
        for some, at, weights in self._few:
            total[:, some] += rows[:, at] * weights
        return total
