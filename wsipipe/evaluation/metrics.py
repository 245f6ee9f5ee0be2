"""The table of all metrics: the numbers that each takes from an image, and the scores of their sum.

Such numbers add up over images, so that the scores of any set of images, each counted as often as one likes, follow
from them. A score without a value, such as recall without truth objects, is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wsipipe.errors import UsageError
from wsipipe.evaluation.calibration import average_precision, calibration_error
from wsipipe.evaluation.centroids import Centroids
from wsipipe.evaluation.counts import Confusion, Overlap
from wsipipe.evaluation.detection import RADIUS_UM, Detection, match_points
from wsipipe.evaluation.object_metrics import (
    IOU_PERCENTS,
    Aggregated,
    Matches,
    Seg,
    Separation,
    aggregated_jaccard,
    found_by_iou,
    matches,
    seg,
    separation,
)
from wsipipe.evaluation.pixel_metrics import adapted_rand_error, dice, iou, pixel_error, variation_of_information
from wsipipe.evaluation.ratios import Floats, mean, ratio
from wsipipe.evaluation.sizes import BINS, found_by_size, recall_of_quarters
from wsipipe.objects.numbers import Counts

Scores = dict[str, float]


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
    centroids: tuple[Centroids, Centroids] | None = None
    """Centroids of the objects, predicted and true."""
    probabilities: Counts | None = None
    """(classes, 2, 256): pixels by stored probability, as `count_probabilities` counts them; None if there are none."""
    mpp: float | None = None
    """Micrometres per pixel; None if unknown."""
    radius_um: float = RADIUS_UM
    """Largest distance of the centroids of two objects that are taken for the same, in micrometres."""


Need = Literal["confusion", "overlap", "warping", "centroids", "probabilities"]


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


def _f1_scores(sums: Floats, classes: Sequence[str]) -> Scores:
    return _found("", [Matches(*row) for row in [sums.sum(axis=0).tolist(), *sums.tolist()]], classes)


def _found(prefix: str, rows: Sequence[Matches | Detection], classes: Sequence[str]) -> Scores:
    """F1, precision and recall of the first of ``rows``, all classes, and of each class if there are several."""
    each = rows if len(classes) > 1 else rows[:1]
    return {
        f"{prefix}{name}{end}": getattr(row, name)
        for row, end in zip(each, ["", *(f".{one}" for one in classes)], strict=False)
        for name in ("f1", "precision", "recall")
    }


def _iou_scores(sums: Floats, _: Sequence[str]) -> Scores:
    *both, predicted, truth = sums.sum(axis=0).tolist()
    f1 = {percent: ratio(2 * n, predicted + truth) for percent, n in zip(IOU_PERCENTS, both, strict=True)}
    return {"f1_50_90": mean(f1.values())} | {f"f1@{p / 100:g}": f1[p] for p in (60, 70, 80, 90)}


def _detected(comparison: Comparison) -> Floats:
    """A row of counts per class, (classes, 3), as `Detection` has them; 0 where no distance is known."""
    counts = np.zeros((comparison.classes, 3))
    assert comparison.centroids is not None
    if comparison.mpp is None:
        return counts
    for row, class_id in enumerate(range(1, comparison.classes + 1)):
        predicted, truth = (side.points(class_id) for side in comparison.centroids)
        both = match_points(predicted, truth, comparison.radius_um / comparison.mpp)[0]
        counts[row] = len(both), len(predicted), len(truth)
    return counts


def _detection_scores(sums: Floats, classes: Sequence[str]) -> Scores:
    return _found("detection_", [Detection(*row) for row in [sums.sum(axis=0).tolist(), *sums.tolist()]], classes)


def _by_size(comparison: Comparison) -> Floats:
    """Histograms as `found_by_size` gives them; 0 where sizes are unknown."""
    if comparison.mpp is None:
        return np.zeros((2, BINS))
    classes, mpp, overlap = range(1, comparison.classes + 1), comparison.mpp, _overlap(comparison)
    histograms: Floats = np.sum([found_by_size(overlap.of_class(class_id), mpp) for class_id in classes], axis=0)
    return histograms


def _size_scores(sums: Floats, _: Sequence[str]) -> Scores:
    recalls = (f"recall_{name}" for name in ("smallest", "small", "large", "largest"))
    return dict(zip(recalls, recall_of_quarters(sums), strict=True))


def _probabilities(comparison: Comparison) -> Floats:
    if comparison.probabilities is None:
        return np.zeros((comparison.classes, 2, 256))
    return comparison.probabilities.astype(np.float64)


def _each_class(name: str, of: Callable[[Floats], float]) -> Callable[[Floats, Sequence[str]], Scores]:
    """The mean over the classes that have a value, and the value of each, of counts (classes, ...)."""
    return lambda sums, classes: _mean_and_each(name, [of(one) for one in sums], classes)


def _pq_scores(sums: Floats, classes: Sequence[str]) -> Scores:
    rows = [Matches(*row) for row in sums.tolist()]
    means = {"sq": mean([row.sq for row in rows]), "rq": mean([row.f1 for row in rows])}
    return _mean_and_each("pq", [row.pq for row in rows], classes) | means


def _aji_scores(sums: Floats, _: Sequence[str]) -> Scores:
    return {"aji": Aggregated(*sums.sum(axis=0).tolist()).aji}


def _seg_scores(sums: Floats, _: Sequence[str]) -> Scores:
    return {"seg": Seg(*sums.sum(axis=0).tolist()).mean}


def _merged_scores(sums: Floats, _: Sequence[str]) -> Scores:
    pooled = Separation(*sums.sum(axis=0).tolist())
    return {"merged_per_100": 100 * ratio(pooled.merged, pooled.truth)}


def _split_scores(sums: Floats, _: Sequence[str]) -> Scores:
    pooled = Separation(*sums.sum(axis=0).tolist())
    return {"split_per_100": 100 * ratio(pooled.split, pooled.truth)}


def _averaged(
    description: str, needs: Need, names: Sequence[str], of: Callable[[Comparison], Sequence[float]]
) -> Metric:
    """A metric of one image at a time: the mean over the images that have a value."""

    def measure(comparison: Comparison) -> Floats:
        values = of(comparison)
        return np.zeros(len(names) + 1) if math.isnan(values[0]) else np.array([*values, 1.0])

    def score(sums: Floats, _: Sequence[str]) -> Scores:
        *values, images = sums.tolist()
        return {name: ratio(value, images) for name, value in zip(names, values, strict=True)}

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
    "f1_50_90": Metric(
        "mean F1 of objects over IoU > 0.5, 0.55, ... 0.9; some of them",
        "overlap",
        _by_object(found_by_iou),
        _iou_scores,
    ),
    "detection_f1": Metric(
        f"objects found by their centroids, within {RADIUS_UM:g} um (--radius): F1, precision, recall",
        "centroids",
        _detected,
        _detection_scores,
    ),
    "recall_smallest": Metric(
        "recall of the smallest quarter of the true objects, and of the other three",
        "overlap",
        _by_size,
        _size_scores,
    ),
    "pq": Metric("panoptic quality of each class, and its mean; SQ, RQ", "overlap", _by_object(matches), _pq_scores),
    "aji": Metric("aggregated Jaccard index", "overlap", _by_object(aggregated_jaccard), _aji_scores),
    "seg": Metric("SEG of the Cell Tracking Challenge", "overlap", _by_object(seg), _seg_scores),
    "merged_per_100": Metric(
        "of 100 truth objects, how many are merged with another", "overlap", _by_object(separation), _merged_scores
    ),
    "split_per_100": Metric(
        "of 100 truth objects, how many are split", "overlap", _by_object(separation), _split_scores
    ),
    "average_precision": Metric(
        "area below precision over recall of pixels, by their probability, of each class; and the mean",
        "probabilities",
        _probabilities,
        _each_class("average_precision", average_precision),
    ),
    "ece": Metric(
        "expected calibration error of pixels, of each class, and their mean",
        "probabilities",
        _probabilities,
        _each_class("ece", calibration_error),
    ),
}
"""Every metric by its name, which is that of its first score, too."""

LOWER_IS_BETTER = (
    "pixel_error",
    "adapted_rand_error",
    "variation_of_information",
    "warping_error",
    "merged_per_100",
    "split_per_100",
    "ece",
)
"""Those of which lower is better; of the others higher."""
OF_PROBABILITIES = tuple(name for name, metric in METRICS.items() if metric.needs == "probabilities")
"""Those that have a value only where predictions have probabilities."""
DEFAULT_METRICS = tuple(name for name in METRICS if name not in ("warping_error", *OF_PROBABILITIES))
"""The others, but for the one that needs whole images, and minutes for a large one."""


OF_LABELS = tuple(name for name in METRICS if name not in OF_PROBABILITIES)
"""Those that follow from labels alone."""


def check_metrics(names: Sequence[str], allowed: Sequence[str] = tuple(METRICS)) -> tuple[str, ...]:
    """``names`` without duplicates, if all are ``allowed``.

    Raises
    ------
    UsageError
        If one is not, or there are no names.
    """
    unknown = sorted(set(names) - set(allowed))
    if unknown or not names:
        what = f"unknown metric {', '.join(unknown)}" if unknown else "no metric was requested"
        raise UsageError(f"{what}; choose from {', '.join(allowed)} (--metrics)")
    return tuple(dict.fromkeys(names))


def _mean_and_each(name: str, values: Sequence[float], classes: Sequence[str]) -> Scores:
    each = {f"{name}.{class_name}": value for class_name, value in zip(classes, values, strict=True)}
    return {name: mean(values)} | each
