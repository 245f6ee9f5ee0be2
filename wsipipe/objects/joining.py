"""Objects that reach over the sides of blocks, put together from what the blocks say.

Blocks are added a row at a time. Where two of them meet, their strips show which pieces are one, and a seam takes care
of the vertices and border pixels that neither block could see. An object is complete once it does not reach the last
strip::

    +----------+----------+----------+
    |         |||        |||         |    rows above are forgotten, but for the pieces
    |         |||        |||         |    of objects that reach the lowest strip
    +==========+==========+==========+
    |         |||        |||         |    === a seam between rows, as wide as the slide
    |         |||        |||         |    ||| seams between the blocks of a row
    +----------+----------+----------+
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Labels, Mask
from wsipipe.errors import OutlineError
from wsipipe.geometry.grid import Box
from wsipipe.objects.block import STRIP_PX, Counting, CutPieces, measure_block, splits
from wsipipe.objects.corners import Corners, CutSource
from wsipipe.objects.fragments import Fragments, Sheet, lay_out, no_fragments
from wsipipe.objects.numbers import Counts
from wsipipe.objects.outlines import Diagonals, Lines, link_diagonals, trace
from wsipipe.objects.paths import connected
from wsipipe.objects.perimeter import KINDS, OpenPixels, count_border, kinds
from wsipipe.objects.pieces import run_starts
from wsipipe.objects.rings import Rings, arrange, close, doubled_hull_areas, together
from wsipipe.objects.sums import AREA, PERIMETER, Layout, Sums

T = TypeVar("T")

MAX_CORNERS = 2**24
"""The most corners in the outline of one object. Its rings are in memory at once, with some 80 bytes for each
corner."""


@dataclass(frozen=True, eq=False)
class Joined:
    """Objects that reached over the sides of blocks."""

    sums: Sums
    """Their sums, as Python's integers; rows and columns are counted from those of each extent."""
    hulls: Counts
    """(objects,), int64: twice the area of the convex hull of each."""
    rings: Rings
    """Their outlines on the slide."""


@dataclass(frozen=True, eq=False)
class _Lines:
    """Outlines whose corners are where they came from."""

    piece: Counts
    arrives: Counts
    leaves: Counts
    size: Counts
    source: Counts
    offset: Counts


class _Parts(NamedTuple):
    """Pieces of objects that are not complete."""

    sums: Sums
    group: Counts
    lines: _Lines
    diagonals: Diagonals
    pixels: OpenPixels
    fragments: Fragments


class _Seam(NamedTuple):
    """What the strips on both sides of a border show."""

    met: Counts
    """(n, 2): pieces that are one."""
    linked: Counts
    """(n, 2): pieces that touch at a corner."""
    lines: Lines
    diagonals: Diagonals
    border: Counts
    pixels: OpenPixels


class Joining:
    """The objects that reach over the sides of a slide's blocks.

    Memory holds one row of blocks, and the sums and the chains of objects that go on below it. Corners are read again
    from the blocks that have them.

    Parameters
    ----------
    counting
        What makes an object, as for the blocks.
    max_corners
        The most corners in the outline of one object.
    """

    def __init__(self, counting: Counting, *, max_corners: int = MAX_CORNERS) -> None:
        self._counting, self._max_corners = counting, max_corners
        self._corners = Corners()
        self._active = _nothing(counting.layout)
        self._frontier = np.zeros((0, 0), np.int64)

    def add(self, row: Sequence[CutSource], *, last: bool) -> Joined:
        """The objects that are complete once the blocks of the next row are known.

        Parameters
        ----------
        row
            The blocks, from left to right.
        last
            Whether it is the slide's last row.

        Raises
        ------
        OutlineError
            If the outline of an object has too many corners.
        """
        self._corners.make_room(2 * len(row))
        cuts = [block.cut() for block in row]
        number = np.cumsum([len(self._active.group), *(len(cut.group) for cut in cuts)])
        parts = [self._active, *map(self._part, row, cuts)]
        numbered = [
            [np.where(strip < 0, -1, strip + shift) for strip in cut.strips]
            for cut, shift in zip(cuts, number, strict=False)
        ]
        merged = _merged(parts)
        seams = list(self._seams(row, numbered, np.append(merged.sums.label, 0).astype(np.uint8)))
        merged, renumbered = self._joined(merged, seams)
        below = np.concatenate([strips[1] for strips in numbered], axis=1)
        self._frontier = np.append(renumbered, -1)[below]
        goes_on = np.zeros(int(merged.group.max(initial=-1)) + 1, np.bool_)
        if not last:
            goes_on[merged.group[self._frontier[self._frontier >= 0]]] = True
        active = goes_on[merged.group]
        done = _taken(merged, ~active)
        self._active = _taken(merged, active)
        self._frontier = np.append(np.where(active, np.cumsum(active) - 1, -1), -1)[self._frontier]
        return self._complete(done)

    def _part(self, block: CutSource, cut: CutPieces) -> _Parts:
        """A block's pieces, with sums that are counted from the slide's first pixel and cannot overflow."""
        source = self._corners.add(block, cut.lines.points)
        offset = np.cumsum(cut.lines.size) - cut.lines.size
        lines = _Lines(*_linked(cut.lines), np.full(len(offset), source), offset)
        y, x = block.origin
        return _Parts(
            cut.sums.unbounded().moved(np.array(y, object), np.array(x, object)),
            cut.group,
            lines,
            cut.diagonals,
            cut.pixels,
            cut.fragments,
        )

    def _seams(self, row: Sequence[CutSource], strips: list[list[Counts]], labels: Labels) -> Iterator[_Seam]:
        """The seam between this row and the one above, and those between its blocks."""
        if self._frontier.size:
            band = np.concatenate([self._frontier, np.concatenate([block[0] for block in strips], axis=1)])
            y, x = row[0].origin
            yield self._seam(band, labels, origin=(y - STRIP_PX, x), axis=0)
        for (left, right), block in zip(pairwise(strips), row[1:], strict=True):
            y, x = block.origin
            yield self._seam(np.concatenate([left[3], right[2]], axis=1), labels, origin=(y, x - STRIP_PX), axis=1)

    def _seam(self, band: Counts, labels: Labels, *, origin: tuple[int, int], axis: int) -> _Seam:
        """What a seam of strips shows, whose pieces are ``band``, and whose border runs across ``axis``."""
        cut = np.ones(len(labels) - 1, np.bool_)
        classes = labels[band]
        border, pixels = count_border(classes, band, cut, connectivity=self._counting.connectivity)
        middle = slice(STRIP_PX - 1, STRIP_PX + 1)
        two = (middle, slice(None)) if axis == 0 else (slice(None), middle)
        start = (origin[0] + (STRIP_PX - 1) * (axis == 0), origin[1] + (STRIP_PX - 1) * (axis == 1))
        runs = run_starts(classes[two])
        lines, diagonals = trace(classes[two], band[two], cut, runs=runs, origin=start, width=self._counting.shape[1])
        (one, other), (label, other_label) = (np.moveaxis(plane[two], axis, 0) for plane in (band, classes))
        same = (label == other_label) & (label > 0)
        met = np.unique(np.stack([one[same], other[same]], axis=1), axis=0)
        linked = np.stack([diagonals.piece, diagonals.partner], axis=1)
        return _Seam(met, linked if self._counting.connectivity == 8 else linked[:0], lines, diagonals, border, pixels)

    def _joined(self, parts: _Parts, seams: list[_Seam]) -> tuple[_Parts, Counts]:
        """The pieces with what the seams show of them, renumbered, and the new number of each."""
        if not len(parts.group):
            return parts, np.zeros(0, np.int64)
        lines = [parts.lines]
        for seam in seams:
            parts.sums.added[:, PERIMETER : PERIMETER + KINDS] += seam.border
            offset = np.cumsum(seam.lines.size) - seam.lines.size
            source = self._corners.keep(seam.lines.points)
            lines.append(_Lines(*_linked(seam.lines), np.full(len(offset), source), offset))
        met = np.concatenate([np.zeros((0, 2), np.int64), *(seam.met for seam in seams)])
        linked = np.concatenate([np.zeros((0, 2), np.int64), *(seam.linked for seam in seams)])
        count, number = connected(len(parts.group), met[:, 0], met[:, 1])
        # Pieces and the groups they were in are nodes of one graph.
        _, group = connected(
            count + len(parts.group),
            np.concatenate([number, number[linked[:, 0]]]),
            np.concatenate([count + parts.group, number[linked[:, 1]]]),
        )
        diagonals = [parts.diagonals, *(seam.diagonals for seam in seams)]
        pixels = [parts.pixels, *(seam.pixels for seam in seams)]
        joined = _Parts(
            parts.sums.grouped(number, count),
            group[:count],
            _together(lines),
            _together(diagonals),
            _together(pixels),
            parts.fragments,
        )
        return _renumbered(joined, number), number

    def _complete(self, done: _Parts) -> Joined:
        """Objects of which all pieces are there."""
        if not self._counting.split or not len(done.group):
            return self._whole(done)
        sums = done.sums.grouped(done.group, int(done.group.max()) + 1)
        small = splits(sums.extent)
        joined = [self._whole(_taken(done, ~small[done.group]))]
        owner = np.where(small, np.cumsum(small) - 1, -1)[done.group]
        sheets = lay_out(done.fragments, owner, sums.taken(small), self._counting.layout)
        joined += map(self._measured, sheets)
        return Joined(
            _together([one.sums for one in joined]),
            np.concatenate([one.hulls for one in joined]),
            together([one.rings for one in joined]),
        )

    def _measured(self, sheet: Sheet) -> Joined:
        """The parts of objects that were laid on a sheet."""
        height, width = sheet.labels.shape
        counting = replace(self._counting, shape=(height, width))
        block = measure_block(sheet.labels, Box(0, height, 0, width), counting, sheet.intensities)
        y, x = np.divmod(block.whole.first, width)
        moved = sheet.moved[y, x]
        first = (y + moved[:, 0]) * self._counting.shape[1] + x + moved[:, 1]
        sums = replace(block.whole, first=first, extent=block.whole.extent + np.tile(moved, 2))
        rings = block.rings
        corner = np.repeat(np.repeat(moved, rings.count, axis=0), rings.size, axis=0)
        return Joined(sums.unbounded(), block.hulls, replace(rings, points=rings.points + corner))

    def _whole(self, done: _Parts) -> Joined:
        """Objects as they are, not parted."""
        if not len(done.group):
            return Joined(done.sums, np.zeros(0, np.int64), Rings.none())
        pixels, diagonals = done.pixels, done.diagonals
        kind = kinds(pixels, pixels.partners == pixels.piece[:, None])
        counted = kind < KINDS
        np.add.at(done.sums.added, (pixels.piece[counted], PERIMETER + kind[counted]), 1)
        count = int(done.group.max()) + 1
        sums = done.sums.grouped(done.group, count)
        order = np.argsort(sums.first)
        sums, rank = sums.taken(order), np.argsort(order)[done.group]
        self._check(sums, np.bincount(rank[done.lines.piece], done.lines.size, count))
        turns = link_diagonals(diagonals, diagonals.piece == diagonals.partner, width=self._counting.shape[1])
        lines = Lines(*_linked(done.lines), self._corners.take(done.lines.source, done.lines.offset, done.lines.size))
        rings = arrange(close(_together([lines, turns])), rank, count)
        y, x = (sums.extent[:, axis].astype(object) for axis in (0, 1))
        return Joined(sums.moved(-y, -x), doubled_hull_areas(rings), rings)

    def _check(self, sums: Sums, corners: npt.NDArray[Any]) -> None:
        if corners.max() > self._max_corners:
            worst = int(corners.argmax())
            y0, x0, y1, x1 = sums.extent[worst].tolist()
            raise OutlineError(
                f"the outline of the object at [{y0}:{y1}, {x0}:{x1}] of class {sums.label[worst]}, which has "
                f"{sums.added[worst, AREA]} px, has {int(corners[worst])} corners; at most {self._max_corners} can be "
                "joined; give more memory (--max-memory), or do without the objects of this slide"
            )


def _linked(lines: Lines | _Lines) -> tuple[Counts, Counts, Counts, Counts]:
    """What outlines have, wherever their corners are."""
    return lines.piece, lines.arrives, lines.leaves, lines.size


def _columns(values: Any) -> list[Any]:
    """The fields of a dataclass or a named tuple of arrays."""
    return [getattr(values, field.name) for field in fields(values)]


def _together(several: list[T]) -> T:
    """Dataclasses of arrays, one after the other."""
    return type(several[0])(*(np.concatenate(column) for column in zip(*map(_columns, several), strict=True)))


def _nothing(layout: Layout) -> _Parts:
    """No pieces."""
    none, pairs = np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    sums = Sums(none.astype(np.uint8), none, pairs, np.zeros((0, layout.columns), object))
    lines, diagonals, pixels = _Lines(*[none] * 6), Diagonals(*[none] * 5), OpenPixels(none, none, pairs)
    return _Parts(sums, none, lines, diagonals, pixels, no_fragments(layout))


def _merged(parts: list[_Parts]) -> _Parts:
    """All pieces, numbered from those of the first part on."""
    pieces = np.cumsum([0, *(len(part.group) for part in parts)])
    groups = np.cumsum([0, *(int(part.group.max(initial=-1)) + 1 for part in parts)])
    moved = [
        _renumbered(part, np.arange(len(part.group)) + shift)._replace(group=part.group + of_groups)
        for part, shift, of_groups in zip(parts, pieces, groups, strict=False)
    ]
    sums, group, lines, diagonals, pixels, fragments = zip(*moved, strict=True)
    return _Parts(
        _together(list(sums)),
        np.concatenate(group),
        _together(list(lines)),
        _together(list(diagonals)),
        _together(list(pixels)),
        _together(list(fragments)),
    )


def _renumbered(parts: _Parts, number: Counts) -> _Parts:
    """The same, where what refers to piece i refers to ``number[i]``."""
    or_none = np.append(number, -1)
    lines, pixels = parts.lines, parts.pixels
    return parts._replace(
        lines=replace(lines, piece=number[lines.piece]),
        diagonals=parts.diagonals.renumbered(or_none),
        fragments=parts.fragments.renumbered(number),
        pixels=replace(pixels, piece=number[pixels.piece], partners=or_none[pixels.partners]),
    )


def _taken(parts: _Parts, which: Mask) -> _Parts:
    """The pieces for which ``which`` is true, and what refers to them."""
    lines = _Lines(*(column[which[parts.lines.piece]] for column in _columns(parts.lines)))
    diagonals = parts.diagonals.taken(which[parts.diagonals.piece])
    pixels = OpenPixels(*(column[which[parts.pixels.piece]] for column in _columns(parts.pixels)))
    _, group = np.unique(parts.group[which], return_inverse=True)
    fragments = parts.fragments.taken(which[parts.fragments.piece])
    taken = _Parts(parts.sums.taken(which), group, lines, diagonals, pixels, fragments)
    return _renumbered(taken, np.where(which, np.cumsum(which) - 1, -1))
