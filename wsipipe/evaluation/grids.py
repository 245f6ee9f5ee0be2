"""The grid on which a prediction and its labels are compared, where their pixels differ in size.

One of the two gives the grid; the other is read there by nearest neighbour: the value of the pixel that the centre of
a pixel of the grid lies in. Both show the same field of view, so that their corners meet::

    the grid      |  .  |  .  |  .  |  .  |  .  |  .  |
    the other     |     0     |     1     |     2     |        step 1/2: 0 0 1 1 2 2

or both have coordinates in micrometres, as OME-Zarr has, and the labels are of a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wsipipe.arrays import size_text
from wsipipe.errors import UsageError
from wsipipe.evaluation.resampled import Lattice
from wsipipe.geometry.mirror import Indices
from wsipipe.slides.resolution import DISAGREEMENT

On = Literal["labels", "store"]
"""Which of the two gives the grid; any prediction counts as a store."""


@dataclass(frozen=True)
class Extent:
    """Where the pixels of a plane are."""

    name: str
    """Its name for messages."""
    shape: tuple[int, int]
    """(height, width) in pixels."""
    mpp: float | None = None
    """Micrometres per pixel; None if unknown."""
    corner_um: tuple[float, float] | None = None
    """(y, x) of the upper left corner in micrometres; None if unknown."""
    downsample: float | None = None
    """Pixels of the slide's finest level that one pixel spans; None if unknown."""


@dataclass(frozen=True)
class Meeting:
    """How a prediction and its labels are read on one grid."""

    prediction: tuple[Lattice, Lattice]
    """Which (rows, columns) of the prediction to read."""
    labels: tuple[Lattice, Lattice]
    """Which of the labels."""
    mpp: float | None
    """Micrometres per pixel of the grid; None if unknown."""
    remark: str = ""
    """What to tell the user; empty where each pixel meets one."""


def meet(prediction: Extent, labels: Extent, on: On) -> Meeting:
    """The grid of one of the two, and how to read both there.

    By the field of view, if both sides of the sizes are in one ratio to within a pixel, which neither resolutions nor
    coordinates contradict; else by coordinates; else pixel by pixel, if the sizes are the same.

    Raises
    ------
    UsageError
        If none of these applies, or both have coordinates and nothing in common.
    """
    grid, other = (labels, prediction) if on == "labels" else (prediction, labels)
    step = _step(prediction, labels)
    remark = ""
    if step is not None:
        step = step if on == "store" else 1 / step
        remark = _said(grid, other, on, step) if step != 1 else _said_of_sizes(prediction, labels)
        axes = [(Lattice(n), Lattice(n, m, step)) for n, m in zip(grid.shape, other.shape, strict=True)]
    elif prediction.corner_um and labels.corner_um and prediction.mpp and labels.mpp:
        assert grid.mpp
        assert other.mpp
        step = grid.mpp / other.mpp
        axes = [_part(grid, other, axis) for axis in range(2)]
        height, width = (own.count for own, _ in axes)
        if not height or not width:
            raise UsageError(
                f"{labels.name} and {prediction.name} have no pixel in common by their coordinates; are they of the "
                "same slide?"
            )
        remark = f"{_said(grid, other, on, step)}, in the part of {size_text((height, width))} that both show"
    elif prediction.shape == labels.shape:
        step, axes = 1.0, [(Lattice(n), Lattice(n)) for n in grid.shape]
        remark = (
            f"compared pixel by pixel, since sizes are the same; but {labels.name} has {labels.mpp:g} um/px, and "
            f"{prediction.name} {prediction.mpp:g}"
        )
        grid = prediction
    else:
        raise UsageError(_refusal(prediction, labels))
    own, read = (tuple(lattices) for lattices in zip(*axes, strict=True))
    mpp = grid.mpp or (other.mpp and other.mpp * step)
    if on == "labels":
        return Meeting((read[0], read[1]), (own[0], own[1]), mpp, remark)
    return Meeting((own[0], own[1]), (read[0], read[1]), mpp, remark)


def _step(prediction: Extent, labels: Extent) -> float | None:
    """Pixels of the labels that one pixel of the prediction spans, if both show the same field; else None.

    The ratio that the slide's pyramid, or else the resolutions say, where it fits the sizes; else 1, or that of the
    sizes.
    """
    sides = list(zip(prediction.shape, labels.shape, strict=True))
    least = max((m - 1) / n if m < n else m / (n + 1) for n, m in sides)
    most = min((m + 1) / n if m < n else m / max(n - 1, 0.5) for n, m in sides)
    stated = prediction.mpp / labels.mpp if prediction.mpp and labels.mpp else None
    if stated and not least * (1 - DISAGREEMENT) <= stated <= most * (1 + DISAGREEMENT):
        return None
    if prediction.shape == labels.shape:
        return None if _apart(prediction, labels) else 1.0
    longest = max(sides, key=max)
    known = (prediction.downsample, stated, 1.0, longest[1] / longest[0])
    fitting = [ratio for ratio in known if ratio and least <= ratio <= most]
    return None if not fitting or _apart(prediction, labels) else fitting[0]


def _apart(prediction: Extent, labels: Extent) -> bool:
    """Whether coordinates say that the corners are a pixel or more from each other."""
    if not (prediction.corner_um and labels.corner_um and prediction.mpp and labels.mpp):
        return False
    off = (abs(a - b) for a, b in zip(prediction.corner_um, labels.corner_um, strict=True))
    return max(off) >= max(prediction.mpp, labels.mpp)


def _part(grid: Extent, other: Extent, axis: int) -> tuple[Lattice, Lattice]:
    """The part of an axis of the grid that the other shows too, by coordinates: on the grid, and of the other."""
    assert grid.mpp
    assert other.mpp
    assert grid.corner_um
    assert other.corner_um
    step = grid.mpp / other.mpp
    offset = (grid.corner_um[axis] - other.corner_um[axis]) / other.mpp
    middles = Lattice(grid.shape[axis], other.shape[axis], step, offset).positions(0, grid.shape[axis])
    inside: Indices = np.flatnonzero((middles >= 0) & (middles < other.shape[axis]))
    first, count = (int(inside[0]), len(inside)) if len(inside) else (0, 0)
    return Lattice(count, grid.shape[axis], 1.0, first), Lattice(count, other.shape[axis], step, offset + first * step)


def _said(grid: Extent, other: Extent, on: On, step: float) -> str:
    """Whose pixels are compared, for the user; one of them spans ``step`` of the other's."""
    own, others = ("the labels'", "the store has") if on == "labels" else ("the store's", "the labels have")
    mpp = grid.mpp or (other.mpp and other.mpp * step)
    if mpp is None:
        how = f"{1 / step:.4g} times as fine" if step < 1 else f"{step:.4g} times as coarse"
        return f"compared on {own} grid, {how} as the other"
    return f"compared at {mpp:.4g} um/px, {own} grid; {others} {mpp / step:.4g}"


def _said_of_sizes(prediction: Extent, labels: Extent) -> str:
    """That sizes differ, by a pixel at most, where pixels do not; empty if they are the same."""
    if prediction.shape == labels.shape:
        return ""
    sizes = (f"{one.name} is {size_text(one.shape)}" for one in (labels, prediction))
    return f"compared from the upper left corner: {', '.join(sizes)}"


def _refusal(prediction: Extent, labels: Extent) -> str:
    def described(extent: Extent) -> str:
        scale = "no known resolution" if extent.mpp is None else f"{extent.mpp:.4g} um/px"
        return f"{extent.name} is {size_text(extent.shape)} at {scale}"

    both = prediction.mpp and labels.mpp
    why = "the ratio of their sizes is not that of their resolutions" if both else "their sizes are not in one ratio"
    return (
        f"{described(prediction)}, and {described(labels)}: {why}, and not both have "
        "coordinates, so where the labels lie is unknown; give labels of the whole field, at the resolution that they "
        "say, or OME-Zarr with scale and translation in micrometres"
    )
