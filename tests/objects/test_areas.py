from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.objects.areas import Areas


@given(st.lists(st.integers(1, 30)))
def test_areas_are_those_of_numpy(sizes: list[int]) -> None:
    areas = Areas(tuple(sorted(Counter(sizes).items())))
    assert (areas.objects, areas.pixels) == (len(sizes), sum(sizes))
    assert areas.median == (np.median(sizes) if sizes else None)


@given(st.lists(st.integers(1, 10**6), min_size=1))
def test_bins_of_the_histogram_are_half_octaves_without_a_gap(sizes: list[int]) -> None:
    bins = Areas(tuple(sorted(Counter(sizes).items()))).histogram
    edges = [least for least, _ in bins]
    assert np.allclose(np.diff(np.log2(edges)), 0.5)
    assert bins[0][1] > 0 < bins[-1][1]
    for (least, count), end in zip(bins, [*edges[1:], edges[-1] * 2**0.5], strict=True):
        assert count == sum(round(least**2) <= size**2 < round(end**2) for size in sizes)
