"""Metrics of objects that are matched by the pixels they share.

Sources
-------
- Kirillov et al. 2019, arXiv:1801.00868 (panoptic quality)
- Kumar et al. 2017, doi:10.1109/TMI.2017.2677499 (aggregated Jaccard index)
- Caicedo et al. 2019, doi:10.1002/cyto.a.23863 (F1 over thresholds of IoU)
- Schmidt et al. 2018 (StarDist), doi:10.1007/978-3-030-00934-2_30 (the thresholds, of TP / (TP + FP + FN))
- Maska et al. 2014, doi:10.1093/bioinformatics/btu080 (SEG of the Cell Tracking Challenge)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wsipipe.evaluation.counts import Overlap
from wsipipe.evaluation.ratios import ratio

IOU_PERCENTS = tuple(range(50, 95, 5))
"""The thresholds of IoU, in percent: 0.5 to 0.9 in steps of 0.05, as StarDist has them."""


class Matches(NamedTuple):
    """Objects with and without a partner of intersection over union above 0.5; none has more than one."""

    both: float
    """Pairs of partners: true positives."""
    predicted: float
    """Predicted objects without one: false positives."""
    truth: float
    """Truth objects without one: false negatives."""
    iou: float
    """Sum of the intersections over union of the pairs."""

    @property
    def precision(self) -> float:
        """TP / (TP + FP); NaN if nothing is predicted."""
        return ratio(self.both, self.both + self.predicted)

    @property
    def recall(self) -> float:
        """TP / (TP + FN); NaN without truth objects."""
        return ratio(self.both, self.both + self.truth)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), also the recognition quality RQ; NaN if neither side has an object."""
        return ratio(2 * self.both, 2 * self.both + self.predicted + self.truth)

    @property
    def sq(self) -> float:
        """Segmentation quality: the mean intersection over union of the pairs; NaN without pairs."""
        return ratio(self.iou, self.both)

    @property
    def pq(self) -> float:
        """Panoptic quality, SQ times RQ: 0 if there are objects but no pairs, NaN if neither side has an object."""
        return ratio(2 * self.iou, 2 * self.both + self.predicted + self.truth)


class Aggregated(NamedTuple):
    """The aggregated Jaccard index as a fraction, which adds up over images."""

    intersection: float
    """Pixels that truth objects share with their partners."""
    union: float
    """Pixels of both, and of all objects without a partner."""

    @property
    def aji(self) -> float:
        """The index, 0 to 1; NaN if neither side has an object."""
        return ratio(self.intersection, self.union)


class Seg(NamedTuple):
    """SEG as a sum over truth objects, which adds up over images."""

    jaccard: float
    """Sum of the Jaccard indices of the truth objects, 0 for one without a match."""
    truth: float
    """Truth objects."""

    @property
    def mean(self) -> float:
        """SEG, 0 to 1; NaN without truth objects."""
        return ratio(self.jaccard, self.truth)


class Separation(NamedTuple):
    """Number of truth objects that are merged with others, or split."""

    merged: float
    """Truth objects more than half covered by a predicted object that also covers more than half of another."""
    split: float
    """Truth objects that no predicted object covers by more than half, but that hold more than half of two or more."""
    truth: float
    """Truth objects."""


def matches(overlap: Overlap) -> Matches:
    """Objects matched by an intersection over union above 0.5: one partner at most (Kirillov et al. 2019)."""
    pairs = overlap.pairs
    found = pairs.partners
    both = int(found.sum())
    jaccard = math.fsum(pairs.shared[found] / pairs.union[found])
    return Matches(both, len(pairs.predicted_area) - both, len(pairs.truth_area) - both, jaccard)


def found_by_iou(overlap: Overlap) -> tuple[float, ...]:
    """Pairs of partners at each of `IOU_PERCENTS`, and the numbers of predicted and of true objects.

    A threshold is exceeded, not reached, as in `matches`, so that an object has one partner at most.
    """
    pairs = overlap.pairs
    both = (int((100 * pairs.shared > percent * pairs.union).sum()) for percent in IOU_PERCENTS)
    return *both, len(pairs.predicted_area), len(pairs.truth_area)


def aggregated_jaccard(overlap: Overlap) -> Aggregated:
    """The aggregated Jaccard index (Kumar et al. 2017).

    The partner of a truth object is the predicted one of highest IoU, even if another's too; of equals the first by
    number. Predicted objects that are nobody's partner, and truth objects that overlap none, count in the union.
    """
    pairs = overlap.pairs
    order = np.lexsort((pairs.predicted, -(pairs.shared / pairs.union), pairs.truth))
    truth, first = np.unique(pairs.truth[order], return_index=True)
    best = order[first]
    alone, unused = np.ones(len(pairs.truth_area), bool), np.ones(len(pairs.predicted_area), bool)
    alone[truth] = unused[pairs.predicted[best]] = False
    union = pairs.union[best].sum() + pairs.truth_area[alone].sum() + pairs.predicted_area[unused].sum()
    return Aggregated(int(pairs.shared[best].sum()), int(union))


def seg(overlap: Overlap) -> Seg:
    """Jaccard index of each truth object and the predicted one that covers more than half of it (Maska et al. 2014)."""
    pairs = overlap.pairs
    covered = 2 * pairs.shared > pairs.truth_area[pairs.truth]
    return Seg(math.fsum(pairs.shared[covered] / pairs.union[covered]), len(pairs.truth_area))


def separation(overlap: Overlap) -> Separation:
    """Truth objects that were merged, and that were split.

    **Merged**: a predicted object covers more than half of it, and more than half of at least one other truth
    object; all of these count. **Split**: no predicted object covers more than half of it, and at least two have
    more than half of their own pixels in it. No object is both.
    """
    pairs = overlap.pairs
    covering = 2 * pairs.shared > pairs.truth_area[pairs.truth]
    covers = np.bincount(pairs.predicted[covering], minlength=len(pairs.predicted_area))
    covered = np.zeros(len(pairs.truth_area), bool)
    covered[pairs.truth[covering]] = True
    within = 2 * pairs.shared > pairs.predicted_area[pairs.predicted]
    pieces = np.bincount(pairs.truth[within], minlength=len(pairs.truth_area))
    return Separation(int(covers[covers > 1].sum()), int((~covered & (pieces > 1)).sum()), len(pairs.truth_area))
