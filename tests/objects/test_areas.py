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
