from __future__ import annotations

import math

import numpy as np
import pytest

from tests.evaluation.test_tally import blobs
from wsipipe.evaluation import bootstrap
from wsipipe.evaluation.bootstrap import Difference, score_differences, score_with_intervals
from wsipipe.evaluation.tally import Tally

METRICS = ("pixel_error", "dice", "f1", "adapted_rand_error", "recall_smallest")


def tallied(shifts: list[int], images: list[int]) -> Tally:
    """The scores of ``images``, each moved by its shift; the image 2 has no objects."""
    tally = Tally(("nucleus",), METRICS)
    for image in images:
        truth = blobs(image) & (image != 2)
        tally.add(np.roll(truth, shifts[image], axis=0), truth, mpp=0.5)
    return tally


def test_intervals_are_those_of_images_drawn_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against tallies to which images are added as often as they are drawn."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 30)
    draws = np.random.default_rng(bootstrap.SEED).multinomial(4, [0.25] * 4, 30)
    first, second = [1, 3, 0, 2], [1, 1, 0, 1]
    pooled: dict[str, list[float]] = {}
    means: dict[str, list[float]] = {}
    gains: list[float] = []
    for draw in draws:
        images = np.repeat(np.arange(4), draw).tolist()
        one, other = tallied(first, images), tallied(second, images)
        for name, value in one.scores().items():
            pooled.setdefault(name, []).append(value)
            known = [image[name] for image in one.per_image() if not math.isnan(image[name])]
            means.setdefault(name, []).append(np.mean(known) if known else math.nan)
        gains.append(other.scores()["f1"] - one.scores()["f1"])
    scored = score_with_intervals(tallied(first, [0, 1, 2, 3]))
    for name, values in pooled.items():
        assert scored.pooled_intervals[name] == pytest.approx(np.nanpercentile(values, [2.5, 97.5]).tolist())
        assert scored.mean_intervals[name] == pytest.approx(np.nanpercentile(means[name], [2.5, 97.5]).tolist())
    by_name = {one.name: one for one in score_differences(tallied(first, [0, 1, 2, 3]), tallied(second, [0, 1, 2, 3]))}
    assert by_name["f1"].interval == pytest.approx(np.nanpercentile(gains, [2.5, 97.5]).tolist())
    assert by_name["f1"].value == pytest.approx(by_name["f1"].second - by_name["f1"].first)
    assert by_name["pixel_error"].lower_is_better
    assert by_name["pixel_error"].value < 0


def test_a_single_image_has_no_interval_and_settles_nothing() -> None:
    scored = score_with_intervals(tallied([2], [0]))
    assert scored.pooled == scored.mean
    assert all(math.isnan(end) for ends in scored.pooled_intervals.values() for end in ends)
    assert {one.verdict for one in score_differences(tallied([2], [0]), tallied([0], [0]))} == {0}


def test_only_scores_that_both_have_differ() -> None:
    first, second = (Tally(("nucleus",), metrics) for metrics in (METRICS, ("f1", "pixel_error", "seg")))
    for image in (0, 1):
        for tally in (first, second):
            tally.add(np.roll(blobs(image), 1, axis=0), blobs(image), mpp=0.5)
    shared = {"f1", "precision", "recall", "pixel_error"}
    assert {one.name: one.value for one in score_differences(first, second)} == dict.fromkeys(shared, 0)


@pytest.mark.parametrize(
    ("interval", "lower", "verdict"),
    [((0.1, 0.2), False, 1), ((0.1, 0.2), True, -1), ((-0.2, -0.1), True, 1), ((-0.1, 0.1), False, 0)],
)
def test_a_difference_counts_where_its_interval_leaves_out_0(
    interval: tuple[float, float], lower: bool, verdict: int
) -> None:
    assert Difference("f1", 0.5, 0.6, interval, lower).verdict == verdict
