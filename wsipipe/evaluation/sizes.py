"""Recall of objects by their size: of the smallest quarter of the true objects, of the next, and so on.

The quarters are those of all images together, and do not follow from those of each; histograms do add up. Bins are so
narrow, 4 % of a diameter, that quarters are cut within a bin as if all its objects were alike.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from wsipipe.evaluation.counts import Overlap
from wsipipe.evaluation.ratios import Floats, ratio
from wsipipe.objects.numbers import Counts

PER_OCTAVE, LEAST_OCTAVE, OCTAVES = 16, -8, 28
"""Bins for each doubling of the diameter; the smallest, 2**-8 um; and how many doublings up to the largest."""
BINS = PER_OCTAVE * OCTAVES


def found_by_size(overlap: Overlap, um_per_px: float) -> Floats:
    """How many true objects there are of each diameter, and how many were found (IoU > 0.5), (2, bins), float64.

    The diameter is that of a circle of the same area, in micrometres.
    """
    pairs = overlap.pairs
    bins = _bins(np.sqrt(pairs.truth_area * (4 / math.pi)) * um_per_px)
    found = pairs.truth[pairs.partners]
    return np.stack([np.bincount(which, minlength=BINS) for which in (bins, bins[found])]).astype(np.float64)


def recall_of_quarters(histogram: Floats) -> list[float]:
    """The recall of each quarter of the true objects, the smallest first; NaN without objects.

    Takes what `found_by_size` gives, (2, bins), float64, or a sum of such.
    """
    total, found = histogram
    ends = np.cumsum(total)
    quarters = np.linspace(0, ends[-1], 5).tolist()
    of_each = found / np.maximum(total, 1)  # all objects of a bin are alike
    recalls = []
    for begin, end in pairwise(quarters):
        inside = np.clip(np.minimum(ends, end) - np.maximum(ends - total, begin), 0, None)
        recalls.append(ratio(float(inside @ of_each), float(inside.sum())))
    return recalls


def diameter_quartiles(histogram: Floats) -> list[float]:
    """The diameters between the quarters, in micrometres, to about 4 %; NaN without objects.

    Takes what `found_by_size` gives, (2, bins), float64, or a sum of such.
    """
    ends = np.cumsum(histogram[0])
    if not ends[-1]:
        return [math.nan] * 3
    quartiles = []
    for rank in ends[-1] * np.array([0.25, 0.5, 0.75]):
        at = int(np.searchsorted(ends, rank))
        within = 1 - (ends[at] - rank) / histogram[0][at]
        quartiles.append(float(2.0 ** ((at + within) / PER_OCTAVE + LEAST_OCTAVE)))
    return quartiles


def _bins(diameter: Floats) -> Counts:
    bins: Counts = np.floor((np.log2(diameter) - LEAST_OCTAVE) * PER_OCTAVE).astype(np.int64)
    clipped: Counts = np.clip(bins, 0, BINS - 1)
    return clipped
