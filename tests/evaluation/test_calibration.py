from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsipipe.evaluation.calibration import average_precision, calibration_error, count_probabilities

VALUES = arrays(np.uint8, (2, 40), elements=st.integers(0, 255))
TRUTH = arrays(np.int64, 40, elements=st.integers(0, 2))


@given(VALUES, TRUTH)
def test_average_precision_is_the_sum_over_thresholds(values: np.ndarray, truth: np.ndarray) -> None:
    for class_id, counts in enumerate(count_probabilities(values, truth), start=1):
        true, area, before = truth == class_id, 0.0, 0.0
        for threshold in sorted(set(values[class_id - 1].tolist()), reverse=True):
            taken = values[class_id - 1] >= threshold
            recall = (taken & true).sum() / max(true.sum(), 1)
            area, before = area + (recall - before) * (taken & true).sum() / taken.sum(), recall
        got = average_precision(counts)
        assert got == pytest.approx(area) if true.any() else math.isnan(got)


@given(VALUES, TRUTH)
def test_calibration_error_is_that_of_pixels_in_fifteen_bins(values: np.ndarray, truth: np.ndarray) -> None:
    for class_id, counts in enumerate(count_probabilities(values, truth), start=1):
        p, true = values[class_id - 1] / 255, truth == class_id
        bins = np.minimum((p * 15 + 1e-9).astype(int), 14)
        gaps = [(bins == b).sum() * abs(p[bins == b].mean() - true[bins == b].mean()) for b in set(bins.tolist())]
        assert calibration_error(counts) == pytest.approx(sum(gaps) / 40)


def test_counts_of_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    values, truth = rng.integers(0, 256, (2, 50, 30), np.uint8), rng.integers(0, 3, (50, 30))
    parts = sum(count_probabilities(values[:, rows], truth[rows]) for rows in (slice(20), slice(20, None)))
    assert np.array_equal(parts, count_probabilities(values, truth))
    assert math.isnan(calibration_error(count_probabilities(values[:, :0], truth[:0])[0]))
