"""Objects of blocks are those of the whole image: to the last digit, and the same bytes whatever the blocks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import shapely
from hypothesis import given, settings

from tests.objects.made import CONNECTIVITIES, LABELS, SIDES, read_sorted, regions, write_objects
from tests.soak import examples


def close(found: object, right: object) -> bool:
    """Equal but for the rounding of a handful of operations on floats."""
    return bool(np.allclose(np.array(found, float), np.array(right, float), rtol=1e-9, atol=1e-9, equal_nan=True))


@settings(max_examples=examples(40))
@given(LABELS, SIDES, SIDES, CONNECTIVITIES)
def test_objects_of_blocks_are_those_of_the_whole(
    labels: np.ndarray, one_px: int, other_px: int, connectivity: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, "one.parquet"), Path(folder, "other.parquet")
        write_objects(one, labels, block_px=one_px, connectivity=connectivity)
        write_objects(other, labels, block_px=other_px, connectivity=connectivity, seed=1)
        assert one.read_bytes() == other.read_bytes()
        rows = read_sorted(one).to_pydict()
    right = regions(labels, connectivity)
    assert rows["id"] == list(range(1, len(right) + 1))
    assert rows["class"] == [f"class {label}" for _, label, _ in right]
    assert rows["pixels"] == [region.num_pixels for *_, region in right]
    assert [(b["ymin"], b["xmin"], b["ymax"], b["xmax"]) for b in rows["bbox"]] == [r.bbox for *_, r in right]
    geometries = shapely.from_wkb(rows["geometry"])
    assert shapely.is_valid(geometries).all()
    assert shapely.area(geometries).tolist() == rows["pixels"]
    assert close(rows["y"], [region.centroid[0] + 0.5 for *_, region in right])
    assert close(rows["x"], [region.centroid[1] + 0.5 for *_, region in right])
    assert close(shapely.bounds(geometries).tolist(), [list(b.values()) for b in rows["bbox"]])
    for geometry, (*_, region) in zip(geometries, right, strict=True):
        y, x = region.coords.T + 0.5
        assert shapely.contains_xy(geometry, x, y).all()
