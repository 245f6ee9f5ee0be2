"""Pixels along the border of objects, counted by how their outline turns: what their perimeter is made from.

Benkrid and Crookes, "Design and FPGA implementation of a perimeter estimator" (2000), as `skimage.measure.perimeter`
computes it with its default neighbourhood of 4. A pixel is on the border if one of the four beside it is not of its
object. Its length depends on which of the eight around it are on the border as well: 1, the square root of 2, or half
of their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Mask
from wsipipe.objects.numbers import Counts

DEPTH = 2
"""How far a pixel must be from the sides of an array, so that its length is known from the array."""
KINDS = 3
LENGTHS = np.array([1.0, np.sqrt(2), (1 + np.sqrt(2)) / 2])
"""(kinds,), float64: the length of a pixel of each kind, in pixels."""
_CODES = {5: 0, 7: 0, 15: 0, 17: 0, 25: 0, 27: 0, 21: 1, 33: 1, 13: 2, 23: 2}
_KIND = np.full(50, KINDS, np.int64)  # the last kind is not counted
_KIND[list(_CODES)] = list(_CODES.values())
_DIAGONAL = np.uint8(10)


@dataclass(frozen=True, eq=False)
class OpenPixels:
    """Border pixels with a neighbour across a corner that may turn out to be of the same piece (4-connectivity)."""

    piece: Counts
    """(n,): the piece of each."""
    code: Counts
    """(n,): what is known of its neighbours."""
    partners: Counts
    """(n, 4): the pieces of the neighbours that are open; -1 for none."""


def count_border(
    labels: npt.NDArray[np.unsignedinteger[Any]], pieces: npt.NDArray[np.integer], cut: Mask, *, connectivity: int
) -> tuple[Counts, OpenPixels]:
    """Border pixels of each piece, by kind.

    Parameters
    ----------
    labels
        (y, x), unsigned integers: the class of each pixel, or the part of an object.
    pieces
        (y, x), integers: the piece of each pixel, from 0.
    cut
        (pieces,): whether a piece belongs to an object that may continue outside the array. Its pixels less than
        `DEPTH` from a side of the array are left out.
    connectivity
        4 or 8. With 4, pieces that touch at a corner are different objects.

    Returns
    -------
    tuple
        (pieces, `KINDS`) int64, and the pixels that cannot be counted yet.
    """
    border, width = _border(labels), labels.shape[1]
    on_border = (labels * border).ravel()
    known = np.append(~cut, True)
    for side in (np.s_[:DEPTH], np.s_[-DEPTH:], np.s_[:, :DEPTH], np.s_[:, -DEPTH:]):
        border[side] &= known[pieces[side]]
    pixel = np.flatnonzero(border)
    piece, label = pieces.ravel()[pixel].astype(np.int64), on_border[pixel]
    code = np.ones(len(pixel), np.uint8)
    for step in (-width, -1, 1, width):
        code += np.uint8(2) * (on_border[pixel + step] == label)
    partners = []
    for step in (-width - 1, -width + 1, width - 1, width + 1):
        same = on_border[pixel + step] == label
        if connectivity == 4:
            other = pieces.ravel()[pixel + step]
            partners.append(np.where(same & (other != piece) & cut[other] & cut[piece], other, -1))
            same &= other == piece
        code += _DIAGONAL * same
    kind, opened = _KIND[code], np.zeros(0, np.int64)
    stacked = np.zeros((0, 4), np.int64)
    if connectivity == 4:
        stacked = np.stack(partners, axis=1).astype(np.int64)
        opened = np.flatnonzero(np.any(stacked >= 0, axis=1))
        kind[opened] = KINDS
    counts = np.bincount(kind + piece * (KINDS + 1), minlength=len(cut) * (KINDS + 1)).reshape(len(cut), KINDS + 1)
    return counts[:, :KINDS], OpenPixels(piece[opened], code[opened].astype(np.int64), stacked[opened])


def _border(labels: npt.NDArray[np.unsignedinteger[Any]]) -> Mask:
    """The pixels beside or above one of another label, (y, x); not the background, and not along the array's sides."""
    width, values = labels.shape[1], labels.ravel()
    # Regardless of where rows end, which is quick; what reaches from one row to the next is removed last.
    beside, below = values[1:] != values[:-1], values[width:] != values[:-width]
    border = np.zeros(labels.shape, np.bool_)
    inside = border.ravel()[width:-width]
    np.bitwise_or(beside[width - 1 : -width], beside[width : len(values) - width], out=inside)
    inside |= below[:-width]
    inside |= below[width:]
    inside &= values[width:-width] > 0
    border[:, [0, -1]] = False
    return border


def kinds(pixels: OpenPixels, same: Mask) -> Counts:
    """The kind of each border pixel; `KINDS` for none, (n,) int64.

    Parameters
    ----------
    pixels
        Those that `count_border` left open.
    same
        (n, 4): whether each partner turned out to be of the pixel's piece.
    """
    kind: Counts = _KIND[pixels.code + _DIAGONAL * same.sum(axis=1)]
    return kind
