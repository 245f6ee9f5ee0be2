from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import adapted_rand_error

from wsipipe.errors import UsageError
from wsipipe.evaluation.metrics import DEFAULT_METRICS, METRICS
from wsipipe.evaluation.tally import Tally


def blobs(seed: int, shape: tuple[int, int] = (96, 80)) -> np.ndarray:
    """A mask of some dozen round objects."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return noise > 0.07


def test_scores_of_a_perfect_prediction_are_perfect() -> None:
    tally = Tally(("nucleus",))
    tally.add(blobs(0), blobs(0), mpp=0.5)
    scores = tally.scores()
    errors = ("pixel_error", "adapted_rand_error", "merged_per_100", "split_per_100")
    bits = ("variation_of_information", "vi_split", "vi_merge")
    assert {name for name, value in scores.items() if value == 0} == {*errors, *bits}
    assert {value for name, value in scores.items() if name not in (*errors, *bits)} == {1}
    assert list(scores)[:3] == ["pixel_error", "dice", "dice.nucleus"]


def test_counts_are_pooled_and_rand_errors_averaged_over_images() -> None:
    truths = [blobs(1), blobs(3, (200, 90))]
    images = [(np.roll(truth, shift, axis=0), truth) for truth, shift in zip(truths, (1, 4), strict=True)]
    tally = Tally(("nucleus",), ("dice", "f1", "adapted_rand_error"))
    for predicted, truth in images:
        tally.add(predicted, truth)
    both = sum((p & t).sum() for p, t in images)
    assert tally.scores()["dice"] == pytest.approx(2 * both / sum(p.sum() + t.sum() for p, t in images))
    found = [(ndimage.label(p)[0], ndimage.label(t)[0]) for p, t in images]
    alone = [(np.where(p > 0, p, p.max() + 1 + np.arange(p.size).reshape(p.shape)), t) for p, t in found]
    errors = [adapted_rand_error(t, p)[0] for p, t in alone]
    assert tally.scores()["adapted_rand_error"] == pytest.approx(np.mean(errors))
    each = tally.per_image()
    assert [image["adapted_rand_error"] for image in each] == pytest.approx(errors)
    assert tally.scores()["f1"] != pytest.approx(np.mean([image["f1"] for image in each]))


def test_an_image_without_objects_does_not_change_a_mean_over_images() -> None:
    tally = Tally(("nucleus",), ("adapted_rand_error",))
    tally.add(blobs(0), blobs(1))
    before = tally.scores()
    tally.add(blobs(0), np.zeros((96, 80), int))
    assert tally.scores() == before
    assert math.isnan(tally.per_image()[1]["adapted_rand_error"])


def test_instances_that_touch_are_told_apart_only_where_they_are_given() -> None:
    classes = np.ones((4, 8), np.uint8)
    halves = np.repeat([[1, 2]], 4, axis=1).repeat(4, axis=0)
    as_given, as_found = (Tally(("nucleus",), ("f1", "merged_per_100")) for _ in range(2))
    as_given.add(classes, classes, truth_instances=halves)
    as_found.add(classes, classes)
    assert as_given.scores()["merged_per_100"] == 100
    assert as_found.scores()["merged_per_100"] == 0
    told_apart = Tally(("nucleus",), ("f1",))
    told_apart.add(classes, classes, truth_instances=halves, predicted_instances=halves + 7)
    assert told_apart.scores()["f1"] == 1


def test_scores_tell_the_split_part_of_the_information_from_the_merge_part() -> None:
    cells = np.array([[1, 1, 0, 1, 1]])
    tally = Tally(("nucleus",), ("variation_of_information", "merged_per_100", "split_per_100"))
    tally.add(cells, cells, truth_instances=cells)  # one object of two parts
    scores = tally.scores()
    assert [scores[name] for name in ("variation_of_information", "vi_split", "vi_merge")] == [1, 1, 0]
    assert (scores["merged_per_100"], scores["split_per_100"]) == (0, 100)


def test_an_object_of_another_class_is_no_partner() -> None:
    truth = np.array([[1, 1, 0, 2, 2]])
    tally = Tally(("a", "b"), ("f1", "pq", "dice"))
    tally.add(np.array([[1, 1, 0, 1, 1]]), truth)
    scores = tally.scores()
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0.5, 0.5, 0.5)
    assert scores["pq.a"] == pytest.approx(2 / 3)
    assert (scores["pq.b"], scores["dice.b"]) == (0, 0)
    assert scores["pq"] == pytest.approx(1 / 3)


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    tally = Tally(("a", "b"), ("dice", "pq"))
    tally.add(np.array([[1, 0]]), np.array([[1, 0]]))
    scores = tally.scores()
    assert (scores["dice"], scores["pq"]) == (1, 1)
    assert math.isnan(scores["dice.b"])
    assert math.isnan(scores["pq.b"])


def documented(predicted: bool, truth: bool) -> dict[str, float]:
    shape = (6, 6)
    tally = Tally(("nucleus",))
    tally.add(np.full(shape, predicted), np.full(shape, truth), mpp=0.5)
    return tally.scores()


def test_scores_of_nothing_have_no_value_but_the_pixel_error() -> None:
    scores = documented(False, False)
    assert scores.pop("pixel_error") == 0
    assert all(math.isnan(value) for value in scores.values())


def test_scores_where_only_the_prediction_has_an_object_are_as_documented() -> None:
    scores = documented(True, False)
    zero = {name for name, value in scores.items() if value == 0}
    assert zero == {
        *("dice", "dice.nucleus", "iou", "iou.nucleus", "f1", "precision", "pq", "pq.nucleus", "rq", "aji"),
        *("detection_f1", "detection_precision", "f1_50_90", "f1@0.6", "f1@0.7", "f1@0.8", "f1@0.9"),
    }
    assert scores.pop("pixel_error") == 1
    assert all(math.isnan(value) for name, value in scores.items() if name not in zero)


def test_scores_where_only_the_truth_has_an_object_are_as_documented() -> None:
    scores = documented(False, True)
    assert {name for name, value in scores.items() if math.isnan(value)} == {"precision", "sq", "detection_precision"}
    assert {scores[name] for name in ("dice", "f1", "recall", "pq", "aji", "seg", "split_per_100")} == {0}


def test_default_metrics_are_all_but_the_slow_one_and_those_of_probabilities() -> None:
    assert set(METRICS) - set(DEFAULT_METRICS) == {"warping_error", "average_precision", "ece"}


def test_bad_input_is_refused_with_what_is_allowed() -> None:
    tally, mask = Tally(("a", "b")), np.ones((3, 4), int)
    with pytest.raises(UsageError, match=r"float64 of shape \(3, 4\): integers"):
        tally.add(mask / 2, mask)
    with pytest.raises(UsageError, match=r"different shapes.*\(3, 4\).*\(2, 4\)"):
        tally.add(mask, mask, inside=np.ones((2, 4), bool))
    with pytest.raises(UsageError, match=r"truth has class ids from 3 to 3; allowed: 0 \(background\) to 2"):
        tally.add(mask, mask * 3)
    with pytest.raises(UsageError, match="prediction has class ids from -1"):
        tally.add(-mask, mask)
    with pytest.raises(UsageError, match="no image"):
        tally.scores()
    with pytest.raises(UsageError, match="0 classes"):
        Tally(())
    with pytest.raises(UsageError, match="dize"):
        Tally(("a",), ("dize",))
