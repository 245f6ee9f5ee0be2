"""How far the labels of two networks of one description agree, on tiles of tissue, and how fast each is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from wsipipe.arrays import Labels, Pixels
from wsipipe.evaluation.blockwise import ArrayPlane, Labelled, compare
from wsipipe.evaluation.counts import Confusion
from wsipipe.evaluation.pixel_metrics import dice
from wsipipe.inference.replica import Replica
from wsipipe.model.spec import BACKGROUND, ModelSpec
from wsipipe.objects.numbers import Counts
from wsipipe.quantization.tiles import TissueTile


@dataclass(frozen=True)
class Agreement:
    """How far a network agrees with the one that it was made from."""

    tiles: int
    """Tiles that were compared."""
    labels: int
    """Labels that were compared."""
    differing: int
    """Those that differ."""
    dice: dict[str, float]
    """Of each class, by its name; NaN where neither network finds it."""
    objects: int
    """Objects of the original: connected components of a class, not smaller than the model's objects are."""
    lost: int
    """Those with which no object of the new one has an intersection over union above 0.5."""
    appeared: int
    """Objects of the new one, not smaller either, with which none of the original has."""
    speedup: float
    """Seconds of the original over those of the new one, the median over the tiles."""


class _Counts:
    """What two networks find, added up tile by tile."""

    def __init__(self, spec: ModelSpec) -> None:
        self.named = [c for c in spec.classes if c.label != BACKGROUND]
        self._index = np.zeros(256, np.uint8)
        self._index[[c.label for c in self.named]] = np.arange(1, len(self.named) + 1)
        self.confusion = Confusion(np.zeros((len(self.named) + 1,) * 2, np.int64))
        self.objects = self.lost = self.appeared = 0

    def add(self, original: Labels, new: Labels, least_px: float) -> None:
        """Count the labels (y, x) of one tile, and its objects of ``least_px`` pixels or more."""
        planes = [ArrayPlane("", Labelled(self._index[labels])) for labels in (new, original)]
        counts = compare(planes[0], planes[1], len(self.named), needs=("confusion", "overlap"))
        assert counts.overlap is not None
        self.confusion += counts.confusion
        for number in range(1, len(self.named) + 1):
            pairs = counts.overlap.of_class(number).pairs
            found = pairs.partners
            self.objects += int((pairs.truth_area >= least_px).sum())
            self.lost += count_alone(pairs.truth_area, pairs.truth[found], least_px)
            self.appeared += count_alone(pairs.predicted_area, pairs.predicted[found], least_px)


def count_alone(areas: Counts, partnered: Counts, least_px: float) -> int:
    """The number of objects of ``least_px`` or more, by their ``areas`` (n,), int64, that are not ``partnered``."""
    large = areas >= least_px
    large[partnered] = False
    return int(large.sum())


def agreement(original: Replica, new: Replica, tiles: Sequence[TissueTile]) -> Agreement:
    """Compare the labels of ``new`` with those of ``original`` on ``tiles``, core by core.

    Raises
    ------
    SlideReadError
        If tiles cannot be read.
    ModelError, MemoryLimitError
        If a network cannot compute them.
    """
    counts, ratios = _Counts(original.info.spec), []
    for tile in tiles:
        pixels = tile.pixels(original.receptive)
        (labels, seconds), (others, fewer) = (_timed(replica, pixels) for replica in (original, new))
        height, width = tile.core.shape
        least_px = original.info.spec.min_area_um2 / (tile.level.mpp or 1) ** 2
        counts.add(labels[:height, :width], others[:height, :width], least_px)
        ratios.append(seconds / fewer)
    total = int(counts.confusion.pixels.sum())
    return Agreement(
        tiles=len(tiles),
        labels=total,
        differing=total - int(counts.confusion.pixels.trace()),
        dice={c.name: float(value) for c, value in zip(counts.named, dice(counts.confusion), strict=True)},
        objects=counts.objects,
        lost=counts.lost,
        appeared=counts.appeared,
        speedup=median(ratios),
    )


def _timed(replica: Replica, pixels: Pixels) -> tuple[Labels, float]:
    """The labels (y, x) of a tile, and the seconds that computing them once more takes."""
    with replica.lane():
        labels = replica.predict([pixels]).labels[0]  # engines prepare for each new size
        started = time.perf_counter()
        replica.predict([pixels])
        return labels, time.perf_counter() - started
