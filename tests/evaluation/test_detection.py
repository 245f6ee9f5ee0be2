from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from wsipipe.evaluation import detection
from wsipipe.evaluation.centroids import Centroids
from wsipipe.evaluation.detection import match_points
from wsipipe.evaluation.tally import Tally
from wsipipe.geometry.grid import boxes
from wsipipe.objects.numbers import number_objects

POINTS = st.integers(0, 4).flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.integers(0, 6)))


@given(POINTS, POINTS)
def test_matched_points_are_the_most_and_then_the_nearest(predicted: np.ndarray, truth: np.ndarray) -> None:
    """Against all permutations."""
    one, other = match_points(predicted, truth, 2.5)
    assert len(set(one)) == len(one) == len(set(other)) == len(other)
    distances = np.linalg.norm(predicted[one] - truth[other], axis=1)
    assert (distances <= 2.5).all()
    best = []
    for order in permutations(range(max(len(predicted), len(truth)))):
        pairs = [(i, j) for i, j in enumerate(order) if i < len(predicted) and j < len(truth)]
        near = [d for i, j in pairs if (d := math.dist(predicted[i], truth[j])) <= 2.5]
        best.append((-len(near), sum(near)))
    count, total = min(best)
    assert (-len(one), distances.sum()) == (count, pytest.approx(total))


def test_a_crowd_is_matched_in_batches_as_by_scipy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "BATCH", 20)
    rng, radius = np.random.default_rng(0), 1.5
    predicted, truth = rng.uniform(0, 30, (200, 2)), rng.uniform(0, 30, (220, 2))
    one, other = match_points(predicted, truth, radius)
    distances = np.linalg.norm(predicted[:, None] - truth, axis=2)
    costs = np.where(distances <= radius, distances - 1e4, 0)
    rows, cols = linear_sum_assignment(costs)
    assert len(one) == (costs[rows, cols] < 0).sum() > 100
    assert distances[one, other].sum() == pytest.approx(costs[rows, cols].sum() + 1e4 * len(one))


@given(arrays(np.int64, (7, 9), elements=st.integers(0, 4)), st.integers(1, 10))
def test_centroids_of_blocks_are_those_of_scipy(ids: np.ndarray, block_px: int) -> None:
    numbers = number_objects(np.ones_like(ids), ids)
    found = Centroids.total(Centroids.of(numbers[box.slices], box) for box in boxes(ids.shape, block_px))
    there = np.unique(ids[ids > 0])
    assert (found.numbers >> 8).tolist() == there.tolist()
    assert found.pixels.tolist() == [(ids == one).sum() for one in there]
    assert found.points(1) - 0.5 == pytest.approx(np.array(ndimage.center_of_mass(ids > 0, ids, there)).reshape(-1, 2))


def test_detection_is_by_distance_in_micrometres_and_within_classes() -> None:
    truth, found = np.zeros((20, 40), int), np.zeros((20, 40), int)
    truth[4:8, 4:8], found[4:8, 9:13] = 1, 1  # 5 px apart: 2.5 um at 0.5 um/px, 5 um at 1
    truth[12:16, 20:24], found[12:16, 20:24] = 1, 2
    scores = {}
    for mpp in (0.5, 1.0, None):
        tally = Tally(("a", "b"), ("detection_f1",))
        tally.add(found, truth, mpp=mpp)
        scores[mpp] = tally.scores()
    assert [scores[0.5][f"detection_{name}"] for name in ("f1", "precision", "recall")] == [0.5, 0.5, 0.5]
    assert scores[0.5]["detection_precision.a"] == 1
    assert scores[1.0]["detection_f1"] == 0
    assert math.isnan(scores[None]["detection_f1"])
