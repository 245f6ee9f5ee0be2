"""What one block gives: its whole objects, and the parts of those that reach over its sides.

A block sees no pixel of another block. A frame of background stands for what lies outside the slide, and where the
block has neighbours, what depends on them is left to `wsipipe.objects.joining`, which gets strips along those sides::

    +--------------------+
    |   strip, 4 px      |    an object that touches a side with a neighbour is cut: all of its pieces
    |   +------------+   |    are handed on, with their sums, outlines and places in the strips
    |   |    whole   |   |
    |   +------------+   |
    +--------------------+
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Labels, Mask, size_text
from wsipipe.errors import GeometryError
from wsipipe.geometry.grid import Box
from wsipipe.objects.fragments import Fragments, cut_out
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import Diagonals, Lines, trace
from wsipipe.objects.paths import connected
from wsipipe.objects.perimeter import DEPTH, KINDS, OpenPixels, count_border
from wsipipe.objects.pieces import Pieces, find_pieces
from wsipipe.objects.rings import Rings, arrange, doubled_hull_areas
from wsipipe.objects.split import SPLIT_SIDE_PX, split_objects
from wsipipe.objects.sums import PERIMETER, SHAPES_ONLY, Intensities, Layout, Sums, sum_pieces

STRIP_PX = 2 * DEPTH
"""Width of the strips: a pixel on one side of a border needs those up to `DEPTH` px from it, and so does its
neighbour."""
LARGEST_BLOCK_PX = 2**14
"""The largest side of a block; sums of a larger one might exceed 64 bits."""


@dataclass(frozen=True)
class Counting:
    """What makes an object, and what is measured of it; the same for all blocks of a slide."""

    shape: tuple[int, int]
    """(height, width) of the slide in pixels of the labels."""
    connectivity: int = 8
    """8: pixels that touch at a corner belong together; 4: only those that share a side."""
    layout: Layout = SHAPES_ONLY
    """The sums besides those of the shape."""
    split: bool = False
    """Whether objects are parted where they are narrow (`wsipipe.objects.split`)."""


@dataclass(frozen=True, eq=False)
class CutPieces:
    """The pieces of objects that reach over a block's sides, numbered from 0 within the block."""

    sums: Sums
    """Their sums; rows and columns are counted from ``origin``."""
    group: Counts
    """(pieces,), int64: pieces with the same number belong to the same object, as the block shows already."""
    lines: Lines
    """Their outlines, as far as the block knows them."""
    diagonals: Diagonals
    """Vertices where two of them touch at a corner, and may be of one piece outside the block."""
    pixels: OpenPixels
    """Their border pixels that cannot be counted yet."""
    fragments: Fragments
    """Their pixels, if objects are parted, of those that may belong to an object that is."""
    strips: tuple[npt.NDArray[np.int32], ...]
    """(y, x) each, int32: the pieces along the top, bottom, left and right side, with the frame; -1 for none."""


@dataclass(frozen=True, eq=False)
class BlockObjects:
    """What a block gives."""

    origin: tuple[int, int]
    """(y, x) on the slide of the first pixel, with the frame."""
    whole: Sums
    """The objects within the block, by first pixel; rows and columns are counted from those of each extent."""
    hulls: Counts
    """(objects,), int64: twice the area of the convex hull of each of them."""
    rings: Rings
    """Their outlines on the slide."""
    cut: CutPieces
    """What is left to joining."""


def measure_block(labels: Labels, box: Box, counting: Counting, intensities: Intensities | None = None) -> BlockObjects:
    """Find and measure the objects of one block.

    Parameters
    ----------
    labels
        (y, x), uint8: the block's labels.
    box
        The place of the block on the slide. A side inside the slide is a side of another block too.
    counting
        What makes an object.
    intensities
        The block's pixels and probabilities, with the layout of ``counting``; None if that has none.

    Raises
    ------
    GeometryError
        If the block is too large, or so small that it does not reach from the strip on one side to that on the other.
    """
    intensities = intensities or Intensities(counting.layout)
    _check(box, counting)
    framed, origin = _framed(labels, box, counting)
    frame = (box.y0 - origin[0], box.x0 - origin[1])
    found = _find(framed, origin, counting)
    if counting.split:
        found = _find(_parted(framed, found, counting), origin, counting)
    pieces, cut = found.pieces, found.cut
    sums = sum_pieces(pieces, intensities, frame=frame, origin=origin, width=counting.shape[1])
    sums = replace(sums, label=framed[tuple(pieces.first.T)])
    border, pixels = count_border(found.labels, pieces.numbers, cut, connectivity=counting.connectivity)
    sums.added[:, PERIMETER : PERIMETER + KINDS] = border

    whole, rings = _whole(sums, found.lines, found.group, cut)
    y, x = whole.extent[:, 0] - origin[0], whole.extent[:, 1] - origin[1]
    number = np.append(np.where(cut, np.cumsum(cut) - 1, -1), -1)  # -1 stays -1
    opened = found.touching[found.diagonals.piece] & found.touching[found.diagonals.partner]
    kept = cut & splits(sums.extent) if counting.split else np.zeros_like(cut)
    parts = CutPieces(
        sums.taken(cut),
        np.unique(found.group[cut], return_inverse=True)[1],
        found.lines.taken(cut[found.lines.piece]).renumbered(number),
        found.diagonals.taken(opened).renumbered(number),
        OpenPixels(number[pixels.piece], pixels.code, number[pixels.partners]),
        cut_out(pieces, kept, intensities, frame=frame, origin=origin).renumbered(number),
        tuple(number[strip].astype(np.int32) for strip in side_strips(pieces.numbers)),
    )
    return BlockObjects(origin, whole.moved(-y, -x), doubled_hull_areas(rings), rings, parts)


def splits(extent: Counts) -> Mask:
    """Whether objects are small enough to be parted, (objects,), by their bounding boxes, (objects, 4), int64."""
    height, width = extent[:, 2] - extent[:, 0], extent[:, 3] - extent[:, 1]
    small: Mask = np.maximum(height, width) <= SPLIT_SIDE_PX
    return small


def side_strips(plane: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """The strips of a block along its top, bottom, left and right side, (y, x) each; ``plane`` (y, x) of any dtype."""
    return plane[:STRIP_PX], plane[-STRIP_PX:], plane[:, :STRIP_PX], plane[:, -STRIP_PX:]


class _Found(NamedTuple):
    """The pieces of a block, and their outlines."""

    labels: npt.NDArray[np.unsignedinteger[Any]]
    pieces: Pieces
    touching: Mask
    lines: Lines
    diagonals: Diagonals
    group: Counts
    cut: Mask


def _find(labels: npt.NDArray[np.unsignedinteger[Any]], origin: tuple[int, int], counting: Counting) -> _Found:
    pieces = find_pieces(labels)
    touching = np.zeros(pieces.count, np.bool_)
    for side in (pieces.numbers[0], pieces.numbers[-1], pieces.numbers[:, 0], pieces.numbers[:, -1]):
        touching[side[side >= 0]] = True
    lines, diagonals = trace(
        labels, pieces.numbers, touching, runs=pieces.starts, origin=origin, width=counting.shape[1]
    )
    group, cut = _groups(diagonals, touching, counting.connectivity)
    return _Found(labels, pieces, touching, lines, diagonals, group, cut)


def _parted(labels: Labels, found: _Found, counting: Counting) -> npt.NDArray[np.uint32]:
    """The labels, where each part of a whole object has a label of its own."""
    _, group = np.unique(found.group, return_inverse=True)
    extent = sum_pieces(found.pieces, Intensities(SHAPES_ONLY), frame=(0, 0), origin=(0, 0), width=labels.shape[1])
    count = int(group.max(initial=-1)) + 1
    if not count:
        return labels.astype(np.uint32)
    cut = np.zeros(count, np.bool_)
    cut[group[found.cut]] = True
    which = ~cut & splits(extent.grouped(group, count).extent)
    parts = split_objects(np.append(group, -1)[found.pieces.numbers], which, connectivity=counting.connectivity)
    return np.where(parts > 0, parts + 2**8, labels).astype(np.uint32)


def _check(box: Box, counting: Counting) -> None:
    for start, stop, size in ((box.y0, box.y1, counting.shape[0]), (box.x0, box.x1, counting.shape[1])):
        if not (start < stop <= start + LARGEST_BLOCK_PX and stop <= size):
            raise GeometryError(
                f"objects of block {box} of a plane of {size_text(counting.shape)} cannot be "
                f"measured; a side has 1 to {LARGEST_BLOCK_PX} px (--block)"
            )
        if stop < size and stop - start < STRIP_PX:
            raise GeometryError(
                f"objects of block {box} cannot be measured: a block that is not the last one has "
                f"{STRIP_PX} px or more along each side (--block)"
            )


def _framed(labels: Labels, box: Box, counting: Counting) -> tuple[Labels, tuple[int, int]]:
    """The labels with a frame of background where the slide ends, and the place of its first pixel."""
    (height, width), frame = counting.shape, DEPTH
    top, left = frame * (box.y0 == 0), frame * (box.x0 == 0)
    sides = ((top, frame * (box.y1 == height)), (left, frame * (box.x1 == width)))
    framed = np.pad(labels, sides) if np.any(sides) else np.ascontiguousarray(labels)
    return framed, (box.y0 - top, box.x0 - left)


def _groups(diagonals: Diagonals, touching: Mask, connectivity: int) -> tuple[Counts, Mask]:
    """The object of each piece, as far as the block shows, and whether a piece of it touches a side."""
    if connectivity == 4:
        return np.arange(len(touching)), touching
    count, group = connected(len(touching), diagonals.piece, diagonals.partner)
    cut = np.zeros(count, np.bool_)
    cut[group[touching]] = True
    return group, cut[group]


def _whole(sums: Sums, lines: Lines, group: Counts, cut: Mask) -> tuple[Sums, Rings]:
    """The objects without cut pieces, by first pixel: groups and pieces are in that order already."""
    there = np.zeros(len(group) + 1, np.bool_)
    there[group[~cut]] = True
    rank, count = (np.cumsum(there) - 1)[group], int(np.count_nonzero(there))
    if not count:
        return sums.taken(~cut), Rings.none()
    return sums.taken(~cut).grouped(rank[~cut], count), arrange(lines.taken(~cut[lines.piece]), rank, count)
