"""Objects are parted where they are narrow, by their own shape alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.objects.made import CONNECTIVITIES, LABELS, read_sorted, write_objects
from tests.soak import examples
from wsipipe.geometry.grid import Box
from wsipipe.objects import block as block_module
from wsipipe.objects.block import Counting, measure_block
from wsipipe.objects.split import split_objects, squared_distances


def blobs(seed: int, shape: tuple[int, int] = (60, 70)) -> np.ndarray:
    """Labels of round things that touch."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2.5)
    return (smooth > np.quantile(smooth, 0.55)).astype(np.uint8) * (1 + (smooth > np.quantile(smooth, 0.9)))


def two_discs(distance_px: int, radius_px: int = 10) -> np.ndarray:
    y, x = np.mgrid[:40, :80]
    return ((y - 20) ** 2 + (x - 20) ** 2 < radius_px**2) | ((y - 20) ** 2 + (x - 20 - distance_px) ** 2 < radius_px**2)


@settings(max_examples=examples(40))
@given(LABELS)
def test_distances_are_those_of_scipy(labels: np.ndarray) -> None:
    mask = np.pad(labels == 1, 1)
    right = np.rint(ndimage.distance_transform_edt(mask) ** 2).astype(int)
    pixel = np.flatnonzero(mask)
    assert squared_distances(ndimage.label(mask)[0] - 1, pixel).tolist() == right.ravel()[pixel].tolist()


@pytest.mark.parametrize(("distance_px", "parts"), [(4, 0), (10, 0), (16, 2), (18, 2)])
def test_two_discs_are_parted_where_their_neck_is_narrow(distance_px: int, parts: int) -> None:
    found = split_objects(two_discs(distance_px).astype(int) - 1, np.ones(1, bool), connectivity=8)
    assert found.max() == parts
    if parts:
        left, right = ((found == part).sum() for part in (1, 2))
        assert abs(left - right) <= 20
        assert ((found > 0) == two_discs(distance_px)).all()


def test_parts_do_not_depend_on_where_an_object_lies_or_what_is_around_it() -> None:
    alone = np.pad(two_discs(16).astype(np.int64) - 1, 1, constant_values=-1)
    crowd = np.full((90, 200), -1)
    crowd[:42, :82] = alone
    crowd[45:87, 100:182] = np.where(alone >= 0, 1, -1)
    crowd[60:80, 5:60] = 2
    one = split_objects(alone, np.ones(1, bool), connectivity=8)
    many = split_objects(crowd, np.ones(3, bool), connectivity=8)
    assert np.array_equal(one, many[:42, :82])
    moved = many[45:87, 100:182]
    assert np.array_equal(one, np.where(moved > 0, moved - moved[moved > 0].min() + 1, 0))


@settings(max_examples=examples(5))
@given(st.integers(0, 10**6).map(blobs), st.sampled_from([9, 16, 33]), CONNECTIVITIES)
def test_parts_are_the_same_whatever_the_blocks(labels: np.ndarray, block_px: int, connectivity: int) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (*labels.shape, 3), np.uint8)
    probability = random.integers(0, 256, labels.shape, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{side}.parquet") for side in (block_px, 100)]
        for side, path in zip((block_px, 100), files, strict=True):
            write_objects(
                path,
                labels,
                block_px=side,
                connectivity=connectivity,
                pixels=pixels,
                probability=probability,
                stained=True,
                split=True,
            )
        assert files[0].read_bytes() == files[1].read_bytes()
        rows = read_sorted(files[0]).to_pydict()
    geometries = shapely.from_wkb(rows["geometry"])
    assert shapely.is_valid(geometries).all()
    assert shapely.area(geometries).tolist() == rows["pixels"]
    assert sum(rows["pixels"]) == (labels > 0).sum()
    assert rows["id"] == list(range(1, len(rows["id"]) + 1))
    for geometry, name, mean in zip(geometries, rows["class"], rows["mean_c1"], strict=True):
        y, x = np.nonzero(shapely.contains_xy(geometry, *np.meshgrid(np.arange(70) + 0.5, np.arange(60) + 0.5)))
        assert set(labels[y, x].tolist()) == {int(name[-1])}
        assert np.isclose(pixels[y, x, 1].mean(), mean)


def test_what_is_too_large_is_left_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "SPLIT_SIDE_PX", 30)
    labels = two_discs(16).astype(np.uint8)
    for block_px in (12, 100):
        write_objects(tmp_path / f"{block_px}.parquet", labels, block_px=block_px, split=True)
        assert read_sorted(tmp_path / f"{block_px}.parquet")["pixels"].to_pylist() == [labels.sum()]


def test_unparted_objects_are_those_without_splitting() -> None:
    labels = np.zeros((40, 80), np.uint8)
    labels[3:20, 5:25] = labels[25:30, 40:48] = 3
    counting = Counting(labels.shape)
    plain, split = (
        measure_block(labels, Box(0, 40, 0, 80), one) for one in (counting, Counting(labels.shape, split=True))
    )
    assert np.array_equal(plain.whole.added, split.whole.added)
    assert np.array_equal(plain.rings.points, split.rings.points)
    assert split.whole.label.tolist() == [3, 3]
