"""Pixels of objects from the outlines in a table."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objects.made import CONNECTIVITIES, LABELS, write_objects
from tests.soak import examples
from wsipipe.geometry.grid import Box, boxes
from wsipipe.objects.instances import instances_within
from wsipipe.objects.read import ObjectTable, geometries, open_objects


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
            ids[box.slices] = instances_within(table, box)
        assert np.array_equal(ids, brute_force(table, labels.shape))
        assert np.array_equal(ids > 0, labels > 0)


def test_pixels_of_objects_that_were_left_out_have_no_id(tmp_path: Path) -> None:
    labels = np.zeros((40, 50), np.uint8)
    labels[3:20, 4:30], labels[8:12, 10:15] = 1, 0  # with a hole
    labels[9:11, 11:13] = labels[30, 30] = 2  # small ones, one of them in the hole
    path = tmp_path / "one.parquet"
    assert write_objects(path, labels, block_px=100, mpp=1.0, min_area_um2=5) == 2
    found = instances_within(open_objects(path), Box(5, 40, 6, 50))
    assert np.array_equal(found, (labels == 1)[5:, 6:])
