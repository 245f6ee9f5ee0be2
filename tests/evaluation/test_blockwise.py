from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsipipe.errors import UsageError
from wsipipe.evaluation import blockwise
from wsipipe.evaluation.blockwise import ArrayPlane, Labelled, Terms, compare
from wsipipe.evaluation.tally import Tally
from wsipipe.geometry.grid import Box

SHAPES = st.tuples(st.integers(1, 14), st.integers(1, 14))


@st.composite
def labelled(draw: st.DrawFn, shape: tuple[int, int]) -> Labelled:
    """Random labels, with or without instances and a region."""
    classes = draw(arrays(np.uint8, shape, elements=st.integers(0, 2)))
    instances = draw(st.none() | arrays(np.int32, shape, elements=st.integers(0, 5)))
    inside = draw(st.none() | arrays(np.bool_, shape))
    return Labelled(classes, instances, inside)


@st.composite
def images(draw: st.DrawFn) -> tuple[Labelled, Labelled]:
    shape = draw(SHAPES)
    return draw(labelled(shape)), draw(labelled(shape))


def tallied(predicted: Labelled, truth: Labelled, block_px: int) -> Tally:
    tally = Tally(("nucleus", "border"))
    terms = Terms(0.5, connectivity=8, predicted_px=3, truth_px=2, radius_um=1.0)
    tally.add_planes(ArrayPlane("p", predicted), ArrayPlane("t", truth), terms=terms, block_px=block_px)
    return tally


@given(images(), st.integers(1, 15))
def test_scores_of_blocks_are_those_of_the_whole_to_the_last_bit(
    image: tuple[Labelled, Labelled], block_px: int
) -> None:
    blockwise, whole = tallied(*image, block_px).scores(), tallied(*image, 20).scores()
    assert blockwise.keys() == whole.keys()
    for name, value in blockwise.items():
        assert value == whole[name] or (math.isnan(value) and math.isnan(whole[name])), name


@given(images(), st.integers(1, 15))
def test_counts_of_blocks_are_those_of_the_whole(image: tuple[Labelled, Labelled], block_px: int) -> None:
    predicted, truth = (ArrayPlane("", side) for side in image)
    one, other = (compare(predicted, truth, 2, needs=("overlap",), block_px=side) for side in (block_px, 20))
    assert np.array_equal(one.confusion.pixels, other.confusion.pixels)
    assert one.overlap is not None
    assert other.overlap is not None
    for field in ("truth", "predicted", "pixels"):
        assert np.array_equal(getattr(one.overlap, field), getattr(other.overlap, field))


def test_an_object_counts_with_its_part_inside() -> None:
    truth = np.zeros((4, 8), np.uint8)
    truth[1:3, 2:8] = 1
    inside = np.arange(8) < np.full((4, 1), 5)
    predicted = np.where(inside, truth, 1)  # wrong everywhere else
    tally = Tally(("nucleus",))
    tally.add(predicted, truth, inside=inside)
    assert tally.scores()["f1"] == tally.scores()["aji"] == tally.scores()["dice"] == 1
    assert tally.scores()["pixel_error"] == tally.scores()["adapted_rand_error"] == 0


class Watched:
    """A plane that remembers the largest block that was read."""

    name, shape = "watched", (4096, 512)

    def __init__(self) -> None:
        self.largest = 0

    def read(self, box: Box) -> Labelled:
        height, width = box.shape
        self.largest = max(self.largest, height * width)
        rows, cols = np.ogrid[box.y0 : box.y1, box.x0 : box.x1]
        return Labelled(np.asarray((rows % 64 < 40) & (cols % 64 < 40), np.uint8))


def test_a_large_plane_is_read_block_by_block_and_each_object_is_one() -> None:
    plane = Watched()
    compared = compare(plane, Watched(), 1, needs=("overlap",), block_px=100)
    assert plane.largest == 100 * 100
    assert compared.overlap is not None
    assert compared.overlap.pairs.truth_area.tolist() == [1600] * (64 * 8)


def test_sizes_that_differ_are_refused_by_name_and_size() -> None:
    one, other = (ArrayPlane(name, Labelled(np.zeros(shape, int))) for name, shape in [("a", (2, 3)), ("b", (3, 2))])
    with pytest.raises(UsageError, match="a is 3 wide x 2 high, and b is 2 wide x 3 high"):
        compare(one, other, 1, needs=())


def test_the_warping_error_of_a_large_image_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "WARPING_LIMIT_PX", 99)
    plane = Watched()
    with pytest.raises(UsageError, match=r"512 wide x 4096 high.* at most 99 px.*leave warping_error out"):
        compare(plane, plane, 1, needs=("warping",))
    assert plane.largest == 0


def test_the_warping_error_is_asked_for_masks_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def warping_error(prediction: np.ndarray, truth: np.ndarray) -> float:
        seen.append((prediction, truth))
        return 0.25

    import sys
    import types

    module = types.ModuleType("wsipipe.evaluation.warping")
    module.warping_error = warping_error  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wsipipe.evaluation.warping", module)
    tally = Tally(("a", "b"), ("warping_error",))
    tally.add(np.array([[1, 2, 0]]), np.array([[0, 1, 2]]), inside=np.array([[True, True, False]]))
    assert tally.scores() == {"warping_error": 0.25}
    assert [mask.tolist() for mask in seen[0]] == [[[True, True, False]], [[False, True, False]]]
