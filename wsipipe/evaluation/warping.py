"""The warping error of the ISBI 2012 EM challenge: the wrong pixels that no bending of borders explains.

The truth is warped towards the prediction: pixels at which the two differ are flipped, one after another, as long
as a flip leaves the topology as it is. No flip makes, removes, joins or splits an object, a hole, or the background.
What still differs at the end is the error::

    truth          prediction      truth, warped    the error
    # # . # # #    # # # . # #     # # # . # #      . . . . . .
    # # . # # #    # # # . # #     # # # . # #      . . . . . .
    # # . # # #    # # # # # #     # # # . # #      . . . x . .      <- the gap that merges two cells
    # # . # # #    # # # . # #     # # # . # #      . . . . . .

Sources:

- Jain et al. 2010, "Boundary learning by optimization with topological constraints", doi:10.1109/CVPR.2010.5539950
- Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142
- the challenge's program, ``WarpingError`` of Fiji's Trainable Segmentation (commit 41c7083), of which we keep what
  decides on a value: objects are joined by their sides and the background also by its corners; beyond its border an
  image is background; the order of the flips
- Yokoi, Toriwaki and Fukumura 1975, Computer Graphics and Image Processing 4, 63-73 (simple by a crossing number)
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Mask
from wsipipe.errors import UsageError

# The eight neighbours as (dy, dx), clockwise from the one above: the even ones share a side, the odd ones a corner.
RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def warping_error(prediction: Mask, truth: Mask) -> float:
    """The share of pixels at which the warped truth still differs from the prediction; 0 is best.

    Never more than the pixel error. It is not symmetric: an object or a hole that only the prediction has costs its
    area, and one that only the truth has costs one pixel, to which it shrinks (an object with a hole: a ring). A
    membrane that has moved clear of its place costs its length: flips happen only where the two differ, so it cannot
    cross the pixels in between.

    Parameters
    ----------
    prediction, truth
        (y, x): True in a cell, False in the background (membrane, stroma).

    Raises
    ------
    UsageError
        If the two are not boolean images of one shape with at least one pixel.

    Notes
    -----
    The value depends on the order of the flips, see `warped_truth`. Three things of the challenge's program are left
    out: it visits the most certain pixels first, and for a mask all are equally so; it takes a mask of the pixels that
    may be flipped (the geometric constraint of Jain et al.), which is the whole image unless given; and it also tells
    splits, mergers and the like apart, which changes no value here. Nor do we search for the best threshold.
    """
    return np.count_nonzero(warped_truth(prediction, truth) != prediction) / truth.size


def warped_truth(prediction: Mask, truth: Mask) -> Mask:
    """The truth after all flips towards the prediction that keep its topology, (y, x), bool.

    It has as many objects and holes as the truth, and differs from the prediction only where the truth did, at pixels
    none of which can be flipped alone. It need not be the nearest such image: it is what greedy flips end at, and
    another order can end elsewhere. Ours is that of the challenge's program for a mask: the pixels that differ are
    visited column by column from the left, each from the top, again and again until a whole sweep flips nothing.
    Slice 0 of ISBI 2012 against itself, smoothed and rolled by 2 px down and right, has 97 wrong pixels that way, 115
    row by row, and 300 from the last pixel to the first: compare only values of one program.

    Raises
    ------
    UsageError
        If the two are not boolean images of one shape with at least one pixel.
    """
    _check(prediction, truth)
    # Transposed, so that the order of visits is that of the memory; a mirrored pixel is simple if it was.
    differs = np.pad((prediction != truth).T, 1)
    left, codes = bytearray(differs.tobytes()), bytearray(_neighbourhoods(np.pad(truth.T, 1)).tobytes())
    _flip_simple(left, codes, stride=differs.shape[1])
    mismatch: Mask = np.frombuffer(left, np.bool_).reshape(differs.shape)[1:-1, 1:-1].T
    return prediction ^ mismatch


def simple_neighbourhoods() -> Mask:
    """Whether a pixel is simple, by the bits of its neighbours, (256,), bool; bit ``k`` is the one at ``RING[k]``.

    A pixel is simple if its flip keeps the topology: if there is one object beside it, as seen within its 3 x 3
    pixels, and one background around. The True sides, less those that continue over a True corner to the next side,
    are as many as the objects that meet there; 0 means a pixel alone or inside. The pixel's own value does not matter.
    """
    bits = np.arange(256)[:, np.newaxis] >> np.arange(8) & 1
    sides, corners = bits[:, 0::2], bits[:, 1::2]
    crossings = sides - sides * corners * np.roll(sides, -1, axis=1)
    simple: Mask = crossings.sum(axis=1) == 1
    return simple


def _neighbourhoods(padded: Mask) -> npt.NDArray[np.uint8]:
    """The bits of the neighbours of each pixel, in the shape of ``padded``; 0 in its frame of one pixel."""
    height, width = padded.shape
    codes = np.zeros(padded.shape, np.uint8)
    for k, (dy, dx) in enumerate(RING):
        codes[1:-1, 1:-1] |= padded[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx].astype(np.uint8) << k
    return codes


def _flip_simple(differs: bytearray, codes: bytearray, *, stride: int) -> None:
    """Flip pixels that differ and are simple, in sweeps along the memory, until there are none; in place.

    A sweep need not visit every pixel: one that is not simple stays so until a neighbour is flipped. Visits are
    therefore queued when a pixel becomes simple, under ``sweep * len(differs) + pixel``, and the flips are those of
    full sweeps, in the same order.

    Parameters
    ----------
    differs
        Per pixel of the padded image: 1 where it differs from the prediction, 0 in the frame.
    codes
        The bits of its neighbours.
    stride
        Pixels from one line to the next.
    """
    simple, pixels = simple_neighbourhoods(), len(differs)
    # The step to each neighbour, and the bit of the pixel in that neighbour's code.
    around = [(dy * stride + dx, 1 << (k + 4) % 8) for k, (dy, dx) in enumerate(RING)]
    start = np.frombuffer(differs, np.bool_) & simple[np.frombuffer(codes, np.uint8)]
    visits: list[int] = np.flatnonzero(start).tolist()
    heapify(visits)
    is_simple = bytes(simple)
    while visits:
        visit = heappop(visits)
        pixel = visit % pixels
        if not (differs[pixel] and is_simple[codes[pixel]]):
            continue
        differs[pixel] = 0
        for step, bit in around:
            codes[pixel + step] ^= bit
            if differs[pixel + step] and is_simple[codes[pixel + step]]:
                heappush(visits, visit + step if step > 0 else visit + step + pixels)


def _check(prediction: Mask, truth: Mask) -> None:
    for name, image in (("prediction", prediction), ("truth", truth)):
        if image.dtype != np.bool_ or image.ndim != 2 or not image.size:
            raise UsageError(
                f"{name} is {image.dtype} of shape {image.shape}: the warping error needs boolean images (y, x) "
                f"with at least one pixel; compare labels with 0 first (labels > 0)"
            )
    if prediction.shape != truth.shape:
        raise UsageError(
            f"the prediction has shape {prediction.shape}, the truth {truth.shape}: only masks of the same shape "
            f"can be compared"
        )
