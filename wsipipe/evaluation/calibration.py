"""Probabilities against the truth, pixel by pixel: calibration, and precision over recall.

Both follow from how many pixels have each of the 256 stored values of a class's probability, and how many of these are
of that class; these numbers add up over blocks and images.

Sources
-------
- Guo et al. 2017, arXiv:1706.04599 (expected calibration error, 15 bins; here of each class by itself, as in
  Nixon et al. 2019, arXiv:1904.01685)
- Davis & Goadrich 2006, doi:10.1145/1143844.1143874 (precision and recall); average precision is their step-wise area,
  that of `sklearn.metrics.average_precision_score`
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from wsipipe.evaluation.ratios import Floats, ratio, ratios
from wsipipe.objects.numbers import Counts, Integers

VALUES = 256
"""Probabilities are stored as round(255 p)."""
BINS = 15


class Reliability(NamedTuple):
    """Bins of equal width of the probability of one class; each (`BINS`,), NaN where a bin is empty."""

    predicted: Floats
    """The mean probability."""
    true: Floats
    """The share of pixels that are of that class."""
    pixels: Floats
    """How many pixels there are."""


class Curve(NamedTuple):
    """Precision and recall of one class, each (thresholds,), from the highest threshold that a pixel reaches."""

    precision: Floats
    recall: Floats
    threshold: Floats
    """The least probability of a pixel that is taken."""


def count_probabilities(probabilities: npt.NDArray[np.uint8], truth: Integers) -> Counts:
    """How many pixels have each value, and how many of them are of the class, (classes, 2, values), int64.

    Parameters
    ----------
    probabilities
        (classes, ...), uint8: round(255 p) of each class but the background.
    truth
        (...): class ids.
    """
    counts = np.empty((len(probabilities), 2, VALUES), np.int64)
    for class_id, values in enumerate(probabilities, start=1):
        counts[class_id - 1, 0] = np.bincount(values.ravel(), minlength=VALUES)
        counts[class_id - 1, 1] = np.bincount(values[truth == class_id], minlength=VALUES)
    return counts


def reliability(counts: npt.NDArray[Any]) -> Reliability:
    """The bins of one class, of its counts (2, values), integers or float64."""
    values = np.arange(VALUES)
    bins = np.minimum(values * BINS // (VALUES - 1), BINS - 1)
    total, true, weighed = (
        np.bincount(bins, weights, BINS).astype(np.float64)
        for weights in (counts[0], counts[1], counts[0] * (values / (VALUES - 1)))
    )
    return Reliability(ratios(weighed, total), ratios(true, total), total)


def calibration_error(counts: npt.NDArray[Any]) -> float:
    """The expected calibration error of one class, 0 to 1, of its counts (2, values), any dtype; NaN without pixels."""
    bins = reliability(counts)
    there = bins.pixels > 0
    gaps = np.abs(bins.predicted[there] - bins.true[there]) * bins.pixels[there]
    return ratio(math.fsum(gaps), float(bins.pixels.sum()))


def curve(counts: npt.NDArray[Any]) -> Curve:
    """Precision over recall of one class, of its counts (2, values), any dtype; empty if no pixel is of that class."""
    taken, right = (np.cumsum(side[::-1], dtype=np.float64) for side in counts)
    some = (counts[0][::-1] > 0) & (right[-1] > 0)
    thresholds = np.arange(VALUES)[::-1] / (VALUES - 1)
    return Curve(right[some] / taken[some], right[some] / max(right[-1], 1), thresholds[some])


def average_precision(counts: npt.NDArray[Any]) -> float:
    """The area below precision over recall of one class, of its counts (2, values), any dtype; NaN without it."""
    found = curve(counts)
    steps = np.diff(found.recall, prepend=0.0)
    return math.fsum(steps * found.precision) if len(found.recall) else math.nan
