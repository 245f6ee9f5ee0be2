"""Predictions in files, paired with their labels and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from wsipipe.errors import StoreError, UsageError
from wsipipe.evaluation.blockwise import Terms, check_sizes
from wsipipe.evaluation.bootstrap import Difference, Scored, score_differences, score_with_intervals
from wsipipe.evaluation.detection import RADIUS_UM
from wsipipe.evaluation.grids import On
from wsipipe.evaluation.metrics import (
    DEFAULT_METRICS,
    LOWER_IS_BETTER,
    METRICS,
    OF_PROBABILITIES,
    Need,
    Scores,
    check_metrics,
)
from wsipipe.evaluation.object_metrics import Matches
from wsipipe.evaluation.object_rule import FoundObjects, ObjectRule, ValuesAre, find_objects
from wsipipe.evaluation.pairing import pair
from wsipipe.evaluation.planes import Are
from wsipipe.evaluation.sizes import diameter_quartiles
from wsipipe.evaluation.sources import Meant, OpenedPair, open_pairs
from wsipipe.evaluation.tally import Tally
from wsipipe.evaluation.wrong import window_of_errors
from wsipipe.geometry.grid import Box
from wsipipe.store.finished import is_store, open_finished


@dataclass(frozen=True)
class Options:
    """How predictions are compared with labels."""

    metrics: Sequence[str] | None = None
    """Names in `METRICS`; None: `DEFAULT_METRICS`, and those of probabilities where all predictions have them."""
    predictions_are: ValuesAre | None = None
    """Meaning of the values of the predictions; every instance has class 1. None: their objects are those in the tables
    of their stores (``objects``) where they have them, otherwise connected components (``classes``)."""
    labels_are: ValuesAre | None = None
    """Meaning of the values of the labels; None: ``classes``, but ``objects`` where both sides have tables of them."""
    mapped: Mapping[int, int | str] = field(default_factory=dict)
    """Values of the labels, each with the value of the predictions, or the name of the class, that it stands for."""
    on: On | None = None
    """Whose pixels are the grid where the two differ; None: the labels', but where these are outlines the store's."""
    min_area_um2: float | None = None
    """Area of the smallest component or instance that is an object, in square micrometres; None: as the models say."""
    radius_um: float = RADIUS_UM
    """Largest distance of the centroids of two objects that are taken for the same, in micrometres."""


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
    matches: Matches | None = None
    """How many objects there are, and were found at IoU > 0.5; None if that was not counted."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a set of images."""

    images: tuple[ImageScores, ...]
    """The images, in the order of their names."""
    scored: Scored
    """The scores of all images together, and their mean, with intervals."""
    objects: ObjectRule | None
    """What an object of the predictions is; None if no score is about objects."""
    true_objects: ObjectRule | None
    """What an object of the labels is."""
    matches: Mapping[str, Matches]
    """How many objects of each class there are, and were found, by its name; empty if that was not counted."""
    remarks: tuple[str, ...]
    """On which grids images were compared, where their pixels differed, and what lacks a resolution; each once."""
    tally: Tally
    """What the scores follow from."""
    pairs: tuple[OpenedPair, ...]
    """The planes that were compared, in the order of `images`."""
    terms: tuple[Terms, ...]
    """What was taken for an object in each of them."""
    windows: tuple[Box, ...]
    """The part of each that is worth a look: where most objects are wrong; the first if no score is about objects."""

    @property
    def scores(self) -> Scores:
        """The scores of all images together (see `Tally`)."""
        return self.scored.pooled

    @property
    def quartiles_um(self) -> list[float]:
        """The diameters between the quarters of the true objects; NaN where unknown, none if that was not counted."""
        numbers = self.tally.numbers().get("recall_smallest")
        return [] if numbers is None else diameter_quartiles(numbers.sum(axis=0))

    @property
    def radius_um(self) -> float:
        """Largest distance of the centroids of two objects that are taken for the same, in micrometres."""
        return self.terms[0].radius_um

    @property
    def headline(self) -> str:
        """The score by which images, and predictions, are ranked: F1 if it was asked for, else the first."""
        return "f1" if "f1" in self.scores else self.tally.metrics[0]

    @property
    def worst_first(self) -> list[int]:
        """The indices of `images`, those with the worst `headline` first; those without a value last."""
        sign = -1 if self.headline in LOWER_IS_BETTER else 1
        values = [sign * image.scores[self.headline] for image in self.images]
        return sorted(range(len(values)), key=lambda index: (values[index] != values[index], values[index]))


def evaluate(predictions: Path, labels: Path, options: Options | None = None) -> Evaluation:
    """Compare predictions with labels as `evaluate_pairs` does, paired by their names.

    Parameters
    ----------
    predictions, labels
        A label raster each (a store of ``wsipipe run``, OME-Zarr, TIFF, PNG), or a folder of such; the labels may be
        GeoJSON too.
    options
        How.

    Raises
    ------
    UsageError
        If files do not pair, or as `evaluate_pairs`.
    SlideError
        As `evaluate_pairs`.
    """
    return evaluate_pairs(pair(predictions, labels), options)


def evaluate_pairs(found: Mapping[str, tuple[Path, Path]], options: Options | None = None) -> Evaluation:
    """Compare predictions with labels, block by block, in memory that does not depend on their size.

    Parameters
    ----------
    found
        (prediction, labels) by the name of the image.
    options
        How.

    Raises
    ------
    UsageError
        If a metric is unknown, files do not fit each other, the classes cannot be told, or only some
        predictions have tables of objects.
    SlideError
        If a file cannot be read, is not a label raster, or has values that stand for nothing.
    """
    options = options or Options()
    check_options(options)
    files = [prediction for prediction, _ in found.values()]
    probable = all(is_store(path) and open_finished(path).probable for path in files)
    metrics = _metrics(options, probable)
    needs = {METRICS[name].needs for name in metrics}
    rules = _rules(files, [path for _, path in found.values()], options) if needs & {"overlap", "centroids"} else None
    meant = _meant(options, rules)
    classes, opened = open_pairs(list(found.values()), meant, on=options.on, probabilities="probabilities" in needs)
    for one in opened:
        check_sizes(one.prediction, one.labels)
    terms = [_terms(one, rules, options) for one in opened]
    tally = Tally(classes.names, metrics)
    if "overlap" in tally.needs:
        tally.needs = frozenset[Need]((*tally.needs, "centroids"))  # by which `windows` are found
    compared = (tally.add_planes(one.prediction, one.labels, terms=how) for one, how in zip(opened, terms, strict=True))
    windows = tuple(window_of_errors(found, one.labels.shape) for found, one in zip(compared, opened, strict=True))
    matches = tally.matches()
    images = (
        ImageScores(name, str(prediction), str(path), scores, _total(matches[index]) if matches else None)
        for index, ((name, (prediction, path)), scores) in enumerate(zip(found.items(), tally.per_image(), strict=True))
    )
    by_class = (_total(of_images) for of_images in zip(*matches, strict=True))
    return Evaluation(
        images=tuple(images),
        scored=score_with_intervals(tally),
        objects=rules and rules[0].rule,
        true_objects=rules and rules[1].rule,
        matches=dict(zip(classes.names, by_class, strict=False)),
        remarks=tuple(
            dict.fromkeys([one.meeting.remark for one in opened if one.meeting.remark] + _unsized(terms, metrics))
        ),
        tally=tally,
        pairs=tuple(opened),
        terms=tuple(terms),
        windows=windows,
    )


def compare_evaluations(first: Evaluation, second: Evaluation) -> list[Difference]:
    """How the scores of two predictions of the same images differ, with intervals (paired bootstrap over images).

    Raises
    ------
    UsageError
        If their images or classes are not the same.
    """
    names = [[image.name for image in one.images] for one in (first, second)]
    labels = [[image.labels for image in one.images] for one in (first, second)]
    if names[0] != names[1] and labels[0] != labels[1]:
        alone = sorted(set(names[0]) ^ set(names[1]))[0]
        raise UsageError(f"{alone} is in only one of the two folders of predictions; both must have the same images")
    if first.tally.classes != second.tally.classes:
        listed = [", ".join(one.tally.classes) for one in (first, second)]
        raise UsageError(f"the first predictions have the classes {listed[0]}, the second {listed[1]}; they must agree")
    return score_differences(first.tally, second.tally)


def check_options(options: Options) -> None:
    """Refuse options that cannot be used, whatever the files.

    Raises
    ------
    UsageError
        If a metric is unknown, a number is out of its range, or options contradict each other.
    """
    if options.metrics is not None:
        check_metrics(options.metrics)
    for are in (options.predictions_are, options.labels_are):
        if are not in (None, *get_args(ValuesAre)):
            raise UsageError(f"values must be {' or '.join(get_args(ValuesAre))}, not {are}")
    named = options.predictions_are == "instances" and all(isinstance(name, str) for name in options.mapped.values())
    if options.mapped and options.labels_are == "instances" and not named:
        raise UsageError("--map is for labels that are classes; with --labels-are instances leave it out")
    for value, option in ((options.min_area_um2, "--min-area"), (options.radius_um, "--radius")):
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"{option} must be 0 or more, not {value}")


def _metrics(options: Options, probable: bool) -> tuple[str, ...]:
    """The metrics to compute.

    Raises
    ------
    UsageError
        If one is unknown.
    StoreError
        If one needs probabilities, and a prediction has none.
    """
    if options.metrics is None:
        return (*DEFAULT_METRICS, *OF_PROBABILITIES) if probable else DEFAULT_METRICS
    metrics = check_metrics(options.metrics)
    if (wanted := set(OF_PROBABILITIES) & set(metrics)) and not probable:
        raise StoreError(
            f"{', '.join(sorted(wanted))}: not all predictions are stores with probabilities; make such with wsipipe "
            "run --probabilities"
        )
    return metrics


def _rules(predictions: Sequence[Path], labels: Sequence[Path], options: Options) -> tuple[FoundObjects, FoundObjects]:
    """What an object of the predictions is, and one of the labels: the same, where the labels are stores as well."""
    predicted = find_objects(predictions, options.predictions_are, min_area_um2=options.min_area_um2)
    are = options.labels_are
    if are is None and not (predicted.rule.source == "table" and all((path / "objects").exists() for path in labels)):
        are = "classes"
    least = options.min_area_um2 if predicted.rule.source == "components" and all(map(is_store, labels)) else None
    true = find_objects(labels, are, min_area_um2=least)
    joined = max((side.rule.connectivity or 4 for side in (predicted, true) if side.rule.source == "table"), default=4)
    predicted, true = (
        side._replace(rule=replace(side.rule, connectivity=joined)) if side.rule.source == "components" else side
        for side in (predicted, true)
    )
    return predicted, true


def _meant(options: Options, rules: tuple[FoundObjects, FoundObjects] | None) -> Meant:
    predictions: Are = "instances" if options.predictions_are == "instances" else "classes"
    labels: Are = "instances" if options.labels_are == "instances" else "classes"
    tables = [side.tables for side in rules] if rules else [(), ()]
    return Meant(predictions, labels, options.mapped, tables[0], tables[1])


def _terms(one: OpenedPair, rules: tuple[FoundObjects, FoundObjects] | None, options: Options) -> Terms:
    mpp = one.meeting.mpp
    if rules is None:
        return Terms(mpp, radius_um=options.radius_um)
    predicted, true = (side.rule for side in rules)
    joined = max(rule.connectivity or 4 for rule in (predicted, true))
    return Terms(mpp, joined, predicted.least_px(mpp), true.least_px(mpp), options.radius_um)


def _unsized(terms: Sequence[Terms], metrics: Sequence[str]) -> list[str]:
    """What follows from unknown resolutions, for the user; empty if that is nothing."""
    lacking = [one for one in terms if one.mpp is None]
    if not lacking:
        return []
    said = f"{len(lacking)} of {len(terms)} images have no resolution"
    remarks = []
    if {"detection_f1", "recall_smallest"} & set(metrics):
        remarks.append(f"{said}, so detection and recall by size leave them out")
    if least := max(max(one.predicted_px, one.truth_px) for one in lacking):
        remarks.append(f"{said}; their smallest objects have {least:g} px")
    return remarks


def _total(matches: Sequence[Matches]) -> Matches:
    return Matches(*(sum(numbers) for numbers in zip(*matches, strict=True)))
