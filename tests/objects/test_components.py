from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import label

from wsipipe.geometry.grid import boxes
from wsipipe.objects.components import Components, objects
from wsipipe.objects.numbers import class_of, number_objects

CLASSES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 2))
CONNECTIVITIES = st.sampled_from([4, 8])


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the two number the same objects, each in its way."""
    pairs = {(int(a), int(b)) for a, b in zip(one.ravel(), other.ravel(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_objects_does_not_join_across_a_diagonal_ridge() -> None:
    mask = ~np.eye(5, dtype=bool)
    assert objects(mask).max() == 2
    assert label(mask, connectivity=2).max() == 1


def test_objects_of_different_classes_never_join() -> None:
    found = objects(np.array([[1, 2, 2], [1, 0, 1]]))
    assert found.dtype == np.int32
    assert found.tolist() == [[1, 3, 3], [1, 0, 2]]


@given(CLASSES, CONNECTIVITIES)
def test_objects_are_those_of_scikit_image(classes: np.ndarray, connectivity: int) -> None:
    found = objects(classes, connectivity=connectivity)
    assert same_partition(found, label(classes, connectivity=connectivity // 4, background=0))


@given(CLASSES, st.integers(1, 13), CONNECTIVITIES)
def test_components_of_blocks_are_those_of_the_whole(classes: np.ndarray, block_px: int, connectivity: int) -> None:
    components, parts = Components(classes.shape[1], connectivity=connectivity), np.zeros(classes.shape, np.int64)
    for box in boxes(classes.shape, block_px):
        parts[box.slices] = components.add(box, classes[box.slices])
    whole = components.whole(parts.ravel()).reshape(parts.shape)
    at_once = Components(classes.shape[1], connectivity=connectivity)
    (box,) = boxes(classes.shape, 20)
    assert np.array_equal(whole, at_once.add(box, classes))
    assert same_partition(whole, label(classes, connectivity=connectivity // 4, background=0))
    assert np.array_equal(class_of(whole), classes)


@given(CLASSES)
def test_objects_are_numbered_in_the_order_of_their_first_pixels(classes: np.ndarray) -> None:
    by_position = Components(classes.shape[1]).add(next(boxes(classes.shape, 20)), classes)
    ids = objects(classes)
    for class_id in (1, 2):
        ranks = np.unique(by_position[classes == class_id], return_inverse=True)[1]
        assert np.array_equal(ranks, np.unique(ids[classes == class_id], return_inverse=True)[1])


def test_number_objects_tells_equal_ids_of_two_classes_apart() -> None:
    numbers = number_objects(np.array([[1, 2, 0, 1]]), np.array([[7, 7, 7, 0]]))
    assert len(np.unique(numbers[0, :2])) == 2
    assert numbers[0, 2:].tolist() == [0, 0]
