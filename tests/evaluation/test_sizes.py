from __future__ import annotations

import math

import numpy as np
import pytest

from wsipipe.evaluation.counts import Overlap
from wsipipe.evaluation.sizes import diameter_quartiles, found_by_size, recall_of_quarters


def disjoint(areas: list[int], found: list[bool]) -> Overlap:
    """True objects of these areas, the ``found`` of which are predicted as they are."""
    truth = np.repeat(np.arange(1, len(areas) + 1), areas) << 8 | 1
    return Overlap.of(truth * np.repeat(found, areas), truth)


def test_quarters_are_those_of_objects_sorted_by_area() -> None:
    rng = np.random.default_rng(1)
    areas = rng.permutation(np.unique((1.25 ** np.arange(12, 44)).astype(int))[:32])
    found = rng.random(32) < 0.6
    one, other = (
        found_by_size(disjoint(areas[part].tolist(), found[part].tolist()), 0.5) for part in np.split(np.arange(32), 2)
    )
    quarters = found[np.argsort(areas)].reshape(4, 8).mean(axis=1)
    assert recall_of_quarters(one + other) == pytest.approx(quarters.tolist())
    diameters = np.sort(2 * np.sqrt(areas / math.pi)) * 0.5
    for quartile, rank in zip(diameter_quartiles(one + other), (8, 16, 24), strict=True):
        assert diameters[rank - 1] * 0.95 <= quartile <= diameters[rank] * 1.05


def test_objects_of_one_size_share_one_recall_and_none_have_no_value() -> None:
    assert recall_of_quarters(found_by_size(disjoint([9] * 5, [True, True, False, False, False]), 1.0)) == [0.4] * 4
    nothing = found_by_size(disjoint([], []), 1.0)
    assert all(map(math.isnan, [*recall_of_quarters(nothing), *diameter_quartiles(nothing)]))
