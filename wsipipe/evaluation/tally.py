"""The scores of a set of images, added up one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Mask
from wsipipe.errors import UsageError
from wsipipe.evaluation.blockwise import NO_TERMS, READ_BLOCK_PX, ArrayPlane, Labelled, LabelPlane, Terms, compare
from wsipipe.evaluation.metrics import DEFAULT_METRICS, METRICS, Comparison, Need, Scores, check_metrics
from wsipipe.evaluation.object_metrics import Matches
from wsipipe.evaluation.ratios import Floats
from wsipipe.objects.numbers import MAX_CLASSES, Integers


class Tally:
    """The scores of each image, and of all images.

    Counts of pixels and of objects are pooled over the images: pixel error, Dice, IoU, F1, detection, recall by size,
    PQ, AJI, SEG, merged and split, average precision and calibration. The adapted Rand error, the variation of
    information and the warping error are the mean over the images that have a value; the program of ISBI 2012 pools the
    pairs of pixels of all slices for its Rand error. Objects are matched within their class only. Dice, IoU, PQ,
    average precision and calibration are the mean over the classes, and are given for each class too, as in
    ``dice.nucleus``; the other scores of objects are pooled over the classes, and F1 and detection are given for each
    class too where there are several.

    A score without a value is NaN. Where neither prediction nor truth has an object, that is every score but the
    pixel error, which is 0; where only the prediction has, precision, F1, detection, PQ, RQ, Dice, IoU and AJI are 0,
    and recall, SQ, SEG, merged, split, Rand error and variation of information NaN; where only the truth has, precision
    and SQ are NaN and the others 0, or what their definitions give. Detection and recall by size need a resolution.

    Parameters
    ----------
    classes
        Names of the classes from 1; 0 is the background.
    metrics
        Names in `METRICS`.

    Raises
    ------
    UsageError
        If a metric is unknown, or there are no classes or too many.
    """

    def __init__(self, classes: Sequence[str], metrics: Sequence[str] = DEFAULT_METRICS) -> None:
        if not 1 <= len(classes) <= MAX_CLASSES:
            raise UsageError(f"{len(classes)} classes besides the background; 1 to {MAX_CLASSES} are allowed")
        self.classes = tuple(classes)
        self.metrics = check_metrics(metrics)
        self.needs: frozenset[Need] = frozenset(METRICS[name].needs for name in self.metrics)
        self._images: list[dict[str, Floats]] = []

    def add(
        self,
        predicted_classes: npt.NDArray[Any],
        truth_classes: npt.NDArray[Any],
        *,
        truth_instances: npt.NDArray[Any] | None = None,
        predicted_instances: npt.NDArray[Any] | None = None,
        inside: Mask | None = None,
        mpp: float | None = None,
    ) -> None:
        """Count one image.

        Parameters
        ----------
        predicted_classes, truth_classes
            (y, x), integers or bool: class ids, 0 for the background.
        truth_instances, predicted_instances
            (y, x), integers: ids of instances, 0 for none; a pixel of class 0 belongs to none. By default
            the connected components of the classes (`wsipipe.objects.components`).
        inside
            (y, x), bool: the pixels to count. The others are neither right nor wrong; an object at the border of the
            region counts with its part inside.
        mpp
            Micrometres per pixel; without it, scores of distances and sizes have no value.

        Raises
        ------
        UsageError
            If shapes differ, an array is not of integers, or a class id is above the number of classes.
        """
        arrays = {
            "predicted classes": predicted_classes,
            "truth classes": truth_classes,
            "predicted instances": predicted_instances,
            "truth instances": truth_instances,
        }
        given = {name: _integers(array, name) for name, array in arrays.items() if array is not None}
        shapes = {name: array.shape for name, array in (given | ({} if inside is None else {"inside": inside})).items()}
        if len(set(shapes.values())) > 1:
            raise UsageError(f"arrays of one image have different shapes: {shapes}")
        predicted = Labelled(given["predicted classes"], given.get("predicted instances"))
        truth = Labelled(given["truth classes"], given.get("truth instances"), inside)
        planes = ArrayPlane("prediction", predicted), ArrayPlane("truth", truth)
        self.add_planes(*planes, terms=Terms(mpp), block_px=max(1, *predicted.classes.shape))

    def add_planes(
        self,
        predicted: LabelPlane,
        truth: LabelPlane,
        *,
        terms: Terms = NO_TERMS,
        block_px: int = READ_BLOCK_PX,
    ) -> Comparison:
        """Count one image of any size, block by block; the scores do not depend on the blocks.

        Raises
        ------
        UsageError
            If the sizes differ, a class id is above the number of classes, or the image is too large for
            the warping error.
        SlideError
            If pixels cannot be read.
        """
        found = compare(predicted, truth, len(self.classes), needs=self.needs, terms=terms, block_px=block_px)
        self.add_comparison(found)
        return found

    def add_comparison(self, comparison: Comparison) -> None:
        """Add the counts of one image."""
        self._images.append({name: METRICS[name].measure(comparison) for name in self.metrics})

    def scores(self) -> Scores:
        """The scores of all images, by name.

        Raises
        ------
        UsageError
            If no image was added.
        """
        if not self._images:
            raise UsageError("no image was compared, so there are no scores")
        return self.score_sums({name: np.sum(numbers, axis=0) for name, numbers in self.numbers().items()})

    def per_image(self) -> list[Scores]:
        """The scores of each image by itself, in the order in which they were added."""
        return [self.score_sums(image) for image in self._images]

    def numbers(self) -> dict[str, Floats]:
        """The numbers of each image that scores follow from, (images, ...), float64, by metric."""
        return {name: np.stack([image[name] for image in self._images]) for name in self.metrics}

    def matches(self) -> list[list[Matches]]:
        """How many objects there are, and were found, of each class in each image; empty without `f1`."""
        return [[Matches(*row) for row in image["f1"].tolist()] for image in self._images if "f1" in image]

    def score_sums(self, sums: Mapping[str, Floats]) -> Scores:
        """The scores of sums of such numbers over images, (...), float64, by metric."""
        scores: Scores = {}
        for name in self.metrics:
            scores |= METRICS[name].score(sums[name], self.classes)
        return scores


def _integers(array: npt.NDArray[Any], name: str) -> Integers:
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise UsageError(f"{name} are {array.dtype} of shape {array.shape}: integers of shape (y, x) are needed")
    return array
