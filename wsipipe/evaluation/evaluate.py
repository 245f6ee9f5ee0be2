"""Predictions in files, paired with their labels and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from wsipipe.errors import UsageError
from wsipipe.evaluation.blockwise import check_sizes
from wsipipe.evaluation.metrics import DEFAULT_METRICS, METRICS, Scores, check_metrics
from wsipipe.evaluation.pairing import pair
from wsipipe.evaluation.predicted_objects import PredictedObjects, find_objects
from wsipipe.evaluation.sources import Are, PredictionsAre, open_pairs
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
    objects: PredictedObjects | None
    """What an object of the predictions is; None if no score is about objects."""


def evaluate(
    predictions: Path,
    labels: Path,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    predictions_are: PredictionsAre | None = None,
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
        What the values of the rasters stand for; every instance has class 1. None for predictions: their objects are
        those in the tables of their stores (``objects``) where they have them, otherwise connected components
        (``classes``).
    mapped
        Values of the labels, each with the value of the predictions that it stands for.

    Raises
    ------
    UsageError
        If a metric is unknown, files do not pair or differ in size, the classes cannot be told, or only some
        predictions have tables of objects.
    SlideError
        If a file cannot be read, is not a label raster, or has values that stand for nothing.
    """
    metrics = check_metrics(metrics)
    for are, allowed in ((predictions_are, (None, *get_args(PredictionsAre))), (labels_are, get_args(Are))):
        if are not in allowed:
            raise UsageError(f"values must be {' or '.join(filter(None, allowed))}, not {are}")
    if mapped and labels_are == "instances":
        raise UsageError("--map is for labels that are classes; with --labels-are instances leave it out")
    pairs = pair(predictions, labels)
    objects = None
    if any(METRICS[name].needs == "overlap" for name in metrics):
        objects = find_objects([prediction for prediction, _ in pairs.values()], predictions_are)
    values: Are = "instances" if predictions_are == "instances" else "classes"
    classes, planes = open_pairs(
        list(pairs.values()), values, labels_are, mapped=mapped or {}, tables=objects.tables if objects else ()
    )
    for predicted, truth in planes:
        check_sizes(predicted, truth)
    tally = Tally(classes.names, metrics)
    for predicted, truth in planes:
        tally.add_planes(predicted, truth)
    images = (
        ImageScores(name, str(prediction), str(path), scores)
        for (name, (prediction, path)), scores in zip(pairs.items(), tally.per_image(), strict=True)
    )
    return Evaluation(tuple(images), tally.scores(), objects and objects.rule)
