"""The pixels of objects that reach over the sides of blocks, kept until the objects can be parted.

Joined objects are laid side by side on a plane of their own, which is measured as if it were a block::

    +--------------------------+
    | ##   ###    ##   ####    |   sorted by height, row by row,
    | ###  #####  #      ##    |   with background between them
    | ##   ##                  |
    | #   ##   #   ##          |
    +--------------------------+
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Labels, Mask
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import stretches
from wsipipe.objects.pieces import Pieces
from wsipipe.objects.sums import Intensities, Layout, Sums

SHEET_PX = 4096
"""Largest height and width of the plane that objects are laid on."""


@dataclass(frozen=True, eq=False)
class Fragments:
    """Runs of pixels and what was measured of them."""

    piece: Counts
    """(runs,): the piece of each run."""
    y: Counts
    """(runs,): its row on the slide."""
    x: Counts
    """(runs,): its first column."""
    size: Counts
    """(runs,): its pixels."""
    values: npt.NDArray[Any]
    """(pixels, channels), run by run: the intensities, and last the probability, where there are any."""

    def taken(self, which: Mask) -> Fragments:
        """Those runs for which the mask ``which``, (runs,), booleans, is true."""
        values = self.values[np.repeat(which, self.size)]
        return Fragments(self.piece[which], self.y[which], self.x[which], self.size[which], values)

    def renumbered(self, number: Counts) -> Fragments:
        """The same ones, where piece ``i`` has become ``number[i]``, (pieces,), int64."""
        return replace(self, piece=number[self.piece])


class Sheet(NamedTuple):
    """Some objects on a plane."""

    labels: Labels
    """(y, x): their classes."""
    intensities: Intensities
    """What was measured of the plane's pixels."""
    moved: npt.NDArray[np.int32]
    """(y, x, 2), int32: what to add to the row and column of an object's pixel, to have those on the slide."""


def no_fragments(layout: Layout) -> Fragments:
    """No runs, of as many channels as there are."""
    none = np.zeros(0, np.int64)
    return Fragments(none, none, none, none, np.zeros((0, len(layout.channels) + layout.probability), np.uint8))


def cut_out(
    pieces: Pieces, which: Mask, intensities: Intensities, *, frame: tuple[int, int], origin: tuple[int, int]
) -> Fragments:
    """The pixels of some pieces of a block.

    Parameters
    ----------
    pieces
        Of the block, with a frame.
    which
        (pieces,), booleans: which of them.
    intensities
        Of the block without the frame.
    frame
        (rows, columns) of the frame before the block's first pixel.
    origin
        (y, x) on the slide of the first pixel of ``pieces``.
    """
    runs = which[pieces.run_piece]
    y, x, size = pieces.run_y[runs], pieces.run_x0[runs], (pieces.run_x1 - pieces.run_x0)[runs]
    none = no_fragments(intensities.layout)
    planes = [plane for plane in (intensities.pixels, intensities.probability) if plane is not None]
    values = np.zeros((int(size.sum()), 0), np.uint8)
    if planes:
        at = stretches((y - frame[0]) * planes[0].shape[1] + x - frame[1], size)
        values = np.concatenate([plane.reshape(plane.shape[0] * plane.shape[1], -1)[at] for plane in planes], axis=1)
    assert values.shape[1] == none.values.shape[1]
    return Fragments(pieces.run_piece[runs], y + origin[0], x + origin[1], size, values)


def lay_out(fragments: Fragments, owner: Counts, objects: Sums, layout: Layout) -> Iterator[Sheet]:
    """Lay whole objects on planes.

    Parameters
    ----------
    fragments
        The runs of their pixels.
    owner
        (pieces,), int64: the object of each piece, -1 for those that have no place.
    objects
        (objects,); none is wider or higher than `SHEET_PX`.
    layout
        What was measured.
    """
    mine = owner[fragments.piece]
    sheet, top, left, sizes = _places(objects.extent)
    for number, (height, width) in enumerate(sizes):
        here = (mine >= 0) & (np.append(sheet, -1)[mine] == number)
        runs, whose = fragments.taken(here), mine[here]
        down, right = (objects.extent[whose, axis] - place[whose] for axis, place in ((0, top), (1, left)))
        at = stretches((runs.y - down) * width + runs.x - right, runs.size)
        labels = np.zeros((height, width), np.uint8)
        labels.ravel()[at] = np.repeat(objects.label[whose], runs.size)
        moved = np.zeros((height, width, 2), np.int32)
        moved.reshape(-1, 2)[at] = np.repeat(np.stack([down, right], axis=1), runs.size, axis=0)
        values = np.zeros((height, width, runs.values.shape[1]), runs.values.dtype)
        values.reshape(height * width, values.shape[2])[at] = runs.values
        channels = len(layout.channels)
        pixels = values[..., :channels] if channels else None
        probability = values[..., channels].astype(np.uint8) if layout.probability else None
        yield Sheet(labels, Intensities(layout, pixels, probability), moved)


def _places(extent: Counts) -> tuple[Counts, Counts, Counts, list[tuple[int, int]]]:
    """For each object its sheet, and its first row and column there; and the height and width of each sheet."""
    heights, widths = extent[:, 2] - extent[:, 0], extent[:, 3] - extent[:, 1]
    sheet, top, left = (np.zeros(len(extent), np.int64) for _ in range(3))
    sizes: list[tuple[int, int]] = []
    y = x = shelf = 0
    order = np.argsort(-heights, kind="stable")
    for number, height, width in zip(order.tolist(), heights[order].tolist(), widths[order].tolist(), strict=True):
        if x + width > SHEET_PX:
            y, x, shelf = y + shelf + 1, 0, 0
        if not sizes or y + height > SHEET_PX:
            sizes.append((0, 0))
            y = x = shelf = 0
        shelf = max(shelf, height)
        sheet[number], top[number], left[number] = len(sizes) - 1, y, x
        sizes[-1] = max(sizes[-1][0], y + height), max(sizes[-1][1], x + width)
        x += width + 1
    return sheet, top, left, sizes
