from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from tests.real_data import data, needs_data
from wsipipe.errors import UsageError
from wsipipe.evaluation.warping import RING, simple_neighbourhoods, warped_truth, warping_error

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=9)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape)))


@st.composite
def smooth_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two images of blobs, so that much can be flipped: in random ones hardly any pixel is simple."""
    shape = draw(st.tuples(st.integers(1, 16), st.integers(1, 16)))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(2, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1), mode="nearest")
    mixed = smooth[0] + draw(st.floats(0, 2)) * smooth[1]
    return mixed > 0, smooth[0] > 0


def topology(image: np.ndarray) -> tuple[int, int]:
    """How many objects, joined by their sides, and how many parts of background, by corners too, with the outside."""
    padded = np.pad(image, 1)
    return ndimage.label(padded)[1], ndimage.label(~padded, np.ones((3, 3)))[1]


def flipped(image: np.ndarray, pixel: tuple[int, int]) -> np.ndarray:
    changed = image.copy()
    changed[pixel] ^= True
    return changed


def simple(image: np.ndarray, pixel: tuple[int, int]) -> bool:
    """The definition, on the whole image: in the plane, a flip that changes anything changes one of the two counts."""
    return topology(flipped(image, pixel)) == topology(image)


def slowly_warped_truth(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whole sweeps, column by column, until one flips nothing."""
    warped, before = truth.copy(), None
    while before is None or (warped != before).any():
        before = warped.copy()
        for x in range(truth.shape[1]):
            for y in range(truth.shape[0]):
                if warped[y, x] != prediction[y, x] and simple(warped, (y, x)):
                    warped[y, x] ^= True
    return warped


def wrong_pixels(prediction: np.ndarray, truth: np.ndarray) -> float:
    return warping_error(prediction, truth) * truth.size


def disc(centre: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.ogrid[:24, :24]
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2)


def two_cells(membrane_px: int, at: int = 6) -> np.ndarray:
    cells = np.ones((12, 16), bool)
    cells[:, at : at + membrane_px] = False
    return cells


@pytest.mark.parametrize("centre", [False, True])
def test_a_neighbourhood_is_simple_if_the_flip_keeps_the_number_of_components(centre: bool) -> None:
    found = simple_neighbourhoods()
    assert found.shape == (256,)
    for code in range(256):
        patch = np.zeros((3, 3), bool)
        patch[1, 1] = centre
        for k, (dy, dx) in enumerate(RING):
            patch[1 + dy, 1 + dx] = code >> k & 1
        assert found[code] == simple(patch, (1, 1)), patch


@given(st.one_of(PAIRS, smooth_pairs()))
def test_warped_truth_is_that_of_whole_sweeps(pair: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_array_equal(warped_truth(*pair), slowly_warped_truth(*pair))


@given(st.one_of(PAIRS, smooth_pairs()))
def test_warped_truth_has_the_topology_of_the_truth(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = pair
    warped = warped_truth(prediction, truth)
    assert warped.dtype == np.bool_
    assert topology(warped) == topology(truth)
    assert not ((warped != truth) & (prediction == truth)).any()
    assert not any(simple(warped, (int(y), int(x))) for y, x in np.argwhere(warped != prediction))


@given(st.one_of(PAIRS, smooth_pairs()))
def test_warping_error_lies_between_0_and_the_pixel_error(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = pair
    assert 0 <= warping_error(prediction, truth) <= np.mean(prediction != truth)
    assert warping_error(truth, truth) == 0
    assert topology(prediction) == topology(truth) or warping_error(prediction, truth) > 0


def test_warping_leaves_its_arguments_alone_and_takes_views() -> None:
    prediction, truth = disc((12, 12), 5), disc((11, 10), 6)
    copies = prediction.copy(), truth.copy()
    expected = warped_truth(prediction[::2, ::-1].copy(), truth[::2, ::-1].copy())
    np.testing.assert_array_equal(warped_truth(prediction[::2, ::-1], truth[::2, ::-1]), expected)
    np.testing.assert_array_equal((prediction, truth), copies)


@pytest.mark.parametrize(
    "prediction",
    [disc((12, 12), 7), disc((12, 12), 3), disc((13, 12), 5), disc((11, 13), 5), disc((16, 9), 5)],
    ids=["larger", "smaller", "lower", "up and right", "far"],
)
def test_a_blob_of_another_size_or_place_costs_nothing(prediction: np.ndarray) -> None:
    assert (prediction != disc((12, 12), 5)).any()
    assert warping_error(prediction, disc((12, 12), 5)) == 0


@pytest.mark.parametrize(("membrane_px", "at"), [(1, 5), (1, 7), (3, 3), (3, 5), (3, 7)])
def test_a_membrane_that_touches_the_true_one_costs_nothing(membrane_px: int, at: int) -> None:
    assert warping_error(two_cells(membrane_px, at), two_cells(1)) == 0
    assert warping_error(two_cells(1), two_cells(membrane_px, at)) == 0


def test_a_membrane_clear_of_the_true_one_costs_its_length_and_the_merger() -> None:
    assert wrong_pixels(two_cells(1, 9), two_cells(1)) == 12 + 1  # the new one grows from the border, but for a pixel


@pytest.mark.parametrize("gap_px", [1, 2, 5, 10])
@pytest.mark.parametrize("membrane_px", [1, 2, 3])
def test_a_gap_that_merges_two_cells_costs_its_length_whatever_its_width(membrane_px: int, gap_px: int) -> None:
    truth = two_cells(membrane_px)
    prediction = truth.copy()
    prediction[1 : 1 + gap_px] = True
    assert topology(prediction) != topology(truth)
    assert wrong_pixels(prediction, truth) == gap_px


def test_a_cell_split_in_two_costs_the_length_of_the_split() -> None:
    assert wrong_pixels(two_cells(1), np.ones((12, 16), bool)) == 1
    inside = disc((12, 12), 9)
    split = inside.copy()
    split[:, 12] = False
    assert wrong_pixels(split, inside) == 1


@pytest.mark.parametrize("side_px", [1, 2, 3])
def test_a_hole_or_an_object_too_many_costs_its_area_and_a_missing_one_a_pixel(side_px: int) -> None:
    whole = disc((12, 12), 9)
    holed = whole.copy()
    holed[11 : 11 + side_px, 12 : 12 + side_px] = False
    assert wrong_pixels(holed, whole) == side_px**2
    assert wrong_pixels(whole, holed) == 1
    assert wrong_pixels(~holed, ~whole) == side_px**2
    assert wrong_pixels(~whole, ~holed) == 1


def test_objects_are_joined_by_their_sides_and_background_by_corners() -> None:
    diagonal = ~np.eye(6, dtype=bool)
    opened = flipped(diagonal, (2, 2))
    assert wrong_pixels(opened, diagonal) == 1
    assert wrong_pixels(~opened, ~diagonal) == 1  # six objects, of which the prediction has five
    assert topology(~diagonal) == (6, 1)


def test_beyond_the_border_is_background() -> None:
    truth = np.ones((6, 8), bool)
    prediction = truth.copy()
    prediction[:, 5:] = prediction[0] = False
    assert warping_error(prediction, truth) == warping_error(truth, prediction) == 0
    assert wrong_pixels(~prediction, ~truth) > 0  # an object where there was none


def test_an_image_of_one_pixel_is_right_or_wrong() -> None:
    cell = np.ones((1, 1), bool)
    assert warping_error(cell, cell) == 0
    assert warping_error(cell, ~cell) == warping_error(~cell, cell) == 1


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), bool), np.zeros((3, 2), bool), r"\(2, 3\), the truth \(3, 2\)"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), bool), r"prediction is uint8 .*\(labels > 0\)"),
        (np.zeros((1, 2, 3), bool), np.zeros((1, 2, 3), bool), r"shape \(1, 2, 3\)"),
        (np.zeros((0, 3), bool), np.zeros((0, 3), bool), r"shape \(0, 3\)"),
    ],
    ids=["shapes", "labels", "volume", "empty"],
)
def test_other_than_two_masks_of_one_shape_is_refused(prediction: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        warping_error(prediction, truth)


@needs_data
def test_a_shifted_slice_of_isbi_2012_is_warped_nearly_whole() -> None:
    from imagecodecs import imread

    truth = np.asarray(imread(str(data("seg/isbi2012-em/label/00.png")))) > 0
    smooth = ndimage.gaussian_filter(np.roll(truth, (2, 2), (0, 1)).astype(float), 1) > 0.5
    warped = warped_truth(smooth, truth)
    assert np.mean(smooth != truth) > 0.1
    assert wrong_pixels(smooth, truth) == 97  # as the docstring says
    assert topology(warped) == topology(truth)
