"""Predictions and labels in files, opened as planes on one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsipipe.errors import UsageError
from wsipipe.evaluation.blockwise import LabelPlane
from wsipipe.evaluation.classes import ONE_CLASS, Classes, common_classes, found_classes, name_classes
from wsipipe.evaluation.grids import Extent, Meeting, On, meet
from wsipipe.evaluation.pairing import ANNOTATIONS
from wsipipe.evaluation.planes import AnnotationPlane, Are, RasterPlane, TablePlane, with_probabilities
from wsipipe.evaluation.resampled import Lattice, resampled
from wsipipe.rasters.label_raster import LabelRaster
from wsipipe.rasters.labels import open_label_raster
from wsipipe.store.image_label import parse_image_label, read_attributes

if TYPE_CHECKING:
    from wsipipe.objects.read import ObjectTable


@dataclass(frozen=True, eq=False)
class Meant:
    """What the values in files stand for."""

    predictions: Are = "classes"
    """Those of the predictions."""
    labels: Are = "classes"
    """Those of the labels."""
    values: Mapping[int, int | str] | None = None
    """Values of the labels, each with the value of the predictions or the name of the class that it stands for."""
    predicted_tables: Sequence[ObjectTable] = ()
    """The tables with the objects of the predictions, one for each; empty if their pixels have them."""
    true_tables: Sequence[ObjectTable] = ()
    """The same of the labels."""


@dataclass(frozen=True, eq=False)
class OpenedPair:
    """A prediction and its labels on one grid."""

    prediction: LabelPlane
    labels: LabelPlane
    meeting: Meeting
    """How they met there."""


def open_pairs(
    pairs: Sequence[tuple[Path, Path]], meant: Meant, *, on: On | None = None, probabilities: bool = False
) -> tuple[Classes, list[OpenedPair]]:
    """The classes, and the planes of each pair.

    Parameters
    ----------
    pairs
        (prediction, labels).
    meant
        What their values stand for.
    on
        Whose grid; None: that of the labels, but where these are outlines that of the prediction.
    probabilities
        Whether to read the probabilities of the predictions, which are stores that have them.

    Raises
    ------
    UsageError
        If the classes cannot be told, predictions name different ones, or no grid fits both.
    SlideError
        If a file cannot be read, or is not a label raster.
    """
    rasters = [open_label_raster(prediction) for prediction, _ in pairs]
    others = [None if path.suffix.lower() in ANNOTATIONS else open_label_raster(path) for _, path in pairs]
    named = ONE_CLASS if meant.predictions == "instances" else common_classes([prediction for prediction, _ in pairs])
    named, mapped = name_classes(named, meant.values or {})
    for (prediction, path), other in zip(pairs, others, strict=True):
        if other is None and (named is None or named is ONE_CLASS):
            raise UsageError(
                f"{path.name} has named classes, but {prediction.name} names none; give predictions of wsipipe run, "
                "labels that are a raster, or the name of each value (--map 1=nucleus)"
            )
    of_classes = [other for other in others if other is not None and meant.labels == "classes"]
    classes = named or found_classes(rasters, of_classes, mapped)
    opened = []
    for index, ((prediction, path), raster, other) in enumerate(zip(pairs, rasters, others, strict=True)):
        plane: LabelPlane
        plane = predicted = RasterPlane(raster, classes, meant.predictions, "--predictions-are", {})
        if meant.predicted_tables:
            plane = TablePlane(predicted, meant.predicted_tables[index])
        if probabilities:
            plane = with_probabilities(plane, prediction, classes)
        where = replace(_extent(raster), downsample=stored_downsample(prediction))
        truth: LabelPlane
        if other is None:
            meeting = _meet_outlines(where, on)
            downsample = 1.0 if on == "labels" else stored_downsample(prediction)
            truth = _outlines(path, meeting, classes, downsample, prediction.name)
        else:
            meeting = meet(where, _extent(other), on or "labels")
            truth = labels = RasterPlane(other, classes, meant.labels, "--labels-are", mapped)
            if meant.true_tables:
                truth = TablePlane(labels, meant.true_tables[index])
        opened.append(OpenedPair(resampled(plane, meeting.prediction), resampled(truth, meeting.labels), meeting))
    return classes, opened


def stored_downsample(path: Path) -> float:
    """Pixels of the slide's finest level that one pixel of the image-label at ``path`` spans; 1 if it does not say.

    Raises
    ------
    DamagedStoreError
        If its attributes cannot be read.
    """
    return parse_image_label(read_attributes(path)).downsample


def _extent(raster: LabelRaster) -> Extent:
    return Extent(raster.name, raster.shape, raster.mpp, raster.corner_um)


def _meet_outlines(prediction: Extent, on: On | None) -> Meeting:
    """The grid for outlines: the prediction's, or that of their coordinates, which is the slide's finest level."""
    assert prediction.downsample
    own = Lattice(prediction.shape[0]), Lattice(prediction.shape[1])
    if on != "labels" or prediction.downsample == 1:
        return Meeting(own, own, prediction.mpp)
    by = prediction.downsample
    read = [Lattice(round(side * by), side, 1 / by) for side in prediction.shape]
    drawn = [Lattice(lattice.count) for lattice in read]
    mpp = prediction.mpp and prediction.mpp / by
    where = "the slide's finest level" if mpp is None else f"{mpp:.4g} um/px, the labels' grid"
    remark = f"compared at {where}; the store has " + (f"{by:.4g} times that" if mpp is None else f"{mpp * by:.4g}")
    return Meeting((read[0], read[1]), (drawn[0], drawn[1]), mpp, remark)


def _outlines(path: Path, meeting: Meeting, classes: Classes, downsample: float, image: str) -> LabelPlane:
    """Outlines of an image, drawn in the pixels of the grid."""
    from wsipipe.rasters.annotations import open_annotations  # imports shapely, for outlines only

    rows, cols = meeting.labels
    shape = rows.count, cols.count
    return AnnotationPlane(open_annotations(path, shape, classes.names, downsample=downsample, image=image))
