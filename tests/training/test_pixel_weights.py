from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsipipe.training.pixel_weights import border_weight, class_weights, reach_of, separated, two_nearest

Instances = npt.NDArray[np.int32]

IDS = st.sampled_from([0, 1, 2, 3, 7, 2**31 - 1])
"""Few ids, so that an object has several pieces; one of them is the largest allowed."""
LABELS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=IDS, fill=st.just(0))


def distances_one_object_at_a_time(instances: Instances, reach: int) -> list[npt.NDArray[np.float32]]:
    """Brute force: a distance map for each object, and the two smallest at each pixel, as squared integers first."""
    ids = np.unique(instances[instances > 0])
    maps = [ndimage.distance_transform_edt(instances != i) for i in ids]
    squared = np.array([np.rint(m**2) for m in maps] + [np.full(instances.shape, np.inf)] * 2)
    squared[squared > reach**2] = np.inf
    return [np.sqrt(plane).astype(np.float32) for plane in np.sort(squared, axis=0)[:2]]


def scattered(shape: tuple[int, int], objects: int, seed: int) -> Instances:
    """Rectangles of up to 9 px that may overlap."""
    rng, instances = np.random.default_rng(seed), np.zeros(shape, np.int32)
    for i in rng.permutation(objects) + 1:
        (y, x), (h, w) = rng.integers(0, shape), rng.integers(1, 10, 2)
        instances[y : y + h, x : x + w] = i
    return instances


@given(LABELS, st.integers(0, 18))
@example(np.zeros((3, 4), np.int32), 5)
@example(np.eye(5, dtype=np.int32), 5)
def test_two_nearest_is_brute_force(instances: Instances, reach: int) -> None:
    for got, wanted in zip(
        two_nearest(instances, reach), distances_one_object_at_a_time(instances, reach), strict=True
    ):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("objects", [0, 1, 2, 80])
def test_two_nearest_is_brute_force_on_objects_of_real_size(objects: int) -> None:
    instances = scattered((90, 70), objects, seed=objects)
    for got, wanted in zip(two_nearest(instances, 30), distances_one_object_at_a_time(instances, 30), strict=True):
        np.testing.assert_array_equal(got, wanted)


@given(LABELS, st.integers(0, 6), st.integers(0, 5))
def test_a_margin_is_looked_at_and_cut(instances: Instances, reach: int, margin: int) -> None:
    margin = min(margin, (min(instances.shape) - 1) // 2)
    window = np.s_[margin : instances.shape[0] - margin, margin : instances.shape[1] - margin]
    for got, whole in zip(two_nearest(instances, reach, margin), two_nearest(instances, reach), strict=True):
        np.testing.assert_array_equal(got, whole[window])


@given(st.integers(0, 99), st.integers(0, 40), st.integers(0, 30), st.integers(0, 3), st.sampled_from([1.5, 2.9]))
def test_the_map_of_a_crop_is_the_crop_of_the_map(seed: int, top: int, left: int, spare: int, ridge: float) -> None:
    whole, sigma, side = scattered((100, 90), 60, seed), 2.5, 17
    context = reach_of(sigma) + int(ridge) + spare
    size = side + 2 * context
    crop = whole[top : top + size, left : left + size]
    got = border_weight(separated(crop, ridge), w0=10, sigma=sigma, margin=context)
    wanted = border_weight(separated(whole, ridge), w0=10, sigma=sigma)[top:, left:][context:-context, context:-context]
    np.testing.assert_array_equal(got, wanted[: got.shape[0], : got.shape[1]])
    assert got.shape == (side, min(size, 90 - left) - 2 * context)


def test_the_distances_do_not_depend_on_which_ids_there_are() -> None:
    instances = scattered((60, 60), 30, seed=4)
    renamed = np.random.default_rng(0).permutation(2**20)[: instances.max() + 1].astype(np.int32) + 1
    renamed[0] = 0
    for a, b in zip(two_nearest(instances, 12), two_nearest(renamed[instances], 12), strict=True):
        np.testing.assert_array_equal(a, b)


def test_border_weight_by_hand() -> None:
    instances = np.array([[1, 1, 0, 0, 2]], np.int32)
    weight = border_weight(instances, w0=10, sigma=5)
    expected = 10 * np.exp(-(3**2) / 50)  # 1 px to one object, 2 to the other
    np.testing.assert_array_equal(weight, np.array([[0, 0, expected, expected, 0]], np.float32))
    assert weight.dtype == np.float32
    assert expected == pytest.approx(8.3527, abs=1e-4)


def test_the_ridge_between_objects_that_touch_weighs_most() -> None:
    instances = np.repeat([[0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0]], 5, axis=0).astype(np.int32)
    weight = border_weight(separated(instances), w0=10, sigma=5)
    np.testing.assert_array_equal(weight[:, 5:7], np.float32(10 * np.exp(-(3**2) / 50)))  # 1 px to one, 2 to the other
    assert (weight[:, [0, 1, 2, 9, 10, 11]] < weight[:, 5:6]).all()
    assert not weight[:, [3, 4, 7, 8]].any()


def test_border_weight_ends_where_it_is_said_to() -> None:
    sigma = 1.5
    for gap in range(1, 16):  # d1 + d2 is gap + 1 all along the gap
        instances = np.zeros((1, gap + 2), np.int32)
        instances[0, [0, -1]] = 1, 2
        weight = border_weight(instances, w0=1, sigma=sigma)[0, 1:-1]
        assert (weight > 0).all() if gap + 1 <= reach_of(sigma) else not weight.any()
    assert reach_of(1.5) == 9
    assert reach_of(5) == 30


@pytest.mark.parametrize("objects", [0, 1])
def test_fewer_than_two_objects_have_no_border(objects: int) -> None:
    assert not border_weight(scattered((20, 30), objects, seed=1), w0=10, sigma=5).any()


@given(LABELS, st.sampled_from([1.5, 2, 2.3, 3, 4.5]))
def test_what_is_nearer_than_the_ridge_to_another_object_is_removed(instances: Instances, ridge: float) -> None:
    expected = instances.copy()
    for i in np.unique(instances[instances > 0]):
        others = (instances != i) & (instances > 0)
        if others.any():
            expected[(instances == i) & (ndimage.distance_transform_edt(~others) <= ridge)] = 0
    np.testing.assert_array_equal(separated(instances, ridge), expected)


@given(LABELS)
def test_no_component_of_what_is_separated_has_two_objects(instances: Instances) -> None:
    apart = separated(instances)
    assert apart.dtype == np.int32
    assert set(np.unique(apart - instances)) <= {0, *-instances[instances > 0]}, "only removes"
    for connectivity in (np.ones((3, 3)), None):  # 8, 4
        components, count = ndimage.label(apart > 0, connectivity)
        for i in range(1, count + 1):
            assert len(np.unique(apart[components == i])) == 1


@given(
    st.lists(st.integers(3, 7), min_size=1, max_size=4), st.lists(st.integers(3, 7), min_size=1, max_size=4), st.data()
)
def test_components_of_what_is_separated_are_the_objects(
    heights: list[int], widths: list[int], data: st.DataObject
) -> None:
    """Objects of at least 3 x 3 px that fill the plane: one that touches higher ids all round keeps its middle."""
    ids = data.draw(st.permutations(range(1, len(heights) * len(widths) + 1)))
    table = np.array(ids, np.int32).reshape(len(heights), len(widths))
    apart = separated(table.repeat(heights, axis=0).repeat(widths, axis=1))
    components, count = ndimage.label(apart)
    pairs = set(zip(components.ravel().tolist(), apart.ravel().tolist(), strict=True)) - {(0, 0)}
    assert len(pairs) == count == table.size
    assert {i for _, i in pairs} == set(ids)


def test_objects_that_do_not_touch_stay_as_they_are() -> None:
    instances = np.zeros((9, 12), np.int32)
    instances[1:4, 1:4], instances[1:4, 5:9], instances[5:8, 2:6] = 3, 1, 2
    np.testing.assert_array_equal(separated(instances), instances)


def test_the_ridge_is_one_pixel_of_each_object_whatever_their_ids() -> None:
    np.testing.assert_array_equal(separated(np.array([[5, 5, 5, 2, 2, 2]], np.int32)), [[5, 5, 0, 0, 2, 2]])
    np.testing.assert_array_equal(separated(np.array([[2, 2, 2, 5, 5, 5]], np.int32)), [[2, 2, 0, 0, 5, 5]])
    np.testing.assert_array_equal(separated(np.array([[2, 2, 0, 5, 5, 5]], np.int32)), [[2, 2, 0, 5, 5, 5]])


def test_class_weights_by_hand() -> None:
    weights = class_weights(np.array([90, 10, 0]))
    np.testing.assert_allclose(weights, [100 / 180, 100 / 20, 0])


@given(hnp.arrays(np.int64, st.integers(1, 6), elements=st.integers(0, 10**12)))
def test_every_class_that_occurs_counts_the_same_and_the_mean_weight_is_1(counts: npt.NDArray[np.int64]) -> None:
    weights = class_weights(counts)
    share = weights * counts / max(counts.sum(), 1)
    present = counts > 0
    np.testing.assert_allclose(share[present], 1 / max(present.sum(), 1))
    assert not weights[~present].any()
