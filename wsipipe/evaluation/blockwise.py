"""Two label images of any size, compared block by block.

Memory does not grow with their pixels, only with the pairs of objects that overlap, by a row each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsipipe.arrays import Mask, size_text
from wsipipe.errors import UsageError
from wsipipe.evaluation.calibration import count_probabilities
from wsipipe.evaluation.centroids import Centroids
from wsipipe.evaluation.counts import Confusion, Overlap
from wsipipe.evaluation.detection import RADIUS_UM
from wsipipe.evaluation.metrics import Comparison, Need
from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.components import Components
from wsipipe.objects.numbers import Counts, Integers, number_objects

READ_BLOCK_PX = 2048
"""Default side, in pixels, of the blocks that are read at once."""
WARPING_LIMIT_PX = 2**24
"""The largest image whose warping error is computed, in pixels: 4096 x 4096. It takes the whole image at once."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of some pixels."""

    classes: Integers
    """(y, x): class ids, 0 for the background."""
    instances: Integers | None = None
    """(y, x): ids of instances, 0 for none; None if an instance is a connected component of the classes."""
    inside: Mask | None = None
    """(y, x): the pixels to count; None for all."""
    probabilities: npt.NDArray[np.uint8] | None = None
    """(class, y, x): round(255 p) of each class but the background; None if there are none."""


@dataclass(frozen=True)
class Terms:
    """What is taken for an object in a comparison, and for the same object."""

    mpp: float | None = None
    """Micrometres per pixel; None if unknown."""
    connectivity: int = 4
    """Whether connected components join pixels that touch at a corner (8) or not (4)."""
    predicted_px: float = 0.0
    """Least area of a predicted object, in pixels; smaller ones are left out."""
    truth_px: float = 0.0
    """Least area of a true object, in pixels."""
    radius_um: float = RADIUS_UM
    """Largest distance of the centroids of two objects that are taken for the same, in micrometres."""


NO_TERMS = Terms()


class LabelPlane(Protocol):
    """A label image, read block by block."""

    @property
    def name(self) -> str:
        """The name for messages."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        ...

    def read(self, box: Box) -> Labelled:
        """The labels within ``box``."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayPlane:
    """A plane of arrays in memory."""

    name: str
    """The name for messages."""
    labelled: Labelled
    """All of its pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.labelled.classes.shape
        return height, width

    def read(self, box: Box) -> Labelled:
        """See `LabelPlane.read`."""
        whole = self.labelled
        return Labelled(
            whole.classes[box.slices],
            None if whole.instances is None else whole.instances[box.slices],
            None if whole.inside is None else whole.inside[box.slices],
            None if whole.probabilities is None else whole.probabilities[:, *box.slices],
        )


def compare(
    predicted: LabelPlane,
    truth: LabelPlane,
    classes: int,
    *,
    needs: Collection[Need],
    terms: Terms = NO_TERMS,
    block_px: int = READ_BLOCK_PX,
) -> Comparison:
    """Count what two planes have in common; the counts do not depend on the size of the blocks.

    If a plane says which pixels are inside, a pixel that is not inside in both planes is not counted. It becomes
    background before objects are found, so an object counts with its part inside.

    Parameters
    ----------
    predicted, truth
        Planes of the same size.
    classes
        Number of classes besides the background.
    needs
        What to count besides the classes of pixels.
    terms
        What an object is.
    block_px
        Side in pixels of the blocks that are read at once.

    Raises
    ------
    UsageError
        If the sizes differ, a class is unknown, or the warping error is needed and the image is too large for it.
    SlideError
        If pixels cannot be read.
    """
    check_sizes(predicted, truth)
    warping = _warping(predicted, truth, classes) if "warping" in needs else None  # first, since it may be refused
    confusion = Confusion(np.zeros((classes + 1, classes + 1), np.int64))
    probable = None
    centroids = "centroids" in needs
    sides = _Objects(predicted, terms.connectivity, centroids), _Objects(truth, terms.connectivity, centroids)
    tables = []
    for box in boxes(truth.shape, block_px):
        p, t, counted = _read_both(predicted, truth, box, classes)
        confusion += Confusion.of(_only(p.classes, counted), _only(t.classes, counted), classes)
        if "probabilities" in needs and p.probabilities is not None:
            pixels = p.probabilities if counted is None else p.probabilities[:, counted]
            found = count_probabilities(pixels, _only(t.classes, counted))
            probable = found if probable is None else probable + found
        if "overlap" in needs or centroids:
            numbers = (side.add(box, labelled) for side, labelled in zip(sides, (p, t), strict=True))
            tables.append(Overlap.of(*(_only(number, counted) for number in numbers)))
    counted_pixels = Comparison(
        classes, confusion, warping=warping, probabilities=probable, mpp=terms.mpp, radius_um=terms.radius_um
    )
    return _with_objects(counted_pixels, tables, sides, terms) if tables else counted_pixels


def _with_objects(
    pixels: Comparison, tables: Iterable[Overlap], sides: tuple[_Objects, _Objects], terms: Terms
) -> Comparison:
    """The counts of pixels, and those of objects, from the overlaps of parts of objects, block by block."""
    parts = Overlap.total(tables)
    whole = parts.renamed(predicted=sides[0].whole(parts.predicted), truth=sides[1].whole(parts.truth))
    centroids = sides[0].centroids(terms.predicted_px), sides[1].centroids(terms.truth_px)
    return replace(
        pixels,
        overlap=whole.without_small(predicted_px=terms.predicted_px, truth_px=terms.truth_px),
        centroids=centroids,
    )


def check_sizes(predicted: LabelPlane, truth: LabelPlane) -> None:
    """Refuse planes of different sizes.

    Raises
    ------
    UsageError
        If they differ.
    """
    if predicted.shape != truth.shape:
        sizes = [f"{plane.name} is {size_text(plane.shape)}" for plane in (predicted, truth)]
        raise UsageError(f"{sizes[0]}, and {sizes[1]}; only labels of the same size can be compared")


class _Objects:
    """The objects of one plane, block by block: given as instances, or found as connected components."""

    def __init__(self, plane: LabelPlane, connectivity: int, centroids: bool) -> None:
        self._components = Components(plane.shape[1], connectivity=connectivity)
        self._located: list[Centroids] | None = [] if centroids else None

    def add(self, box: Box, labelled: Labelled) -> Counts:
        if labelled.instances is not None:
            numbers = number_objects(labelled.classes, labelled.instances)
        else:
            numbers = self._components.add(box, labelled.classes)
        if self._located is not None:
            self._located.append(Centroids.of(numbers, box))
        return numbers

    def whole(self, parts: Counts) -> Counts:
        return self._components.whole(parts)

    def centroids(self, least_px: float) -> Centroids:
        parts = Centroids.total(self._located or ())
        return parts.renamed(self.whole(parts.numbers)).without_small(least_px)


def _read_both(
    predicted: LabelPlane, truth: LabelPlane, box: Box, classes: int
) -> tuple[Labelled, Labelled, Mask | None]:
    """The labels of both within ``box``, set to background where they do not count, and the mask of what counts."""
    sides = [plane.read(box) for plane in (predicted, truth)]
    masks = [side.inside for side in sides if side.inside is not None]
    counted = np.logical_and.reduce(masks) if masks else None
    for plane, side in zip((predicted, truth), sides, strict=True):
        _check_classes(plane, _only(side.classes, counted), classes)
    p, t = (replace(side, classes=_masked(side.classes, counted)) for side in sides)
    return p, t, counted


def _check_classes(plane: LabelPlane, values: Integers, classes: int) -> None:
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= classes:
        raise UsageError(
            f"{plane.name} has class ids from {values.min()} to {values.max()}; allowed: 0 (background) to "
            f"{classes}; if they are object ids, give them as instances"
        )


def _masked(values: Integers, counted: Mask | None) -> Integers:
    return values if counted is None else np.where(counted, values, values.dtype.type(0))


def _only(values: Integers, counted: Mask | None) -> Integers:
    return values if counted is None else values[counted]


def _warping(predicted: LabelPlane, truth: LabelPlane, classes: int) -> float:
    """The warping error of everything but the background.

    Raises
    ------
    UsageError
        If the image is too large.
    """
    height, width = truth.shape
    if height * width > WARPING_LIMIT_PX:
        raise UsageError(
            f"{truth.name} is {size_text((height, width))}: the warping error takes a whole image at once, of at most "
            f"{WARPING_LIMIT_PX} px, such as 4096 x 4096; leave warping_error out (--metrics)"
        )
    from wsipipe.evaluation.warping import warping_error

    p, t, _ = _read_both(predicted, truth, Box(0, height, 0, width), classes)
    return float(warping_error(p.classes > 0, t.classes > 0))
