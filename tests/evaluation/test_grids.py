from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.errors import UsageError
from wsipipe.evaluation import resampled as module
from wsipipe.evaluation.blockwise import ArrayPlane, Labelled
from wsipipe.evaluation.grids import Extent, meet
from wsipipe.evaluation.resampled import Lattice, resampled
from wsipipe.geometry.grid import Box, boxes


def steps(prediction: Extent, labels: Extent, on: str = "labels") -> tuple[float, float]:
    """Extent of the prediction, and of the labels, that one pixel of the grid spans."""
    met = meet(prediction, labels, on)  # type: ignore[arg-type]
    return met.prediction[0].step, met.labels[0].step


@pytest.mark.parametrize(
    ("prediction", "labels", "ratio"),
    [
        (Extent("s", (100, 50), 0.5), Extent("l", (200, 100)), 2),
        (Extent("s", (100, 50), 0.5), Extent("l", (200, 100), 0.25), 2),
        (Extent("s", (100, 50), 0.5), Extent("l", (50, 25), 1.0), 0.5),
        (Extent("s", (100, 50), 0.5, downsample=2.0024), Extent("l", (200, 100), 0.2497), 2.0024),  # rounded up
        (Extent("s", (1001, 501), 0.5), Extent("l", (4001, 2002)), 4001 / 1001),
        (Extent("s", (100, 50), 0.5, downsample=4), Extent("l", (200, 100), 0.25), 2),  # of a coarser level
        (Extent("s", (100, 50)), Extent("l", (100, 50)), 1),
    ],
)
def test_the_ratio_is_that_of_the_scales_or_else_of_the_sizes(prediction: Extent, labels: Extent, ratio: float) -> None:
    assert steps(prediction, labels) == (pytest.approx(1 / ratio), 1)
    assert steps(prediction, labels, "store") == (1, pytest.approx(ratio))


def test_the_remark_says_whose_pixels_and_the_grid_has_a_resolution() -> None:
    store, labels = Extent("s", (100, 50), 0.5), Extent("l", (200, 100))
    met = meet(store, labels, "labels")
    assert (met.mpp, met.remark) == (0.25, "compared at 0.25 um/px, the labels' grid; the store has 0.5")
    met = meet(store, labels, "store")
    assert (met.mpp, met.remark) == (0.5, "compared at 0.5 um/px, the store's grid; the labels have 0.25")
    met = meet(Extent("s", (100, 50)), labels, "labels")
    assert (met.mpp, met.remark) == (None, "compared on the labels' grid, 2 times as fine as the other")
    assert meet(store, Extent("l", (100, 50)), "labels").remark == ""
    cut = meet(store, Extent("l", (101, 50)), "labels")
    assert (cut.prediction[0].step, cut.prediction[0].indices(99, 101).tolist()) == (1, [99, 99])
    assert cut.remark == "compared from the upper left corner: l is 50 wide x 101 high, s is 50 wide x 100 high"
    doubtful = meet(store, Extent("l", (100, 50), 0.25), "labels")
    assert (doubtful.mpp, doubtful.prediction[0].is_whole) == (0.5, True)
    assert doubtful.remark == "compared pixel by pixel, since sizes are the same; but l has 0.25 um/px, and s 0.5"


@pytest.mark.parametrize("on", ["labels", "store"])
def test_labels_of_a_part_lie_where_their_coordinates_say(on: str) -> None:
    store = Extent("s", (100, 50), 0.5, (-0.125, -0.125), downsample=2)
    part = Extent("l", (40, 20), 0.25, (9.875, 4.875))
    met = meet(store, part, on)  # type: ignore[arg-type]
    rows, cols = met.prediction
    whole = Lattice(100)
    if on == "labels":
        assert (rows.indices(0, 40).tolist(), cols.indices(0, 2).tolist()) == (
            np.repeat(np.arange(20, 40), 2).tolist(),
            [10, 10],
        )
        assert met.labels[0].indices(0, 40).tolist() == list(range(40))
    else:
        assert rows.indices(0, rows.count).tolist() == whole.indices(20, 40).tolist()
        assert met.labels[0].indices(0, 3).tolist() == [1, 3, 5]
    assert met.remark.endswith(
        "in the part of 20 wide x 40 high that both show"
        if on == "labels"
        else "in the part of 10 wide x 20 high that both show"
    )


def test_what_does_not_fit_is_refused() -> None:
    store = Extent("s.zarr", (100, 50), 0.5, (0.0, 0.0))
    with pytest.raises(
        UsageError,
        match=r"s\.zarr is 50 wide x 100 high at 0\.5 um/px, and l\.tif is 70 wide x 200 high at no .* in one ratio",
    ):
        meet(store, Extent("l.tif", (200, 70)), "labels")
    with pytest.raises(UsageError, match=r"the ratio of their sizes is not that of their resolutions, and not"):
        meet(store, Extent("l.tif", (400, 200), 0.25), "labels")
    with pytest.raises(UsageError, match=r"have no pixel in common by their coordinates"):
        meet(store, Extent("l.zarr", (30, 30), 0.25, (60.0, 0.0)), "labels")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_middles_between_two_pixels_lie_in_the_second_however_ratios_are_rounded(m: int, n: int, first: int) -> None:
    """Against fractions: a ratio of m to n as floating point has it, and with a rounding error of its own."""
    expected = [math.floor(Fraction(2 * i + 1, 2) * Fraction(m, n)) for i in range(first, first + 50)]
    for step in (m / n, 1 / (n / m), m / n * (1 - 1e-15)):
        assert Lattice(10**7, 10**9, step).indices(first, first + 50).tolist() == expected


def plane_of(values: np.ndarray) -> ArrayPlane:
    inside = values % 5 > 0
    return ArrayPlane("p", Labelled(values % 3, values, inside, np.stack([values, 255 - values]).astype(np.uint8)))


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([0.3, 1.0, 1.7, 2.0, 9.5]),
    st.integers(3, 12),
    st.data(),
)
def test_a_resampled_plane_has_the_nearest_pixels_whatever_the_box(
    height: int, width: int, step: float, block_px: int, data: st.DataObject
) -> None:
    values = np.arange(height * width).reshape(height, width) % 251
    count = [max(1, round(side / step)) for side in (height, width)]
    offset = data.draw(st.sampled_from([0.0, 0.25, 1.0]))
    plane = resampled(plane_of(values), (Lattice(count[0], height, step, offset), Lattice(count[1], width, step)))
    rows = [min(int((i + 0.5) * step + offset), height - 1) for i in range(count[0])]
    cols = [min(int((i + 0.5) * step), width - 1) for i in range(count[1])]
    expected = plane_of(values[np.ix_(rows, cols)]).labelled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ_BLOCK_PX", 7)
        for box in boxes(plane.shape, block_px):
            found = plane.read(box)
            for name in ("classes", "instances", "inside", "probabilities"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)[..., *box.slices]), name


class Watched:
    """A large plane that remembers the largest side that was read at once."""

    name, shape, largest = "watched", (10**6, 10**6), 0

    def read(self, box: Box) -> Labelled:
        self.largest = max(self.largest, *box.shape)
        return Labelled(np.ones(box.shape, np.uint8))


def test_a_far_finer_plane_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_BLOCK_PX", 256)
    plane = Watched()
    lattice = Lattice(10**4, 10**6, 100.0)
    assert resampled(plane, (lattice, lattice)).read(Box(0, 50, 9950, 10000)).classes.shape == (50, 50)
    assert plane.largest <= 256
