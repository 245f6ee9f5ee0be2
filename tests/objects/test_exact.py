"""Objects of blocks are those of the whole image: to the last digit, and the same bytes whatever the blocks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2hed

from tests.objects.made import CONNECTIVITIES, LABELS, SIDES, read_sorted, regions, write_objects
from tests.soak import examples


def close(found: object, right: object) -> bool:
    """Equal but for the rounding of a handful of operations on floats."""
    return bool(np.allclose(np.array(found, float), np.array(right, float), rtol=1e-9, atol=1e-9, equal_nan=True))


@settings(max_examples=examples(7))
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
    assert close(rows["solidity"], shapely.area(geometries) / shapely.area(shapely.convex_hull(geometries)))
    assert close(rows["y"], [region.centroid[0] + 0.5 for *_, region in right])
    assert close(rows["x"], [region.centroid[1] + 0.5 for *_, region in right])
    assert close(shapely.bounds(geometries).tolist(), [list(b.values()) for b in rows["bbox"]])
    for geometry, (*_, region) in zip(geometries, right, strict=True):
        y, x = region.coords.T + 0.5
        assert shapely.contains_xy(geometry, x, y).all()


@pytest.mark.parametrize("sigma", [0, 3, 20])
def test_hulls_of_large_objects_are_those_of_shapely(tmp_path: Path, sigma: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((400, 300)), sigma)
    path = tmp_path / "one.parquet"
    write_objects(path, (noise > np.median(noise)).astype(np.uint8), block_px=200)
    rows = read_sorted(path)
    geometries = shapely.from_wkb(rows["geometry"].to_pylist())
    hulls = shapely.area(shapely.convex_hull(geometries))
    assert max(hulls) > 10_000
    assert close(rows["solidity"].to_pylist(), shapely.area(geometries) / hulls)


SHAPES = {
    "major_axis_um": "axis_major_length",
    "minor_axis_um": "axis_minor_length",
    "eccentricity": "eccentricity",
    "perimeter_um": "perimeter",
}


@settings(max_examples=examples(10))
@given(LABELS, SIDES, CONNECTIVITIES, st.sampled_from([np.uint8, np.uint16]), st.integers(0, 9))
def test_measures_are_those_of_scikit_image(
    labels: np.ndarray, block_px: int, connectivity: int, dtype: type, seed: int
) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, np.iinfo(dtype).max, (*labels.shape, 3), dtype, endpoint=True)
    probability = random.integers(0, 256, labels.shape, np.uint8)
    intensity = np.concatenate([pixels, rgb2hed(pixels)[..., :2], probability[..., None] / 255], axis=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.parquet")
        write_objects(
            path,
            labels,
            block_px=block_px,
            connectivity=connectivity,
            mpp=1.0,
            pixels=pixels,
            probability=probability,
            stained=True,
        )
        rows = read_sorted(path).to_pydict()
    right = [region for *_, region in regions(labels, connectivity, intensity)]
    for name, theirs in SHAPES.items():
        # Rounding leaves scikit-image an axis of about 1e-8 where it is 0.
        assert np.allclose(rows[name], [region[theirs] for region in right], rtol=1e-7, atol=1e-6), name
    for ours, region in zip(rows["orientation"], right, strict=True):
        (a, b), (_, c) = region.inertia_tensor
        round_one = abs(a - c) < 1e-9 and abs(b) < 1e-9
        turned = abs(ours - region.orientation) % np.pi
        assert round_one or min(turned, np.pi - turned) < 1e-6
    for number, name in enumerate(["mean_c0", "mean_c1", "mean_c2", "hematoxylin_od", "eosin_od", "probability"]):
        means = [region.intensity_mean[number] for region in right]
        assert np.allclose(rows[name], means, rtol=1e-9, atol=2e-7 if "od" in name else 0), name
    for channel in range(3):
        spread = [region.intensity_std[channel] for region in right]
        assert np.allclose(rows[f"std_c{channel}"], spread, rtol=1e-6, atol=1e-6)
    for row, region in enumerate(right):
        box = shapely.from_wkb(rows["geometry"][row])
        assert close(rows["solidity"][row], region.num_pixels / shapely.convex_hull(box).area)
        length = region.perimeter
        assert close(rows["circularity"][row], 4 * np.pi * region.num_pixels / length**2 if length else np.nan)


def test_a_region_that_wraps_around_others_and_touches_every_block_is_one_object(tmp_path: Path) -> None:
    labels = np.zeros((96, 96), np.uint8)
    for ring in range(0, 48, 4):  # a spiral: every second ring is opened towards the one within it
        labels[ring : 96 - ring, ring : 96 - ring] = 1
        labels[ring + 2 : 94 - ring, ring + 2 : 94 - ring] = 0
        labels[ring + 2 : ring + 4, ring + 5] = 1
    write_objects(tmp_path / "one.parquet", labels, block_px=16)
    assert read_sorted(tmp_path / "one.parquet")["class"].to_pylist().count("class 1") == len(regions(labels, 8)) == 1
    (geometry,) = shapely.from_wkb(read_sorted(tmp_path / "one.parquet")["geometry"].to_pylist())
    assert geometry.is_valid
    assert geometry.area == (labels == 1).sum()


def test_what_hangs_together_by_a_corner_is_a_multipolygon_and_with_connectivity_4_two_objects(tmp_path: Path) -> None:
    labels = np.zeros((12, 12), np.uint8)
    labels[2:4, 2:4] = labels[4:6, 4:6] = 1
    for connectivity, kinds in ((8, ["MultiPolygon"]), (4, ["Polygon", "Polygon"])):
        path = tmp_path / f"{connectivity}.parquet"
        write_objects(path, labels, block_px=4, connectivity=connectivity)
        found = shapely.from_wkb(read_sorted(path)["geometry"].to_pylist())
        assert [geometry.geom_type for geometry in found] == kinds
        assert shapely.is_valid(found).all()


def test_small_objects_are_left_out_and_the_others_keep_their_ids(tmp_path: Path) -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[1, 1] = labels[3:9, 2:8] = labels[20, 20:22] = 2
    small = write_objects(tmp_path / "some.parquet", labels, block_px=5, min_area_um2=4.0)  # 16 px of 0.25 um2
    table = read_sorted(tmp_path / "some.parquet")
    assert table["id"].to_pylist() == [2]
    assert table["area_um2"].to_pylist() == [9.0]
    assert (table["class"].to_pylist().count("class 2"), small) == (1, 2)


def test_coordinates_are_those_of_the_finest_level_and_unknown_sizes_are_null(tmp_path: Path) -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[2:4, 3:8] = 1
    write_objects(tmp_path / "one.parquet", labels, block_px=5, mpp=None, downsample=2.5)
    (row,) = read_sorted(tmp_path / "one.parquet").to_pylist()
    assert shapely.from_wkb(row["geometry"]).equals(shapely.box(7.5, 5, 20, 10))
    assert row["bbox"] == {"xmin": 7.5, "ymin": 5.0, "xmax": 20.0, "ymax": 10.0}
    assert (row["x"], row["y"], row["x_um"], row["area_um2"]) == (13.75, 7.5, None, None)


@pytest.mark.parametrize("labels", [np.zeros((9, 9), np.uint8), np.ones((1, 1), np.uint8), np.ones((9, 1), np.uint8)])
def test_slides_without_objects_and_of_one_pixel_have_a_table(labels: np.ndarray, tmp_path: Path) -> None:
    write_objects(tmp_path / "one.parquet", labels, block_px=4)
    assert read_sorted(tmp_path / "one.parquet")["pixels"].to_pylist() == [labels.size] * int(labels.any())
