"""Outlines along the edges of pixels, of all pieces of an array at once.

Vertices are the corners of pixels; vertex (y, x) is the upper left corner of pixel (y, x). An outline has its piece on
the right hand, so the ring around a piece runs clockwise on a screen, and the one around a hole counterclockwise::

    o-->--o
    |  #  |     a corner is where an outline turns; at the last vertex below, two pixels of one class
    ^     v     touch across the diagonal, and two outlines turn
    |  #  |
    o--<--o-->--o
          |  #  |
          o--<--o

A part of a slide sees the outlines within it as rings, and those that leave it as chains. Each chain begins and ends on
an edge one pixel long, half of which lies outside the part. The part on the other side has the same edge, and so the
chains can be linked by the edges' keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Mask
from wsipipe.objects.numbers import Counts
from wsipipe.objects.paths import follow

RIGHT, LEFT, DOWN, UP, NOWHERE = range(5)
Points = npt.NDArray[np.int32]
"""Corners of pixels on a slide, (corners, 2): y, x."""
Directions = npt.NDArray[np.int8]
"""Directions of outlines, of any shape."""

# Per pixel at a vertex: upper left, upper right, lower left, lower right.
# (arriving, leaving) where only it is there, ...
CONVEX = np.array([(DOWN, LEFT), (LEFT, UP), (RIGHT, DOWN), (UP, RIGHT)], np.int8)
# ... where the two beside it are there as well, and the one across the diagonal is not, ...
CONCAVE = np.array([(LEFT, DOWN), (UP, LEFT), (DOWN, RIGHT), (RIGHT, UP)], np.int8)
# ... and where the one across the diagonal belongs to the same piece, so that the outline crosses over to it.
CROSSING = np.array([(DOWN, RIGHT), (LEFT, DOWN), (RIGHT, UP), (UP, LEFT)], np.int8)
_IS_CONVEX, _IS_CROSSING, _IS_CONCAVE = np.array([1, 2, 3], np.uint8)  # 0 where nothing turns
_ARRIVING, _LEAVING = np.concatenate([np.full_like(CONVEX, NOWHERE), CONVEX, CROSSING, CONCAVE]).T.copy()


@dataclass(frozen=True, eq=False)
class Diagonals:
    """Corners of pixels whose partner across the diagonal has the same class and, as far as is known, another piece.

    There are two at such a vertex. If it turns out that both are of one piece, the outlines cross over there.
    """

    y: Counts
    """(n,): the vertex."""
    x: Counts
    """(n,)"""
    quadrant: Counts
    """(n,): 0 to 3, which of the vertex's pixels it is: upper left, upper right, lower left, lower right."""
    piece: Counts
    """(n,): the pixel's piece."""
    partner: Counts
    """(n,): the piece across the diagonal."""

    def taken(self, which: Mask) -> Diagonals:
        """Those where the mask ``which``, (n,), booleans, is true."""
        return Diagonals(self.y[which], self.x[which], self.quadrant[which], self.piece[which], self.partner[which])

    def renumbered(self, number: Counts) -> Diagonals:
        """The same ones, where piece ``i`` has become ``number[i]``, (pieces,), int64."""
        return Diagonals(self.y, self.x, self.quadrant, number[self.piece], number[self.partner])


@dataclass(frozen=True, eq=False)
class Lines:
    """Outlines, whole or in part: rings and chains."""

    piece: Counts
    """(lines,): the piece that each outlines."""
    arrives: Counts
    """(lines,): the key of the edge that a chain begins with; -1 for a ring."""
    leaves: Counts
    """(lines,): the key of the edge that a chain ends with; -1 for a ring."""
    size: Counts
    """(lines,): the number of its corners; a chain may have none."""
    points: Points
    """(corners, 2): (y, x) of the corners, line by line."""

    def taken(self, which: Mask) -> Lines:
        """Those where the mask ``which``, (lines,), booleans, is true."""
        points = self.points.compress(np.repeat(which, self.size), axis=0)
        return Lines(self.piece[which], self.arrives[which], self.leaves[which], self.size[which], points)

    def renumbered(self, number: Counts) -> Lines:
        """The same ones, where piece ``i`` has become ``number[i]``, (pieces,), int64."""
        return Lines(number[self.piece], self.arrives, self.leaves, self.size, self.points)


def edge_keys(y: Counts, x: Counts, direction: Directions, *, leaving: bool, width: int) -> Counts:
    """Keys of edges that are one pixel long.

    Parameters
    ----------
    y, x
        (n,), int64: vertices.
    direction
        (n,), int8: in which direction an outline runs along the edge.
    leaving
        Whether the edge begins at the vertex; otherwise it ends there.
    width
        Width of the slide in pixels.

    Returns
    -------
    array
        (n,), int64: different for each edge and direction on the slide.
    """
    back = (LEFT, UP) if leaving else (RIGHT, DOWN)
    lower_y = y - (direction == back[1])
    lower_x = x - (direction == back[0])
    keys: Counts = ((lower_y + 2) * (width + 5) + lower_x + 2) * 4 + direction
    return keys


def trace(
    labels: npt.NDArray[np.unsignedinteger[Any]],
    pieces: npt.NDArray[np.integer],
    cut: Mask,
    *,
    runs: Counts,
    origin: tuple[int, int],
    width: int,
) -> tuple[Lines, Diagonals]:
    """The outlines around the vertices inside an array; those on its outer side are left to others.

    Parameters
    ----------
    labels
        (y, x), unsigned integers: the class of each pixel, or the part of an object.
    pieces
        (y, x), integers: the piece of each pixel, from 0.
    cut
        (pieces,): whether a piece may be part of a larger one, whose other parts are not in the array.
    runs
        (runs,): the positions in the array, row by row, of the first pixel of each run of equal labels
        (`wsipipe.objects.pieces.run_starts`).
    origin
        (y, x) of the array's first pixel on the slide.
    width
        Width of the slide in pixels.

    Returns
    -------
    tuple
        Points are on the slide. The diagonals are all those of different pieces. If both pieces are cut, chains end
        there, and `link_diagonals` has what links them.
    """
    corners, opened, diagonals = _corners(labels, pieces, cut, runs)
    entries, exits = _ends(labels, pieces)
    # Chains have to begin with their lowest node, so all that begin one come first.
    y, x, arriving, leaving, piece = _concatenated([opened, entries, corners, exits])
    nodes, starts = follow(_successors(y, x, arriving, leaving))
    path_first, path_last = nodes[starts[:-1]], nodes[starts[1:] - 1]
    points = np.stack([y + origin[0], x + origin[1]], axis=1, dtype=np.int32, casting="unsafe")
    chain = arriving[path_first] == NOWHERE
    (begin_y, begin_x), (stop_y, stop_x) = (points[ends].T.astype(np.int64) for ends in (path_first, path_last))
    begin_key = edge_keys(begin_y, begin_x, leaving[path_first], leaving=True, width=width)
    stop_key = edge_keys(stop_y, stop_x, arriving[path_last], leaving=False, width=width)
    is_corner = (arriving != NOWHERE) & (leaving != NOWHERE)
    lines = Lines(
        piece[path_first],
        np.where(chain, begin_key, -1),
        np.where(chain, stop_key, -1),
        np.diff(starts) - 2 * chain,
        points.take(nodes.compress(is_corner[nodes]), axis=0),
    )
    moved = Diagonals(
        diagonals.y + origin[0], diagonals.x + origin[1], diagonals.quadrant, diagonals.piece, diagonals.partner
    )
    # An edge whose both ends lie outside, such as one between two open diagonals, has nothing to say.
    outside = (lines.arrives >= 0) & (lines.arrives == lines.leaves)
    return lines.taken(~outside) if outside.any() else lines, moved


def link_diagonals(diagonals: Diagonals, same: Mask, *, width: int) -> Lines:
    """A chain of one corner for each diagonal, once it is known whether both of its pixels are of one piece.

    Parameters
    ----------
    diagonals
        Those that `trace` left open.
    same
        (n,): whether pixel and partner belong to one piece.
    width
        Width of the slide in pixels.

    Returns
    -------
    Lines
        Chains that fit between those of `trace`.
    """
    y, x, quadrant = diagonals.y, diagonals.x, diagonals.quadrant
    turns = np.where(same[:, None], CROSSING[quadrant], CONVEX[quadrant])
    return Lines(
        diagonals.piece,
        edge_keys(y, x, turns[:, 0], leaving=False, width=width),
        edge_keys(y, x, turns[:, 1], leaving=True, width=width),
        np.ones(len(y), np.int64),
        np.stack([y, x], axis=1, dtype=np.int32, casting="unsafe"),
    )


def elements(which: Counts, size: Counts) -> Counts:
    """The indices, (elements,), of the elements of the groups ``which``, (n,), int64; group i has ``size[i]``."""
    return stretches((np.cumsum(size) - size)[which], size[which])


def stretches(start: Counts, size: Counts) -> Counts:
    """The numbers from ``start[i]`` on, ``size[i]`` of them, for each i; all are (n,), int64."""
    return np.repeat(start - (np.cumsum(size) - size), size) + np.arange(int(size.sum()))


_Nodes = tuple[Counts, Counts, Directions, Directions, Counts]
"""Corners, and ends of chains: y, x, the directions in which an outline arrives and leaves, and its piece."""


def _concatenated(several: list[_Nodes]) -> _Nodes:
    y, x, arriving, leaving, piece = (np.concatenate(column) for column in zip(*several, strict=True))
    return y, x, arriving, leaving, piece


def _corners(
    labels: npt.NDArray[np.unsignedinteger[Any]], pieces: npt.NDArray[np.integer], cut: Mask, runs: Counts
) -> tuple[_Nodes, _Nodes, Diagonals]:
    """The corners of outlines at the vertices inside an array, row by row; where chains begin; and the diagonals.

    Chains begin and end at open diagonals: there, a corner is the last node of a chain, and another chain begins.
    """
    width = labels.shape[1]
    vertex = _vertices(runs, labels.shape)
    offsets = np.array([-width - 1, -width, -1, 0])  # upper left, upper right, lower left, lower right
    values = [labels.ravel()[vertex + offset] for offset in offsets]
    turns = np.empty((len(vertex), len(values)), np.uint8)
    for number, value in enumerate(values):
        beside, above, across = (values[number ^ step] == value for step in (1, 2, 3))  # above it, or below it
        there = value > 0
        convex, concave = there & ~(beside | above), there & beside & above & ~across
        turns[:, number] = _IS_CONVEX * (convex & ~across) + _IS_CROSSING * (convex & across) + _IS_CONCAVE * concave
    corner = np.flatnonzero(turns != 0)
    turn, quadrant, vertex = turns.ravel()[corner], corner % 4, vertex[corner // 4]
    numbers, y = pieces.ravel(), vertex // width
    x, piece = vertex - y * width, numbers[vertex + offsets[quadrant]].astype(np.int64)
    # Pixels of one class that touch across a diagonal may be of one piece, or of two.
    diagonal = np.flatnonzero(turn == _IS_CROSSING)
    across = numbers[vertex[diagonal] + offsets[3 - quadrant[diagonal]]].astype(np.int64)
    apart = across != piece[diagonal]
    diagonal, across = diagonal[apart], across[apart]
    turn[diagonal] = _IS_CONVEX
    diagonals = Diagonals(y[diagonal], x[diagonal], quadrant[diagonal], piece[diagonal], across)
    arriving, leaving = _ARRIVING[4 * turn + quadrant], _LEAVING[4 * turn + quadrant]
    is_open = diagonal[cut[piece[diagonal]] & cut[across]]
    begin = np.full(len(is_open), NOWHERE, np.int8)
    opened = y[is_open], x[is_open], begin, leaving[is_open], piece[is_open]
    leaving[is_open] = NOWHERE
    return (y, x, arriving, leaving, piece), opened, diagonals


def _vertices(runs: Counts, shape: tuple[int, int]) -> Counts:
    """The vertices inside an array where outlines may turn: the ends of the edges between runs, row by row.

    A vertex is given by the position of the pixel at its lower right.

    Parameters
    ----------
    runs
        (runs,), int64: positions of the first pixels of runs.
    shape
        (height, width) of the array.
    """
    height, width = shape
    edges = runs[runs % width > 0]
    vertex = np.sort(np.concatenate([edges, edges + width]), kind="stable")  # merges two sorted parts
    inside = (vertex >= width) & (vertex < height * width)
    inside[1:] &= vertex[1:] != vertex[:-1]
    return vertex.compress(inside)


def _ends(labels: npt.NDArray[np.unsignedinteger[Any]], pieces: npt.NDArray[np.integer]) -> tuple[_Nodes, _Nodes]:
    """Where outlines enter an array, across each of its sides, and where they leave it."""
    height, width = labels.shape
    entries: list[_Nodes] = []
    exits: list[_Nodes] = []
    # side, its vertices, (direction into the array, direction out of it) with the piece after the vertex on the right
    for line, numbers, at, axis, (after, before) in (
        (labels[:, 0], pieces[:, 0], 0, 0, (RIGHT, LEFT)),
        (labels[:, -1], pieces[:, -1], width, 0, (RIGHT, LEFT)),
        (labels[0], pieces[0], 0, 1, (UP, DOWN)),
        (labels[-1], pieces[-1], height, 1, (UP, DOWN)),
    ):
        inward = (RIGHT if at == 0 else LEFT) if axis == 0 else (DOWN if at == 0 else UP)
        vertex = np.flatnonzero(line[1:] != line[:-1]) + 1
        for direction, pixel in ((after, vertex), (before, vertex - 1)):
            there = line[pixel] > 0
            along = vertex[there]
            across = np.full(len(along), at)
            y, x = (along, across) if axis == 0 else (across, along)
            into, nowhere = np.full(len(along), direction, np.int8), np.full(len(along), NOWHERE, np.int8)
            piece = numbers[pixel[there]].astype(np.int64)
            if direction == inward:
                entries.append((y, x, nowhere, into, piece))
            else:
                exits.append((y, x, into, nowhere, piece))
    return _concatenated(entries), _concatenated(exits)


def _successors(y: Counts, x: Counts, arriving: Directions, leaving: Directions) -> Counts:
    """The node after each node, -1 at the end of a chain.

    Edges of one direction that lie on one line do not overlap, because each pixel has one side of a kind. So the first
    to leave along a line is followed by the first to arrive along it, and so on.
    """
    successor = np.full(len(y), -1, np.int64)
    # Stable sorts are quick: nodes are nearly in the order of rows, and numbers of 16 bits are sorted by their digits.
    by_row = np.argsort(y * (int(x.max(initial=0)) + 1) + x, kind="stable")
    by_column = by_row[np.argsort(x[by_row].astype(np.min_scalar_type(int(x.max(initial=0)))), kind="stable")]
    for directions, order in (((RIGHT, LEFT), by_row), ((DOWN, UP), by_column)):
        leaves, arrives = leaving[order], arriving[order]
        for direction in directions:
            successor[order.compress(leaves == direction)] = order.compress(arrives == direction)
    return successor
