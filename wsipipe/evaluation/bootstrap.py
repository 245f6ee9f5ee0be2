"""Intervals of scores by the bootstrap over images (Efron & Tibshirani 1993): how far they depend on which were scored.

Images are drawn with replacement, as many as there are, again and again; the interval leaves 2.5 % of the scores of
such draws at either end (percentile method). Images of one patient or laboratory are more alike than those of others,
and the interval does not know that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsipipe.evaluation.metrics import LOWER_IS_BETTER, METRICS, Scores
from wsipipe.evaluation.ratios import Floats
from wsipipe.evaluation.tally import Tally

RESAMPLES = 1000
"""Number of draws."""
SEED = 0
PERCENTILES = (2.5, 97.5)

Interval = tuple[float, float]
"""Its two ends; both NaN where there is none, as for a single image."""
Intervals = dict[str, Interval]


@dataclass(frozen=True)
class Scored:
    """The scores of some images by name, with their intervals."""

    pooled: Scores
    """Of all images together (see `Tally`): large images, and those with many objects, count more."""
    mean: Scores
    """The mean of the images that have a value: each counts the same."""
    pooled_intervals: Intervals
    mean_intervals: Intervals


@dataclass(frozen=True)
class Difference:
    """By how much one score of some images differs between two predictions of them."""

    name: str
    """The score."""
    first: float
    second: float
    interval: Interval
    """Of the second less the first."""
    lower_is_better: bool

    @property
    def value(self) -> float:
        """The second less the first."""
        return self.second - self.first

    @property
    def verdict(self) -> int:
        """1 if the second is better, -1 if it is worse, 0 if these images cannot tell."""
        low, high = self.interval
        sign = int(low > 0) - int(high < 0)
        return -sign if self.lower_is_better else sign


def score_with_intervals(tally: Tally) -> Scored:
    """The scores of the images in ``tally``, with intervals.

    Raises
    ------
    UsageError
        If there is no image.
    """
    pooled, means = tally.scores(), _means(tally, np.ones((1, _count(tally))))
    draws = _draws(_count(tally))
    drawn, drawn_means = _pooled(tally, draws), _means(tally, draws)
    return Scored(
        pooled,
        {name: float(values[0]) for name, values in means.items()},
        {name: _interval(drawn[name]) for name in pooled},
        {name: _interval(drawn_means[name]) for name in pooled},
    )


def score_differences(first: Tally, second: Tally) -> list[Difference]:
    """How the pooled scores that two predictions of the same images have differ, drawn alike (paired bootstrap).

    Parameters
    ----------
    first, second
        The same images in the same order, with the same classes.
    """
    assert _count(first) == _count(second)
    draws, scores = _draws(_count(first)), (first.scores(), second.scores())
    drawn = _pooled(first, draws), _pooled(second, draws)
    lower = {name for metric in LOWER_IS_BETTER if metric in first.metrics for name in _names(first, metric)}
    return [
        Difference(name, scores[0][name], scores[1][name], _interval(drawn[1][name] - drawn[0][name]), name in lower)
        for name in scores[0]
        if name in scores[1]
    ]


def _count(tally: Tally) -> int:
    return len(next(iter(tally.numbers().values())))


def _draws(images: int) -> Floats:
    """How often each draw has each image, (`RESAMPLES`, images); no draws of a single image."""
    draws = np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / max(images, 1)), RESAMPLES)
    return draws[: RESAMPLES if images > 1 else 0].astype(np.float64)


def _pooled(tally: Tally, draws: Floats) -> dict[str, Floats]:
    """The scores of each draw of images, (draws,), by name."""
    numbers = tally.numbers()
    scores = [tally.score_sums({name: np.tensordot(draw, one, 1) for name, one in numbers.items()}) for draw in draws]
    return {name: np.array([one[name] for one in scores]) for name in tally.scores()}


def _means(tally: Tally, draws: Floats) -> dict[str, Floats]:
    """The mean scores of each draw of images, (draws,), by name."""
    images = tally.per_image()
    values = {name: np.array([image[name] for image in images]) for name in images[0]}
    return {name: _weighted_mean(one, draws) for name, one in values.items()}


def _weighted_mean(values: Floats, draws: Floats) -> Floats:
    known = ~np.isnan(values)
    weights = draws[:, known]
    total = weights.sum(axis=1)
    means: Floats = np.divide(weights @ values[known], total, out=np.full(len(draws), math.nan), where=total > 0)
    return means


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    known = values[~np.isnan(values)]
    if not known.size:
        return math.nan, math.nan
    low, high = np.percentile(known, PERCENTILES).tolist()
    return low, high


def _names(tally: Tally, metric: str) -> list[str]:
    """The names of the scores of a metric."""
    return list(METRICS[metric].score(tally.numbers()[metric][0], tally.classes))
