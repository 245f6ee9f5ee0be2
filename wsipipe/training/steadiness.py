"""Steadiness: whether the same tissue has the same labels when it moves by a few pixels.

A network with poolings of 2 px sees moved tissue in another phase, up to its stride, and may label it differently. That
is measured, and as a part of the loss it is trained down: two crops of one patch, shifted, should agree::

    +------------------+
    | first            |        the overlap of both, pixel by pixel; a shift is less than the stride,
    |   +--------------+---+    because by a whole stride nothing changes
    |   |    overlap   |   |
    +---+--------------+   |
        |           second |
        +------------------+
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import Indices, mirror
from wsipipe.geometry.network import round_up
from wsipipe.model.forward import ReadPixels, predict_box
from wsipipe.model.spec import ModelSpec
from wsipipe.model.unet import UNet

MOVED_PX = (1, 2, 4, 8)
"""Distances that tissue is moved by, down and to the right."""


class Shift(NamedTuple):
    """How far the second crop lies below the first, and to its right, px."""

    down: int
    right: int


def draw_shift(stride: int) -> Shift:
    """A shift of 0 to ``stride`` - 1 px each way, not both 0, from torch's generator; the stride is 2 or more."""
    return Shift(*divmod(int(torch.randint(1, stride * stride, ())), stride))


def both_crops(plane: Tensor, side: int, shift: Shift) -> Tensor:
    """The two crops, (2 n, ..., side, side), of a batch (n, ..., y, x), any dtype: first all first ones."""
    down, right = shift
    return torch.cat([plane[..., :side, :side], plane[..., down : down + side, right : right + side]])


def disagreement(logits: Tensor, shift: Shift) -> Tensor:
    """Mean over the overlap of the symmetric Kullback-Leibler divergence of both crops, float32 ().

    Parameters
    ----------
    logits
        Those of `both_crops`, (2 n, class, y, x), float32; of one channel a sigmoid, else a softmax.
    shift
        That of the second crop.
    """
    first, second = logits.chunk(2)
    height, width = logits.shape[-2:]
    first, second = first[..., shift.down :, shift.right :], second[..., : height - shift.down, : width - shift.right]
    p, q = (one.sigmoid() if one.shape[1] == 1 else one.softmax(1) for one in (first, second))
    # sum p log(p/q) + sum q log(q/p) = sum (p - q) (a - b) of logits a and b, whose norms cancel as p and q add up to 1
    return 0.5 * ((p - q) * (first - second)).sum(1).mean()


def steadiness(
    network: UNet,
    spec: ModelSpec,
    places: Sequence[tuple[ReadPixels, Box, tuple[int, int]]],
    moved_px: Sequence[int] = MOVED_PX,
) -> dict[str, dict[str, float]]:
    """Labels that change when tissue moves: by distance in px, the share that ``differs``, and the ``dice`` of both.

    Parameters
    ----------
    network, spec
        Those of a model; the network in evaluation mode.
    places
        Pixels as for `predict_box`, the box to look at, and the (height, width) of its image, px.
    moved_px
        Distances.

    Returns
    -------
    dict
        Over all places, e.g. ``{"1": {"differs": 0.01, "dice": 0.97}}``. The Dice coefficient is that of the pixels
        with the same label other than background, 1 if there are none.
    """
    counts = {px: np.zeros(4, np.int64) for px in moved_px}
    for read, box, shape in places:
        still = _moved(network, spec, read, box, shape, 0)
        for px in moved_px:
            if px < min(box.shape):
                now, before = _moved(network, spec, read, box, shape, px)[px:, px:], still[:-px, :-px]
                same = (now == before) & (now > 0)
                counts[px] += [(now != before).sum(), now.size, same.sum(), (now > 0).sum() + (before > 0).sum()]
    return {
        str(px): {"differs": round(float(differ / size), 4), "dice": round(float(2 * same / any_ if any_ else 1), 4)}
        for px, (differ, size, same, any_) in counts.items()
        if size
    }


def _moved(
    network: UNet, spec: ModelSpec, read: ReadPixels, box: Box, shape: tuple[int, int], px: int
) -> npt.NDArray[np.uint8]:
    """Labels of ``box``, (y, x), of an image whose tissue lies ``px`` farther down and to the right."""
    receptive = network.receptive
    away = round_up(receptive.margin + px, receptive.stride)  # so far that nothing is mirrored but the image itself

    def read_moved(rows: Indices, cols: Indices) -> npt.NDArray[Any]:
        return read(mirror(rows - away - px, shape[0]), mirror(cols - away - px, shape[1]))

    far = Box(box.y0 + away, box.y1 + away, box.x0 + away, box.x1 + away)
    # `receptive.stride` more, as a tile may reach beyond the box
    beyond = shape[0] + 2 * away + receptive.stride, shape[1] + 2 * away + receptive.stride
    return predict_box(network, spec, read_moved, far, shape=beyond)
