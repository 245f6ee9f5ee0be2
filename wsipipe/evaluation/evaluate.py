"""Predictions in files, paired with their labels and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from wsipipe.errors import UsageError
from wsipipe.evaluation.blockwise import check_sizes
from wsipipe.evaluation.metrics import DEFAULT_METRICS, Scores, check_metrics
from wsipipe.evaluation.pairing import pair
from wsipipe.evaluation.sources import Are, open_pairs
from wsipipe.evaluation.tally import Tally


@dataclass(frozen=True)
class ImageScores:
    """The scores of one image."""

    name: str
    """The name that the prediction and its labels share."""
    prediction: str
    """Path of the prediction."""
    labels: str
    """Path of the labels."""
    scores: Scores
    """Scores by name; NaN where there is no value."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a set of images."""

    images: tuple[ImageScores, ...]
    """The images, in the order of their names."""
    scores: Scores
    """The scores over all images (see `Tally`)."""


def evaluate(
    predictions: Path,
    labels: Path,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    predictions_are: Are = "classes",
    labels_are: Are = "classes",
    mapped: Mapping[int, int] | None = None,
) -> Evaluation:
    """Compare predictions with labels, block by block, in memory that does not depend on their size.

    Parameters
    ----------
    predictions, labels
        A label raster each (a store of ``wsipipe run``, OME-Zarr, TIFF, PNG), or a folder of such; the labels may be
        GeoJSON too.
    metrics
        Names in `wsipipe.evaluation.metrics.METRICS`.
    predictions_are, labels_are
        What the values of the rasters stand for; every instance has class 1.
    mapped
        Values of the labels, each with the value of the predictions that it stands for.

    Raises
    ------
    UsageError
        If a metric is unknown, files do not pair or differ in size, or the classes cannot be told.
    SlideError
        If a file cannot be read, is not a label raster, or has values that stand for nothing.
    """
    metrics = check_metrics(metrics)
    for are in (predictions_are, labels_are):
        if are not in get_args(Are):
            raise UsageError(f"values must be {' or '.join(get_args(Are))}, not {are}")
    if mapped and labels_are == "instances":
        raise UsageError("--map is for labels that are classes; with --labels-are instances leave it out")
    pairs = pair(predictions, labels)
    classes, planes = open_pairs(list(pairs.values()), predictions_are, labels_are, mapped=mapped or {})
    for predicted, truth in planes:
        check_sizes(predicted, truth)
    tally = Tally(classes.names, metrics)
    for predicted, truth in planes:
        tally.add_planes(predicted, truth)
    images = (
        ImageScores(name, str(prediction), str(path), scores)
        for (name, (prediction, path)), scores in zip(pairs.items(), tally.per_image(), strict=True)
    )
    return Evaluation(tuple(images), tally.scores())
