"""Metrics of a segmentation, from the counts of `wsipipe.evaluation.counts`, and the table of all of them.

Sums of floats use `math.fsum`, which does not depend on the order: an image has the same scores to the last bit
however it is cut into blocks. A score without a value, such as recall without truth objects, is NaN.

Sources
-------
- Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142 (ISBI 2012: pixel, adapted Rand and warping error)
- Meila 2007, doi:10.1016/j.jmva.2006.11.013 (variation of information)
- Kirillov et al. 2019, arXiv:1801.00868 (panoptic quality)
- Kumar et al. 2017, doi:10.1109/TMI.2017.2677499 (aggregated Jaccard index)
- Maska et al. 2014, doi:10.1093/bioinformatics/btu080 (SEG of the Cell Tracking Challenge)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from wsipipe.errors import UsageError
from wsipipe.evaluation.counts import Confusion, Overlap, areas

Floats = npt.NDArray[np.float64]
Scores = dict[str, float]


# ---- pixels ----


def pixel_error(confusion: Confusion) -> float:
    """The share of pixels whose class is wrong, 0 to 1; NaN without pixels.

    The ISBI 2012 challenge uses this name for 1 - F of the pixels of cells, which is 1 - `dice`.
    """
    total = int(confusion.pixels.sum())
    return _ratio(total - int(confusion.pixels.trace()), total)


def dice(confusion: Confusion) -> Floats:
    """2 TP / (2 TP + FP + FN) of each class but 0, (classes,), float64; NaN where neither side has it (Dice 1945)."""
    right, predicted, truth = _by_class(confusion)
    return _ratios(2 * right, predicted + truth)


def iou(confusion: Confusion) -> Floats:
    """TP / (TP + FP + FN) of each class but 0, (classes,), float64; NaN where neither side has it (Jaccard 1912)."""
    right, predicted, truth = _by_class(confusion)
    return _ratios(right, predicted + truth - right)


def _by_class(confusion: Confusion) -> tuple[Floats, Floats, Floats]:
    """Pixels that are right, predicted, and true, of each class but the background, each (classes,)."""
    pixels = confusion.pixels.astype(np.float64)
    return pixels.diagonal()[1:], pixels.sum(axis=0)[1:], pixels.sum(axis=1)[1:]


# ---- the partition ----


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


# ---- objects ----


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
        return _ratio(self.both, self.both + self.predicted)

    @property
    def recall(self) -> float:
        """TP / (TP + FN); NaN without truth objects."""
        return _ratio(self.both, self.both + self.truth)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), also the recognition quality RQ; NaN if neither side has an object."""
        return _ratio(2 * self.both, 2 * self.both + self.predicted + self.truth)

    @property
    def sq(self) -> float:
        """Segmentation quality: the mean intersection over union of the pairs; NaN without pairs."""
        return _ratio(self.iou, self.both)

    @property
    def pq(self) -> float:
        """Panoptic quality, SQ times RQ: 0 if there are objects but no pairs, NaN if neither side has an object."""
        return _ratio(2 * self.iou, 2 * self.both + self.predicted + self.truth)


class Aggregated(NamedTuple):
    """The aggregated Jaccard index as a fraction, which adds up over images."""

    intersection: float
    """Pixels that truth objects share with their partners."""
    union: float
    """Pixels of both, and of all objects without a partner."""

    @property
    def aji(self) -> float:
        """The index, 0 to 1; NaN if neither side has an object."""
        return _ratio(self.intersection, self.union)


class Seg(NamedTuple):
    """SEG as a sum over truth objects, which adds up over images."""

    jaccard: float
    """Sum of the Jaccard indices of the truth objects, 0 for one without a match."""
    truth: float
    """Truth objects."""

    @property
    def mean(self) -> float:
        """SEG, 0 to 1; NaN without truth objects."""
        return _ratio(self.jaccard, self.truth)


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
    found = 2 * pairs.shared > pairs.union
    both = int(found.sum())
    jaccard = math.fsum(pairs.shared[found] / pairs.union[found])
    return Matches(both, len(pairs.predicted_area) - both, len(pairs.truth_area) - both, jaccard)


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


# ---- the table of metrics ----


@dataclass(frozen=True, eq=False)
class Comparison:
    """The counts of one image; a count that no requested metric needs is None."""

    classes: int
    """Number of classes besides the background."""
    confusion: Confusion
    """Pixels by class."""
    overlap: Overlap | None = None
    """Pixels by object."""
    warping: float | None = None
    """The warping error, which does not follow from counts."""


Need = Literal["confusion", "overlap", "warping"]


@dataclass(frozen=True)
class Metric:
    """One metric: the numbers taken from an image, which add up over images, and the scores of their sum."""

    description: str
    """One line for users."""
    needs: Need
    """The count that it is computed from."""
    measure: Callable[[Comparison], Floats]
    """The numbers of one image."""
    score: Callable[[Floats, Sequence[str]], Scores]
    """The scores, by name, of a sum of such numbers, given the names of the classes."""


def _confusion(comparison: Comparison) -> Floats:
    return comparison.confusion.pixels.astype(np.float64)


def _overlap(comparison: Comparison) -> Overlap:
    assert comparison.overlap is not None
    return comparison.overlap


def _pixel_scores(sums: Floats, _: Sequence[str]) -> Scores:
    return {"pixel_error": pixel_error(Confusion(sums.astype(np.int64)))}


def _class_scores(name: str, of: Callable[[Confusion], Floats]) -> Callable[[Floats, Sequence[str]], Scores]:
    """The mean over the classes that have a value, and the value of each."""

    def score(sums: Floats, classes: Sequence[str]) -> Scores:
        return _mean_and_each(name, of(Confusion(sums.astype(np.int64))).tolist(), classes)

    return score


def _by_object(of: Callable[[Overlap], tuple[float, ...]]) -> Callable[[Comparison], Floats]:
    """A row of counts per class, (classes, counts): objects are matched within their class only."""

    def measure(comparison: Comparison) -> Floats:
        overlap = _overlap(comparison)
        return np.array([of(overlap.of_class(c)) for c in range(1, comparison.classes + 1)], np.float64)

    return measure


def _f1_scores(sums: Floats, _: Sequence[str]) -> Scores:
    pooled = Matches(*sums.sum(axis=0).tolist())
    return {"f1": pooled.f1, "precision": pooled.precision, "recall": pooled.recall}


def _pq_scores(sums: Floats, classes: Sequence[str]) -> Scores:
    rows = [Matches(*row) for row in sums.tolist()]
    means = {"sq": _mean([row.sq for row in rows]), "rq": _mean([row.f1 for row in rows])}
    return _mean_and_each("pq", [row.pq for row in rows], classes) | means


def _aji_scores(sums: Floats, _: Sequence[str]) -> Scores:
    return {"aji": Aggregated(*sums.sum(axis=0).tolist()).aji}


def _seg_scores(sums: Floats, _: Sequence[str]) -> Scores:
    return {"seg": Seg(*sums.sum(axis=0).tolist()).mean}


def _merged_scores(sums: Floats, _: Sequence[str]) -> Scores:
    pooled = Separation(*sums.sum(axis=0).tolist())
    return {"merged_per_100": 100 * _ratio(pooled.merged, pooled.truth)}


def _split_scores(sums: Floats, _: Sequence[str]) -> Scores:
    pooled = Separation(*sums.sum(axis=0).tolist())
    return {"split_per_100": 100 * _ratio(pooled.split, pooled.truth)}


def _averaged(
    description: str, needs: Need, names: Sequence[str], of: Callable[[Comparison], Sequence[float]]
) -> Metric:
    """A metric of one image at a time: the mean over the images that have a value."""

    def measure(comparison: Comparison) -> Floats:
        values = of(comparison)
        return np.zeros(len(names) + 1) if math.isnan(values[0]) else np.array([*values, 1.0])

    def score(sums: Floats, _: Sequence[str]) -> Scores:
        *values, images = sums.tolist()
        return {name: _ratio(value, images) for name, value in zip(names, values, strict=True)}

    return Metric(description, needs, measure, score)


def _information(comparison: Comparison) -> Sequence[float]:
    split, merge = variation_of_information(_overlap(comparison))
    return split + merge, split, merge


def _warping(comparison: Comparison) -> Sequence[float]:
    assert comparison.warping is not None
    return (comparison.warping,)


METRICS: Mapping[str, Metric] = {
    "pixel_error": Metric("share of pixels of the wrong class", "confusion", _confusion, _pixel_scores),
    "dice": Metric("Dice of each class, and their mean", "confusion", _confusion, _class_scores("dice", dice)),
    "iou": Metric("IoU of each class, and their mean", "confusion", _confusion, _class_scores("iou", iou)),
    "adapted_rand_error": _averaged(
        "1 - F score over pairs of pixels (ISBI 2012), mean of the images",
        "overlap",
        ["adapted_rand_error"],
        lambda comparison: (adapted_rand_error(_overlap(comparison)),),
    ),
    "variation_of_information": _averaged(
        "bits, with its split and merge parts, mean of the images",
        "overlap",
        ["variation_of_information", "vi_split", "vi_merge"],
        _information,
    ),
    "warping_error": _averaged(
        "pixels wrong even after warping that keeps the topology (ISBI 2012), mean of the images",
        "warping",
        ["warping_error"],
        _warping,
    ),
    "f1": Metric("objects found at IoU > 0.5: F1, precision, recall", "overlap", _by_object(matches), _f1_scores),
    "pq": Metric("panoptic quality of each class, and its mean; SQ, RQ", "overlap", _by_object(matches), _pq_scores),
    "aji": Metric("aggregated Jaccard index", "overlap", _by_object(aggregated_jaccard), _aji_scores),
    "seg": Metric("SEG of the Cell Tracking Challenge", "overlap", _by_object(seg), _seg_scores),
    "merged_per_100": Metric(
        "of 100 truth objects, how many are merged with another", "overlap", _by_object(separation), _merged_scores
    ),
    "split_per_100": Metric(
        "of 100 truth objects, how many are split", "overlap", _by_object(separation), _split_scores
    ),
}
"""Every metric by its name. Lower is better for errors, variation of information, merged and split; else higher."""

DEFAULT_METRICS = tuple(name for name in METRICS if name != "warping_error")
"""All metrics but the one that needs whole images, and minutes for a large one."""


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` without duplicates, if all are names of metrics.

    Raises
    ------
    UsageError
        If one is not, or there are none.
    """
    unknown = sorted(set(names) - set(METRICS))
    if unknown or not names:
        what = f"unknown metric {', '.join(unknown)}" if unknown else "no metric was requested"
        raise UsageError(f"{what}; choose from {', '.join(METRICS)} (--metrics)")
    return tuple(dict.fromkeys(names))


def _mean_and_each(name: str, values: Sequence[float], classes: Sequence[str]) -> Scores:
    each = {f"{name}.{class_name}": value for class_name, value in zip(classes, values, strict=True)}
    return {name: _mean(values)} | each


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return _ratio(math.fsum(known), len(known))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _ratios(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(whole.shape, math.nan), where=whole > 0)
    return shares
