from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import metrics as skimage_metrics

from wsipipe.errors import UsageError
from wsipipe.evaluation import object_metrics, pixel_metrics
from wsipipe.evaluation.counts import Confusion, Overlap
from wsipipe.evaluation.metrics import check_metrics

IDS = arrays(np.int64, (6, 7), elements=st.integers(0, 4))
NOBODY = np.zeros((6, 7), np.int64)


def objects_of(ids: np.ndarray) -> dict[int, set[tuple[int, int]]]:
    """The pixels of each object."""
    return {int(i): {(int(y), int(x)) for y, x in np.argwhere(ids == i)} for i in np.unique(ids) if i}


def jaccard(one: set[tuple[int, int]], other: set[tuple[int, int]]) -> float:
    return len(one & other) / len(one | other)


def same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or one == pytest.approx(other, abs=1e-12)


# ---- the two counts ----


@given(IDS, IDS)
def test_overlap_counts_every_pixel_of_every_pair(predicted: np.ndarray, truth: np.ndarray) -> None:
    table = Overlap.of(predicted, truth)
    rows = {(int(t), int(p)): int(n) for t, p, n in zip(table.truth, table.predicted, table.pixels, strict=True)}
    for t, p in product(range(5), range(5)):
        assert rows.get((t, p), 0) == int(((truth == t) & (predicted == p)).sum())


@given(IDS, IDS, st.integers(0, 6))
def test_overlap_of_two_parts_adds_up_to_that_of_the_whole(predicted: np.ndarray, truth: np.ndarray, cut: int) -> None:
    whole = Overlap.of(predicted, truth)
    added = Overlap.of(predicted[:cut], truth[:cut]) + Overlap.of(predicted[cut:], truth[cut:])
    for field in ("truth", "predicted", "pixels"):
        assert np.array_equal(getattr(whole, field), getattr(added, field))


@given(IDS, IDS)
def test_confusion_counts_every_pixel_of_every_class(predicted: np.ndarray, truth: np.ndarray) -> None:
    pixels = Confusion.of(predicted, truth, 4).pixels
    for t, p in product(range(5), range(5)):
        assert pixels[t, p] == ((truth == t) & (predicted == p)).sum()


# ---- pixels ----


@given(IDS, IDS)
def test_pixel_metrics_are_those_of_sets_of_pixels(predicted: np.ndarray, truth: np.ndarray) -> None:
    confusion = Confusion.of(predicted, truth, 4)
    assert pixel_metrics.pixel_error(confusion) == (predicted != truth).mean()
    p, t = objects_of(predicted), objects_of(truth)
    for class_id in range(1, 5):
        one, other = p.get(class_id, set()), t.get(class_id, set())
        expected = 2 * len(one & other) / (len(one) + len(other)) if one | other else math.nan
        assert same(pixel_metrics.dice(confusion)[class_id - 1], expected)
        assert same(pixel_metrics.iou(confusion)[class_id - 1], jaccard(one, other) if one | other else math.nan)


# ---- the partition ----


def singled_out(predicted: np.ndarray) -> np.ndarray:
    """``predicted`` with a number of its own for each pixel of no object."""
    own = predicted.max() + 1 + np.arange(predicted.size).reshape(predicted.shape)
    return np.where(predicted > 0, predicted, own)


@given(IDS, IDS)
def test_adapted_rand_error_is_that_of_scikit_image_for_pixels_of_no_object_alone(
    predicted: np.ndarray, truth: np.ndarray
) -> None:
    sizes = np.unique(truth[truth > 0], return_counts=True)[1]
    assume((sizes > 1).any() and (np.unique(singled_out(predicted)[truth > 0], return_counts=True)[1] > 1).any())
    expected, _, _ = skimage_metrics.adapted_rand_error(truth, singled_out(predicted))
    assert pixel_metrics.adapted_rand_error(Overlap.of(predicted, truth)) == pytest.approx(expected, abs=1e-12)


@given(IDS, IDS)
def test_variation_of_information_is_that_of_scikit_image(predicted: np.ndarray, truth: np.ndarray) -> None:
    assume(truth.any())
    expected = skimage_metrics.variation_of_information(truth, predicted, ignore_labels=[0])
    assert pixel_metrics.variation_of_information(Overlap.of(predicted, truth)) == pytest.approx(expected, abs=1e-9)


def test_variation_of_information_tells_a_split_from_a_merge() -> None:
    whole, halves = np.ones((2, 8), np.int64), np.repeat([[1, 2]], 4, axis=1).repeat(2, axis=0)
    assert pixel_metrics.variation_of_information(Overlap.of(halves, whole)) == (1, 0)
    assert pixel_metrics.variation_of_information(Overlap.of(whole, halves)) == (0, 1)


# ---- the objects ----


@given(IDS, IDS)
def test_matches_are_the_pairs_of_iou_above_a_half(predicted: np.ndarray, truth: np.ndarray) -> None:
    p, t = objects_of(predicted), objects_of(truth)
    found = [value for a, b in product(t.values(), p.values()) if (value := jaccard(a, b)) > 0.5]
    got = object_metrics.matches(Overlap.of(predicted, truth))
    assert got[:3] == (len(found), len(p) - len(found), len(t) - len(found))
    assert got.iou == pytest.approx(sum(found))
    assert same(got.pq, got.sq * got.f1 if found else (0.0 if p or t else math.nan))


def test_matches_takes_an_iou_of_exactly_a_half_for_no_match() -> None:
    got = object_metrics.matches(Overlap.of(np.array([[1, 1]]), np.array([[1, 0]])))
    assert (got.both, got.predicted, got.truth) == (0, 1, 1)


@given(IDS, IDS)
def test_aggregated_jaccard_is_that_of_the_papers_algorithm(predicted: np.ndarray, truth: np.ndarray) -> None:
    p, t = objects_of(predicted), objects_of(truth)
    intersection = union = 0
    used = set()
    for pixels in t.values():
        best = max(p, key=lambda j: jaccard(pixels, p[j]), default=None)
        if best is None or not pixels & p[best]:
            union += len(pixels)
            continue
        intersection += len(pixels & p[best])
        union += len(pixels | p[best])
        used.add(best)
    union += sum(len(pixels) for j, pixels in p.items() if j not in used)
    assert object_metrics.aggregated_jaccard(Overlap.of(predicted, truth)) == (intersection, union)


@given(IDS, IDS)
def test_seg_is_the_jaccard_index_of_objects_covered_by_more_than_half(
    predicted: np.ndarray, truth: np.ndarray
) -> None:
    p, t = objects_of(predicted), objects_of(truth)
    values = [
        next((jaccard(pixels, other) for other in p.values() if 2 * len(pixels & other) > len(pixels)), 0.0)
        for pixels in t.values()
    ]
    assert same(
        object_metrics.seg(Overlap.of(predicted, truth)).mean, sum(values) / len(values) if values else math.nan
    )


@given(IDS, IDS)
def test_separation_is_as_it_is_defined(predicted: np.ndarray, truth: np.ndarray) -> None:
    p, t = objects_of(predicted), objects_of(truth)
    covered_by = {i: {j for j in p if 2 * len(t[i] & p[j]) > len(t[i])} for i in t}
    merged = {i for i, k in product(t, t) if i != k and covered_by[i] & covered_by[k]}
    split = {i for i in t if not covered_by[i] and sum(2 * len(t[i] & q) > len(q) for q in p.values()) >= 2}
    assert object_metrics.separation(Overlap.of(predicted, truth)) == (len(merged), len(split), len(t))


def test_separation_of_one_blob_over_three_cells_and_of_a_cell_in_pieces() -> None:
    truth = np.array([[1, 1, 2, 2, 3, 3, 0, 4, 4, 4, 4]])
    assert object_metrics.separation(Overlap.of(np.array([[5, 5, 5, 5, 5, 5, 5, 6, 6, 7, 7]]), truth)) == (3, 1, 4)


@given(IDS, IDS)
def test_found_by_iou_counts_the_pairs_above_each_threshold(predicted: np.ndarray, truth: np.ndarray) -> None:
    p, t = objects_of(predicted), objects_of(truth)
    jaccards = [Fraction(len(a & b), len(a | b)) for a in p.values() for b in t.values()]
    expected = [sum(one > Fraction(percent, 100) for one in jaccards) for percent in range(50, 91, 5)]
    assert list(object_metrics.found_by_iou(Overlap.of(predicted, truth))) == [*expected, len(p), len(t)]


@given(IDS, IDS, st.integers(0, 6), st.integers(0, 6))
def test_small_objects_become_background(predicted: np.ndarray, truth: np.ndarray, one: int, other: int) -> None:
    kept = [np.where(np.bincount(ids.ravel())[ids] >= n, ids, 0) for ids, n in ((predicted, one), (truth, other))]
    found = Overlap.of(predicted, truth).without_small(predicted_px=one, truth_px=other)
    for field in ("truth", "predicted", "pixels"):
        assert np.array_equal(getattr(found, field), getattr(Overlap.of(*kept), field))


# ---- nothing there ----


def test_metrics_of_nothing_at_all_have_no_value() -> None:
    empty, confusion = Overlap.of(NOBODY, NOBODY), Confusion.of(NOBODY, NOBODY, 1)
    assert pixel_metrics.pixel_error(confusion) == 0
    got = object_metrics.matches(empty)
    values = [got.f1, got.pq, got.sq, got.precision, got.recall, pixel_metrics.adapted_rand_error(empty)]
    values += [
        *pixel_metrics.variation_of_information(empty),
        object_metrics.aggregated_jaccard(empty).aji,
        object_metrics.seg(empty).mean,
    ]
    values += [*pixel_metrics.dice(confusion), *pixel_metrics.iou(confusion)]
    assert all(math.isnan(value) for value in values)


def test_metrics_of_a_prediction_without_objects_are_the_worst() -> None:
    truth = np.array([[1, 1, 0, 2, 2]])
    missed = Overlap.of(np.zeros_like(truth), truth)
    got = object_metrics.matches(missed)
    assert (got.f1, got.pq, got.recall) == (0, 0, 0)
    assert math.isnan(got.precision)
    assert math.isnan(got.sq)
    assert (object_metrics.aggregated_jaccard(missed).aji, object_metrics.seg(missed).mean) == (0, 0)


def test_check_metrics_lists_the_known_metrics() -> None:
    with pytest.raises(UsageError, match=r"unknown metric dise; choose from pixel_error, dice, .*split_per_100"):
        check_metrics(["dice", "dise"])
    with pytest.raises(UsageError, match="no metric was requested"):
        check_metrics([])
