"""The resolution of a training set: where it comes from, and images scaled to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tests.training.given import at_place, image_of, one, pairs, pixels, plain, png, squares, table, whole
from wsipipe.errors import ResolutionError
from wsipipe.training.resize import resized

SHAPE = (40, 48)
IMAGE, LABELS = pixels((*SHAPE, 3)), squares(SHAPE)


def test_image_is_scaled_to_the_resolution_of_the_training(tmp_path: Path) -> None:
    smooth = ndimage.gaussian_filter(IMAGE.astype(float), (4, 4, 0)).astype(np.uint8)
    png(tmp_path / "a.png", smooth)
    png(tmp_path / "l.png", LABELS)
    table(tmp_path / "t.csv", "image,label,mpp", "a.png,l.png,0.25")
    field = one(at_place(plain(mpp=0.5), table="t.csv"), tmp_path)
    assert field.shape == (20, 24)
    truth = field.truth.read(whole(field))
    np.testing.assert_array_equal(truth.instances, LABELS[1::2, 1::2])
    np.testing.assert_array_equal(truth.classes, truth.instances > 0)
    means = smooth.reshape(20, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(image_of(field) - means).max() < 3


@pytest.mark.parametrize(
    ("mpp", "shape"), [(0.5, SHAPE), (0.52, SHAPE), (0.48, SHAPE), (1.0, (80, 96)), (0.4, (32, 38))]
)
def test_resolution_within_a_twentieth_is_left_as_it_is(tmp_path: Path, mpp: float, shape: tuple[int, int]) -> None:
    pairs(tmp_path, "a")
    table(tmp_path / "t.csv", "image,label,mpp", f"a_image.png,a_label.png,{mpp}")
    field = one(at_place(plain(mpp=0.5), table="t.csv"), tmp_path)
    assert field.shape == shape
    assert field.truth.read(whole(field)).classes.shape == shape
    if shape == SHAPE:
        np.testing.assert_array_equal(image_of(field), pixels((*SHAPE, 3)))


def test_resized_keeps_a_constant_and_the_range() -> None:
    flat = np.full((30, 40, 3), 65535, np.uint16)
    np.testing.assert_array_equal(resized(flat, (13, 57)), np.full((13, 57, 3), 65535))
    noise = pixels((30, 40, 1))
    assert resized(noise, (61, 79)).dtype == np.uint8
    assert resized(noise, noise.shape[:2]) is noise


def test_resolution_is_that_of_the_table_then_of_the_settings_then_of_the_file(tmp_path: Path) -> None:
    resolution = {"resolution": (1e4 / 1.0, 1e4 / 1.0), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a_image.tif", IMAGE, photometric="rgb", metadata=None, **resolution)
    png(tmp_path / "a_label.png", LABELS)
    assert one(plain(mpp=0.5), tmp_path).shape == (80, 96)
    assert one(plain(mpp=0.5, data={"mpp": 0.25}), tmp_path).shape == (20, 24)
    assert one(plain(), tmp_path).shape == SHAPE
    table(tmp_path / "t.csv", "image,label,mpp", "a_image.tif,a_label.png,0.5")
    assert one(at_place(plain(mpp=0.5), table="t.csv", mpp=0.25), tmp_path).shape == SHAPE


def test_image_without_resolution_is_refused_where_one_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match=r"a_image.png has no micrometres per pixel; give them in the table's"):
        one(plain(mpp=0.5), pairs(tmp_path, "a"))


def test_resolution_that_would_blow_an_image_up_is_refused_before_it_does(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    with pytest.raises(
        ResolutionError,
        match=r"a_image.png of 48 wide x 40 high at 250 micro.* would be 24000 wide x 20000 high at 0.5",
    ):
        one(plain(mpp=0.5, data={"mpp": 250.0}), tmp_path)


def test_median_object_is_scaled_to_its_known_size(tmp_path: Path) -> None:
    rows, cols = np.indices((120, 240))
    labels = np.zeros((120, 240), np.uint16)
    for number, radius in enumerate((6, 8, 10, 12, 30), 1):  # the median disc is 20 px across
        labels[(rows - 60) ** 2 + (cols - 40 * number + 10) ** 2 < radius**2] = number * 13
    png(tmp_path / "a_image.png", pixels((120, 240, 3)))
    png(tmp_path / "a_label.png", labels)
    field = one(plain(mpp=0.5, data={"object_um": 5.0}), tmp_path)
    areas = np.sort(np.unique(field.truth.read(whole(field)).instances, return_counts=True)[1])
    across = 2 * np.sqrt(areas[2] / np.pi)
    assert across * 0.5 == pytest.approx(5.0, rel=0.05)
    assert field.shape[0] == pytest.approx(60, abs=1)


def test_median_object_is_not_used_where_the_resolution_is_known(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    table(tmp_path / "t.csv", "image,label,mpp", "a_image.png,a_label.png,0.5")
    assert one(at_place(plain(mpp=0.5), table="t.csv", object_um=20.0), tmp_path).shape == SHAPE


def test_objects_of_enormous_numbers_are_measured_all_the_same(tmp_path: Path) -> None:
    png(tmp_path / "a_image.png", IMAGE)
    labels = LABELS.astype(np.uint32)
    tifffile.imwrite(tmp_path / "a_label.tif", np.where(labels > 0, labels + (2**31 - 1000), 0).astype(np.uint32))
    field = one(plain(mpp=0.5, data={"object_um": 6.77 / 2}), tmp_path)
    assert field.shape == SHAPE


def test_image_without_object_has_no_size_to_go_by(tmp_path: Path) -> None:
    png(tmp_path / "a_image.png", IMAGE)
    png(tmp_path / "a_label.png", LABELS * 0)
    with pytest.raises(ResolutionError, match=r"a_image.png has no objects, so object_um cannot tell its resolution"):
        one(plain(mpp=0.5, data={"object_um": 5.0}), tmp_path)
