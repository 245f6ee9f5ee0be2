from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.geometry.mirror import mirror


@given(size=st.integers(1, 40), before=st.integers(0, 300), after=st.integers(0, 300))
def test_mirror_is_numpys_symmetric_however_far(size: int, before: int, after: int) -> None:
    pixels = np.random.default_rng(size).permutation(size)
    padded = np.pad(pixels, (before, after), mode="symmetric")
    assert np.array_equal(pixels[mirror(np.arange(-before, size + after), size)], padded)


@given(size=st.integers(1, 10**6), at=st.integers(-(10**9), 10**9))
def test_mirror_repeats_the_edge_and_has_period_twice_the_size(size: int, at: int) -> None:
    here, opposite, later = mirror(np.array([at, -1 - at, at + 2 * size]), size)
    assert here == opposite == later
    assert 0 <= here < size


def test_mirror_is_the_drawing_in_its_docstring() -> None:
    assert mirror(np.arange(-3, 10), 4).tolist() == [2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0, 0, 1]


@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_mirror_inside_the_slide_is_the_identity_in_int64(size: int) -> None:
    indices = mirror(np.arange(size), size)
    assert indices.dtype == np.int64
    assert np.array_equal(indices, np.arange(size))
