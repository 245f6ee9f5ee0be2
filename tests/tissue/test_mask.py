from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.geometry.grid import Box
from wsipipe.tissue.mask import HOLE_PX, MOST_CELLS, TissueMask, mask_shape, widened

SIDES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def by_pixel(mask: TissueMask) -> np.ndarray:
    """Which pixels are in: those whose centre is in a cell that is in."""
    (height, width), (rows, cols) = mask.plane, mask.cells.shape
    ys, xs = (
        [next(i for i in range(count) if Fraction(i + 1, count) > Fraction(2 * at + 1, 2 * size)) for at in range(size)]
        for count, size in ((rows, height), (cols, width))
    )
    return mask.cells[np.ix_(ys, xs)]


@given(plane=SIDES, shape=SIDES, seed=st.integers(0, 99), data=st.data())
def test_boxes_are_met_and_cleared_pixel_by_pixel(
    plane: tuple[int, int], shape: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    cells = np.random.default_rng(seed).random(shape) < 0.2  # more cells than pixels, or fewer
    mask, (height, width) = TissueMask(cells, plane), plane
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y0, data.draw(st.integers(y0 + 1, height)), x0, data.draw(st.integers(x0 + 1, width)))
    wanted = by_pixel(mask)[box.slices]
    assert mask.over(box).any() == mask.meets(box)
    assert mask.meets(box) or not wanted.any()
    for channels in ((), (2,)):
        pixels = np.full((*channels, *box.shape), 7, np.uint8)
        mask.clear_outside(pixels, box)
        assert np.array_equal(pixels, np.broadcast_to(wanted * np.uint8(7), pixels.shape))


@given(plane=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)))
def test_masks_of_huge_planes_are_no_larger(plane: tuple[int, int]) -> None:
    rows, cols = mask_shape(plane)
    assert 1 <= rows <= ceil(plane[0] / 8)
    assert 1 <= cols <= ceil(plane[1] / 8)
    assert rows * cols <= MOST_CELLS + rows + cols


@pytest.mark.parametrize(("halo", "reach"), [(0, 0), (1, 1), (8, 1), (9, 2), (44, 6)])
def test_the_mask_is_widened_by_the_halo(halo: int, reach: int) -> None:
    cells = np.zeros((40, 50), bool)
    cells[20, 30] = cells[0, 0] = True
    wide = widened(cells, (320, 400), halo)
    wanted = np.zeros_like(cells)
    wanted[20 - reach : 21 + reach, 30 - reach : 31 + reach] = wanted[: reach + 1, : reach + 1] = True
    assert np.array_equal(wide, wanted)


def test_small_holes_are_closed_and_large_ones_are_not() -> None:
    side = HOLE_PX // 8
    cells = np.ones((100, 150), bool)
    cells[10 : 10 + side, 10 : 10 + side] = False
    cells[10 : 10 + side, 80 : 81 + side] = False
    cells[60:70, :8] = False
    wide = widened(cells, (800, 1200), 0)
    assert wide[:60, :75].all()
    assert not wide[60:70, :8].any(), "it reaches the edge of the slide"
    assert not wide[10 : 10 + side, 80 : 81 + side].any()
