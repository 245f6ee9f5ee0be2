"""Pixels that get their ids from the outlines in a table: each object its own, in any box, and block by block."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objects.made import CONNECTIVITIES, LABELS, SIDES, read_sorted, regions, write_objects
from tests.soak import examples
from wsipipe.errors import StoreError
from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.pixel_ids import EdgeFiles, ids_within
from wsipipe.objects.read import ObjectTable, geometries, open_objects


def filled(path: Path, shape: tuple[int, int], block_px: int) -> np.ndarray:
    """The ids of all pixels, from the outlines in a table."""
    folder = path.with_suffix(".edges")
    folder.mkdir()
    edges = EdgeFiles(folder, shape, block_px)
    edges.write(open_objects(path))
    ids = np.full(shape, 2**32 - 1, np.uint32)
    for box in boxes(shape, block_px):
        before = ids[box.y0 : box.y1, box.x0 - 1] if box.x0 else np.zeros(box.shape[0], np.uint32)
        ids[box.slices] = edges.fill(box, before)
    return ids


def right_ids(labels: np.ndarray, connectivity: int, min_pixels: float = 0) -> np.ndarray:
    """By scipy: the number of each pixel's object in the order of first pixels; 0 for one that is too small."""
    ids = np.zeros(labels.shape, np.uint32)
    for number, (_, _, region) in enumerate(regions(labels, connectivity), 1):
        if region.num_pixels >= min_pixels:
            ids[tuple(region.coords.T)] = number
    return ids


@settings(max_examples=examples(10))
@given(LABELS, SIDES, SIDES, CONNECTIVITIES, st.sampled_from([1.0, 2.5, 4.000244]), st.sampled_from([0, 6]))
def test_ids_are_those_of_scipy(
    labels: np.ndarray, measured_px: int, filled_px: int, connectivity: int, downsample: float, smallest: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.parquet")
        write_objects(
            path,
            labels,
            block_px=measured_px,
            connectivity=connectivity,
            mpp=1.0,
            downsample=downsample,
            min_area_um2=smallest,
        )
        assert np.array_equal(filled(path, labels.shape, filled_px), right_ids(labels, connectivity, smallest))


def brute_force(table: ObjectTable, shape: tuple[int, int]) -> np.ndarray:
    """The id of the polygon that has the centre of each pixel, polygon by polygon."""
    scale = table.description.downsample
    y, x = (np.indices(shape) + 0.5) * scale
    ids = np.zeros(shape, np.int64)
    for part in table.parts(columns=["id", "geometry"]):
        for number, polygon in zip(part["id"].to_pylist(), geometries(part), strict=True):
            ids[shapely.contains_xy(polygon, x, y)] += number
    return ids


@settings(max_examples=examples(30))
@given(LABELS, CONNECTIVITIES, st.booleans(), st.sampled_from([4, 9, 100]))
def test_pixels_are_those_within_the_polygons(labels: np.ndarray, connectivity: int, split: bool, side: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.parquet")
        write_objects(path, labels, block_px=100, connectivity=connectivity, split=split, downsample=2.5)
        table = open_objects(path)
        ids = np.zeros(labels.shape, np.int64)
        for box in boxes(labels.shape, side):
            ids[box.slices] = ids_within(table, box)
        assert np.array_equal(ids, brute_force(table, labels.shape))
        assert np.array_equal(ids > 0, labels > 0)


def test_pixels_of_objects_that_were_left_out_have_no_id(tmp_path: Path) -> None:
    labels = np.zeros((40, 50), np.uint8)
    labels[3:20, 4:30], labels[8:12, 10:15] = 1, 0  # with a hole
    labels[9:11, 11:13] = labels[30, 30] = 2  # small ones, one of them in the hole
    path = tmp_path / "one.parquet"
    assert write_objects(path, labels, block_px=100, mpp=1.0, min_area_um2=5) == 2
    found = ids_within(open_objects(path), Box(5, 40, 6, 50))
    assert np.array_equal(found, (labels == 1)[5:, 6:])


SOME_SIDES = st.sampled_from([14, 25, 100])


@settings(max_examples=examples(3))
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90)), max_size=5), SOME_SIDES, SOME_SIDES, CONNECTIVITIES)
def test_parted_objects_have_the_pixels_within_their_outlines(
    centres: list[tuple[int, int]], measured_px: int, filled_px: int, connectivity: int
) -> None:
    y, x = np.mgrid[:60, :90]
    labels = np.zeros((60, 90), np.uint8)
    for number, (cy, cx) in enumerate([(15, 15), (18, 34), *centres]):  # the first two touch, and are parted
        labels[(y - cy) ** 2 + (x - cx) ** 2 < 11**2] = 1 + number // 3
    right = np.zeros(labels.shape, np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.parquet")
        write_objects(path, labels, block_px=measured_px, connectivity=connectivity, split=True)
        rows = read_sorted(path).to_pydict()
        found = filled(path, labels.shape, filled_px)
    for one, outline in zip(rows["id"], shapely.from_wkb(rows["geometry"]), strict=True):
        right[shapely.contains_xy(outline, x + 0.5, y + 0.5)] = one
    assert centres or len(rows["id"]) == 2 > len(regions(labels, connectivity))
    assert np.array_equal(right > 0, labels > 0)
    assert np.array_equal(found, right)


def test_an_id_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    write_objects(path, np.ones((8, 8), np.uint8), block_px=8)
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, table.schema.field("id"), pa.array([2**32])), path)
    with pytest.raises(StoreError, match=r"has the id 4294967296; at most 4294967295 fits"):
        filled(path, (8, 8), 8)
