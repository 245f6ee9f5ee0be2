from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsipipe.store.pyramid import halve

PLANES = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
    elements=st.sampled_from([0, 1, 2, 3, 200, 255]),
)


def brute(labels: np.ndarray) -> np.ndarray:
    """The most frequent label of every 2 x 2 pixels, pixel by pixel; of equally frequent ones the first."""
    height, width = labels.shape
    coarse = np.empty((-(-height // 2), -(-width // 2)), np.uint8)
    for y, x in np.ndindex(coarse.shape):
        four = [labels[min(2 * y + i, height - 1), min(2 * x + j, width - 1)] for i in (0, 1) for j in (0, 1)]
        coarse[y, x] = Counter(four).most_common(1)[0][0]  # of equals the first met
    return coarse


@given(labels=PLANES)
def test_halve_is_the_mode_counted_pixel_by_pixel(labels: np.ndarray) -> None:
    coarse = halve(labels)
    assert coarse.dtype == np.uint8
    assert np.array_equal(coarse, brute(labels))


@given(labels=PLANES, pair=st.tuples(st.integers(0, 255), st.integers(0, 255)))
def test_halve_of_two_labels_is_the_mode_with_binary_as_well(labels: np.ndarray, pair: tuple[int, int]) -> None:
    two = np.where(labels % 2 == 1, *np.array(pair, np.uint8))
    assert np.array_equal(halve(two, binary=True), brute(two))


@pytest.mark.parametrize(
    ("four", "mode"),
    [
        ([[1, 1], [1, 2]], 1),
        ([[2, 1], [1, 1]], 1),
        ([[1, 2], [3, 3]], 3),
        ([[1, 3], [2, 3]], 3),
        ([[1, 2], [2, 1]], 1),
        ([[2, 1], [1, 2]], 2),
        ([[4, 3], [2, 1]], 4),
        ([[7, 0], [0, 200]], 0),
        ([[255]], 255),
        ([[1, 2]], 1),
        ([[1], [2]], 1),
    ],
)
def test_halve_takes_the_most_frequent_and_of_equals_the_first(four: list[list[int]], mode: int) -> None:
    assert halve(np.array(four, np.uint8)).tolist() == [[mode]]


@given(labels=PLANES)
def test_halve_makes_no_label_that_did_not_occur(labels: np.ndarray) -> None:
    while max(labels.shape) > 1:
        coarse = halve(labels)
        assert set(coarse.ravel().tolist()) <= set(labels.ravel().tolist())
        labels = coarse


@given(labels=PLANES, y=st.integers(0, 6), x=st.integers(0, 6))
def test_halving_four_parts_is_the_same_as_halving_the_whole(labels: np.ndarray, y: int, x: int) -> None:
    parts = [np.split(rows, [2 * x], axis=1) for rows in np.split(labels, [2 * y], axis=0)]
    halved = [[halve(p) if p.size else np.empty([-(-n // 2) for n in p.shape], np.uint8) for p in row] for row in parts]
    assert np.array_equal(np.block(halved), halve(labels))


def test_halve_leaves_its_argument_alone() -> None:
    labels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    labels.setflags(write=False)
    assert halve(labels).shape == (2, 3)
