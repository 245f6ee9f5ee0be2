"""Which objects are wrong, true ones that were missed and found ones that are not there; and where most of them are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsipipe.evaluation.blockwise import Labelled, LabelPlane, Terms
from wsipipe.evaluation.counts import Overlap, areas
from wsipipe.evaluation.metrics import Comparison
from wsipipe.geometry.grid import Box
from wsipipe.objects.components import objects
from wsipipe.objects.numbers import Counts, class_of, number_objects

WINDOW_PX = 1024
"""The largest side of a part that is shown of an image."""


@dataclass(frozen=True, eq=False)
class Wrong:
    """The objects of a part of an image; each array (y, x), int64, 0 for none."""

    true: Counts
    """The true objects."""
    found: Counts
    """The predicted ones."""
    missed: Counts
    """The true ones without a partner (IoU > 0.5, of the same class)."""
    false: Counts
    """The predicted ones without one."""


def without_partner(overlap: Overlap) -> tuple[Counts, Counts]:
    """The numbers of the true objects without a partner, and of the predicted ones, each (objects,), int64."""
    truth, _ = areas(overlap.truth, overlap.pixels)
    predicted, _ = areas(overlap.predicted, overlap.pixels)
    pairs = overlap.pairs
    same = class_of(truth[pairs.truth]) == class_of(predicted[pairs.predicted])
    partners = same & pairs.partners
    return np.delete(truth, pairs.truth[partners]), np.delete(predicted, pairs.predicted[partners])


def window_of_errors(comparison: Comparison, shape: tuple[int, int]) -> Box:
    """The part of an image of ``shape``, at most `WINDOW_PX` a side, in which most objects are wrong by centroid."""
    height, width = (min(side, WINDOW_PX) for side in shape)
    if comparison.overlap is None or comparison.centroids is None or (height, width) == shape:
        return Box(0, height, 0, width)
    missed, false = without_partner(comparison.overlap)
    points = [
        side.sums[chosen] // side.pixels[chosen, np.newaxis]
        for side, numbers in zip(comparison.centroids, (false, missed), strict=True)
        if (chosen := np.isin(side.numbers, numbers)).any()
    ]
    if not points:
        return Box(0, height, 0, width)
    cells, counts = np.unique(np.concatenate(points) // WINDOW_PX, axis=0, return_counts=True)
    y, x = (cells[counts.argmax()] * WINDOW_PX).tolist()
    y0, x0 = min(y, shape[0] - height), min(x, shape[1] - width)
    return Box(y0, y0 + height, x0, x0 + width)


def wrong_objects(predicted: LabelPlane, truth: LabelPlane, box: Box, terms: Terms) -> Wrong:
    """The objects within ``box``, matched as if that were the whole image.

    Raises
    ------
    SlideError
        If pixels cannot be read.
    """
    sides = [plane.read(box) for plane in (predicted, truth)]
    counted = np.logical_and.reduce([np.ones(box.shape, bool), *(s.inside for s in sides if s.inside is not None)])
    found, true = (_numbers(side, terms) * counted for side in sides)
    overlap = Overlap.of(found, true).without_small(predicted_px=terms.predicted_px, truth_px=terms.truth_px)
    found, true = found * np.isin(found, overlap.predicted), true * np.isin(true, overlap.truth)
    missed, false = without_partner(overlap)
    return Wrong(true, found, true * np.isin(true, missed), found * np.isin(found, false))


def _numbers(side: Labelled, terms: Terms) -> Counts:
    ids = objects(side.classes, connectivity=terms.connectivity) if side.instances is None else side.instances
    return number_objects(side.classes, ids)
