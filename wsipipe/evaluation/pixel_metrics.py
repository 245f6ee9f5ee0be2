"""Metrics of pixels, and of the partition that they make, from the counts of `wsipipe.evaluation.counts`.

Sources
-------
- Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142 (ISBI 2012: pixel and adapted Rand error)
- Meila 2007, doi:10.1016/j.jmva.2006.11.013 (variation of information)
"""

from __future__ import annotations

import math

import numpy as np

from wsipipe.evaluation.counts import Confusion, Overlap, areas
from wsipipe.evaluation.ratios import Floats, ratio, ratios


def pixel_error(confusion: Confusion) -> float:
    """The share of pixels whose class is wrong, 0 to 1; NaN without pixels.

    The ISBI 2012 challenge uses this name for 1 - F of the pixels of cells, which is 1 - `dice`.
    """
    total = int(confusion.pixels.sum())
    return ratio(total - int(confusion.pixels.trace()), total)


def dice(confusion: Confusion) -> Floats:
    """2 TP / (2 TP + FP + FN) of each class but 0, (classes,), float64; NaN where neither side has it (Dice 1945)."""
    right, predicted, truth = _by_class(confusion)
    return ratios(2 * right, predicted + truth)


def iou(confusion: Confusion) -> Floats:
    """TP / (TP + FP + FN) of each class but 0, (classes,), float64; NaN where neither side has it (Jaccard 1912)."""
    right, predicted, truth = _by_class(confusion)
    return ratios(right, predicted + truth - right)


def _by_class(confusion: Confusion) -> tuple[Floats, Floats, Floats]:
    """Pixels that are right, predicted, and true, of each class but the background, each (classes,)."""
    pixels = confusion.pixels.astype(np.float64)
    return pixels.diagonal()[1:], pixels.sum(axis=0)[1:], pixels.sum(axis=1)[1:]


def adapted_rand_error(overlap: Overlap) -> float:
    """1 - F score of precision and recall over pairs of pixels in one segment; pixels of no truth object are ignored.

    A pixel of a truth object that is predicted as no object is a segment of its own, as in the program of the ISBI 2012
    challenge (Arganda-Carreras et al. 2015; ``adaptedRandIndexStats3DN2`` of fiji/Trainable_Segmentation): a membrane
    drawn too wide does not join the cells on its sides. `skimage.metrics.adapted_rand_error` takes all such pixels as
    one segment; it agrees if each is given a number of its own. NaN if no two pixels are in one segment.
    """
    inside = overlap.truth > 0
    found = inside & (overlap.predicted > 0)
    _, truth = areas(overlap.truth[inside], overlap.pixels[inside])
    _, predicted = areas(overlap.predicted[found], overlap.pixels[found])
    both, one, other = (math.fsum(n * (n - 1.0)) for n in (overlap.pixels[found], truth, predicted))
    return 1 - both / ((one + other) / 2) if one + other else math.nan


def variation_of_information(overlap: Overlap) -> tuple[float, float]:
    """(split, merge) in bits: H(predicted | truth) and H(truth | predicted); pixels of no truth object are ignored.

    Their sum is the variation of information (Meila 2007). NaN without truth objects. The same as
    `skimage.metrics.variation_of_information` with ``ignore_labels=[0]``.
    """
    inside = overlap.truth > 0
    pixels = overlap.pixels[inside]
    total = int(pixels.sum())
    if not total:
        return math.nan, math.nan
    bits = []
    for segment in (overlap.truth[inside], overlap.predicted[inside]):
        found, size = areas(segment, pixels, least=0)
        bits.append(math.fsum(pixels * np.log2(size[np.searchsorted(found, segment)] / pixels)) / total)
    return bits[0], bits[1]
