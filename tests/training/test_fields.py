"""The training set: which files make which fields, and which do not fit together."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.slides.made import ome_zarr, pyramid
from tests.training.given import (
    at_place,
    geojson,
    image_of,
    one,
    pairs,
    pixels,
    plain,
    png,
    polygon,
    splits,
    squares,
    table,
    whole,
)
from wsipipe.errors import ChannelError, LabelError, ResolutionError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.geometry.mirror import mirror
from wsipipe.rasters.opened import RASTERS
from wsipipe.slides.open import open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.slide import choose_level
from wsipipe.training import fields
from wsipipe.training.config import ClassConfig
from wsipipe.training.data_config import AnnotatedSlide, DataConfig
from wsipipe.training.fields import Field, HeldImage, one_image, read_fields

SHAPE = (40, 48)
IMAGE, LABELS = pixels((*SHAPE, 3)), squares(SHAPE)


# ---- pixels and labels ----


@pytest.mark.parametrize(("image", "label"), [("a_image.png", "a_label.png"), ("images/a.png", "masks/a.png")])
def test_pair_is_what_was_written(tmp_path: Path, image: str, label: str) -> None:
    png(tmp_path / image, IMAGE)
    png(tmp_path / label, LABELS)
    field = one(plain(), tmp_path)
    assert (field.name, field.shape, field.channels, field.dtype) == ("a", SHAPE, 3, "uint8")
    np.testing.assert_array_equal(image_of(field), IMAGE)
    truth = field.truth.read(whole(field))
    np.testing.assert_array_equal(truth.instances, LABELS)
    np.testing.assert_array_equal(truth.classes, LABELS > 0)
    assert truth.inside.all()
    assert (truth.instances.dtype, truth.classes.dtype) == (np.int32, np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "tif", "zarr"])
def test_kinds_of_files_give_the_same_field(tmp_path: Path, kind: str, channels: int, dtype: str) -> None:
    image = pixels((*SHAPE, channels), dtype)
    flat = image[..., 0] if channels == 1 else image
    if kind == "png":
        png(tmp_path / "a_image.png", flat)
        png(tmp_path / "a_label.png", LABELS)
    elif kind == "tif":
        tifffile.imwrite(tmp_path / "a_image.tif", flat, photometric="rgb" if channels == 3 else "minisblack")
        tifffile.imwrite(tmp_path / "a_label.tif", LABELS.astype(np.uint32))
    else:
        ome_zarr(tmp_path / "a_image.zarr", [image.transpose(2, 0, 1)], "cyx")
        ome_zarr(tmp_path / "a_label.zarr", [LABELS], "yx")
    field = one(plain(), tmp_path)
    assert (field.channels, field.dtype) == (channels, dtype)
    np.testing.assert_array_equal(image_of(field), image)
    np.testing.assert_array_equal(field.truth.read(whole(field)).instances, LABELS)


def test_indices_in_any_order_give_those_pixels(tmp_path: Path) -> None:
    field = one(plain(), pairs(tmp_path, "a"))
    rows, cols = mirror(np.arange(-50, 60), SHAPE[0]), np.array([47, 0, 3, 3])
    image, truth = image_of(field), field.truth.read(whole(field))
    np.testing.assert_array_equal(field.pixels_at(rows, cols), image[rows[:, None], cols])
    there = field.truth_at(rows, cols)
    for name in ("classes", "instances", "inside"):
        np.testing.assert_array_equal(getattr(there, name), getattr(truth, name)[rows[:, None], cols])


def test_digest_is_that_of_both_files(tmp_path: Path) -> None:
    png(tmp_path / "a_image.png", IMAGE)
    png(tmp_path / "a_label.png", LABELS)
    first = one(plain(), tmp_path).sha256
    assert one(plain(), tmp_path).sha256 == first
    png(tmp_path / "a_label.png", np.where(LABELS == 3, 0, LABELS).astype(np.uint16))
    assert one(plain(), tmp_path).sha256 != first


def test_relative_paths_are_looked_for_in_each_root(tmp_path: Path) -> None:
    png(tmp_path / "second/set/a_image.png", IMAGE)
    png(tmp_path / "second/set/a_label.png", LABELS)
    (tmp_path / "first").mkdir()
    roots = [tmp_path / "first", tmp_path / "second"]
    assert read_fields(at_place(plain(), folder="set"), roots)[0].name == "a"
    assert read_fields(at_place(plain(), folder=str(tmp_path / "second/set")), roots)[0].name == "a"
    with pytest.raises(UsageError, match=f"folder {tmp_path}/first/none cannot be listed"):
        read_fields(at_place(plain(), folder="none"), roots)


# ---- tables ----


def test_table_names_files_resolution_and_split(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    pairs(tmp_path / "x", "a", "b", "c")
    rows = ["../x/a_image.png,../x/a_label.png,0.25,test", f"{tmp_path}/x/b_image.png, ../x/b_label.png ,,"]
    rows += [",,,", '"../x/c_image.png",../x/c_label.png,0.5,train', ""]
    config = table(folder / "t.csv", "image, label,mpp ,split", *rows, encoding="utf-8-sig")
    found = {field.name: field for field in read_fields(config, [folder])}
    assert list(found) == ["a_image.png", "b_image.png", "c_image.png"]
    assert splits(list(found.values())) == {"a_image.png": "test", "b_image.png": "train", "c_image.png": "train"}
    np.testing.assert_array_equal(image_of(found["b_image.png"]), pixels((*SHAPE, 3), seed=1))


def test_images_of_one_name_in_several_folders_go_by_their_paths(tmp_path: Path) -> None:
    for case in ("p1", "p2"):
        png(tmp_path / case / "he.png", IMAGE)
        png(tmp_path / case / "nuclei.png", LABELS)
    table(tmp_path / "t.csv", "image,label", "p1/he.png,p1/nuclei.png", "p2/he.png,p2/nuclei.png")
    config = at_place(plain(), table="t.csv", validation=("p2/*",))
    assert splits(read_fields(config, [tmp_path])) == {"p1/he.png": "train", "p2/he.png": "validation"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has the columns none; needed: image, label"),
        (["image;label", "a;b"], "has the columns 'image;label'; needed: image, label; .*separated by commas"),
        (
            ["image,mask", "a,b"],
            "has the columns 'image', 'mask'; needed: image, label; optional: mpp, split",
        ),
        (["image,label,scale", "a,b,1"], "has the columns 'image', 'label', 'scale'; needed"),
        (["image,label,image", "a,b,c"], "has the columns 'image', 'label', 'image'; needed"),
        (["image,label"], "has no rows below its header"),
        (["image,label", "a"], "line 2 lacks an image or a label"),
        (["image,label", "a,b", "", ",b"], "line 4 lacks an image or a label"),
        (["image,label", "a,b,c"], "line 2 has 3 cells for 2 columns; quote cells with a comma"),
        (
            ["image,label,mpp", "a,b,0;5"],
            "line 2 has the mpp '0;5'; it must be a positive number such as 0.5, or empty",
        ),
        (["image,label,mpp", "a,b,-1"], "line 2 has the mpp '-1'"),
        (["image,label,mpp", "a,b,inf"], "line 2 has the mpp 'inf'"),
        (["image,label,mpp", "a,b,nan"], "line 2 has the mpp 'nan'"),
        (["image,label,split", "a,b,train", "c,d,Val"], "line 3 has the split 'Val'; allowed: train, validation, test"),
    ],
)
def test_table_that_is_wrong_is_told_by_line_and_column(tmp_path: Path, rows: list[str], message: str) -> None:
    config = table(tmp_path / "t.csv", *rows)
    with pytest.raises(UsageError, match=f"^(table )?{tmp_path}/t.csv {message}"):
        read_fields(config, [tmp_path])


@pytest.mark.parametrize("content", [b"image,label\n\xff\xfe", "image,label\n".encode("utf-16"), None])
def test_table_that_is_not_a_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    reason = "is not CSV in UTF-8: " if content else "cannot be read: No such file or directory"
    with pytest.raises(UsageError, match=f"table {tmp_path}/t.csv {reason}"):
        read_fields(at_place(plain(), table="t.csv"), [tmp_path])


# ---- what does not fit together ----


@pytest.mark.parametrize(
    ("other", "said"), [(pixels(SHAPE), "1 channel of uint8"), (pixels((*SHAPE, 3), "uint16"), "3 channels of uint16")]
)
def test_mixed_images_are_both_named(tmp_path: Path, other: Any, said: str) -> None:
    pairs(tmp_path, "a", "b")
    png(tmp_path / "b_image.png", other)
    with pytest.raises(ChannelError, match="all images of a training must have the same") as raised:
        read_fields(plain(), [tmp_path])
    assert "a has 3 channels of uint8" in str(raised.value)
    assert f"b has {said}" in str(raised.value)


def test_labels_of_another_size_are_named_with_their_image(tmp_path: Path) -> None:
    png(tmp_path / "a_image.png", IMAGE)
    png(tmp_path / "a_label.png", np.ascontiguousarray(LABELS.T))
    with pytest.raises(
        LabelError, match=r"a_image.png is 48 wide x 40 high, its labels a_label.png are 40 wide x 48 high; both"
    ):
        one(plain(), tmp_path)


def test_core_that_fits_the_smallest_image_is_offered(tmp_path: Path) -> None:
    pairs(tmp_path, "a", shape=(40, 200))
    pairs(tmp_path, "b", shape=(30, 90))
    pairs(tmp_path, "c", shape=(70, 64))
    with pytest.raises(
        UsageError, match=r"^b is 90 wide x 30 high, .* core of 64 px \(2 of 3 images.*core = 28 fits all, or small"
    ):
        read_fields(plain(patches={"core": 64}), [tmp_path])
    assert len(read_fields(plain(patches={"core": 28}), [tmp_path])) == 3
    assert len(read_fields(plain(patches={"core": 64, "small_images": "mirror"}), [tmp_path])) == 3
    pairs(tmp_path, "d", shape=(3, 90))
    with pytest.raises(UsageError, match=r"^d is 90 wide x 3 high.* too small\); \[patches\] small_images = 'mirror'$"):
        read_fields(plain(), [tmp_path])


# ---- large images, and slides ----


def test_large_image_stays_in_its_file_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = pixels((100, 130, 3)), squares((100, 130))
    tifffile.imwrite(tmp_path / "a_image.tif", image, photometric="rgb", tile=(32, 32))
    tifffile.imwrite(tmp_path / "a_label.tif", labels, tile=(32, 32))
    held = one(plain(), tmp_path)
    monkeypatch.setattr(fields, "HELD_PX", 1000)
    lazy = one(plain(), tmp_path)
    assert isinstance(held.image, HeldImage)
    assert not isinstance(lazy.image, HeldImage)
    assert len(pickle.dumps(lazy)) < 4000 < len(pickle.dumps(held))
    assert (lazy.shape, lazy.channels, lazy.dtype, lazy.sha256) == (held.shape, held.channels, held.dtype, held.sha256)
    rows, cols = mirror(np.arange(-20, 90), 100), mirror(np.arange(60, 150), 130)
    np.testing.assert_array_equal(lazy.pixels_at(rows, cols), held.pixels_at(rows, cols))
    for name in ("classes", "instances", "inside"):
        there = [getattr(field.truth_at(rows, cols), name) for field in (lazy, held)]
        np.testing.assert_array_equal(*there)


def test_large_image_cannot_be_scaled_counted_or_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs(tmp_path, "a")
    monkeypatch.setattr(fields, "HELD_PX", 1000)
    with pytest.raises(UsageError, match="a is too large for labels_are = 'components'; number its objects instead"):
        one(plain(data={"labels_are": "components"}), tmp_path)
    with pytest.raises(ResolutionError, match=r"a is too large to be scaled to 0.5 micrometres per pixel"):
        one(plain(mpp=0.5, data={"mpp": 0.25}), tmp_path)
    with pytest.raises(ResolutionError, match=r"a_image.png is too large for object_um"):
        one(plain(mpp=0.5, data={"object_um": 5.0}), tmp_path)
    assert one(plain(mpp=0.5, data={"mpp": 0.51}), tmp_path).shape == SHAPE


def test_fields_survive_the_way_to_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid(tmp_path / "s.tif", pixels((100, 130, 3)))
    geojson(tmp_path / "s.geojson", polygon("object", 10, 60, 20, 90))
    slide = AnnotatedSlide("s.tif", annotations="s.geojson")
    found = [one(at_place(plain(), slides=(slide,)), tmp_path), one(plain(), pairs(tmp_path / "p", "a"))]
    monkeypatch.setattr(fields, "HELD_PX", 1000)
    for field in [*found, one(plain(), tmp_path / "p")]:
        blob = pickle.dumps(field)
        RASTERS.clear()
        again: Field = pickle.loads(blob)
        np.testing.assert_array_equal(image_of(again), image_of(field))
        before, after = field.truth.read(whole(field)), again.truth.read(whole(field))
        np.testing.assert_array_equal(after.instances, before.instances)
        np.testing.assert_array_equal(after.classes, before.classes)
        assert (again.name, again.sha256, again.split) == (field.name, field.sha256, field.split)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A slide of three levels, 0.5 micrometres per pixel at the finest."""
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    pyramid(tmp_path / "s.tif", pixels((100, 130, 3)), **resolution)
    return tmp_path


def test_annotations_are_classes_and_regions_at_the_level_of_the_training(slide: Path) -> None:
    features = [polygon("gland", 10, 50, 20, 60), polygon("fat", 60, 90, 20, 60), polygon("Ignore*", 70, 80, 20, 60)]
    geojson(slide / "s.geojson", *features, polygon("Region*", 0, 100, 0, 80))
    slides = (AnnotatedSlide("s.tif", annotations="s.geojson"),)
    classes = (ClassConfig("gland"), ClassConfig("fat"))
    config = plain(data=DataConfig(slides=slides, background=("Ignore*",)), classes=classes)
    for mpp, down in ((None, 1), (0.5, 1), (1.0, 2)):
        field = one(plain(mpp=mpp, data=config.data, classes=classes), slide)
        truth = field.truth.read(whole(field))
        expected = np.zeros((100, 130), int)
        expected[10:50, 20:60], expected[60:90, 20:60], expected[70:80, 20:60] = 1, 2, 0
        np.testing.assert_array_equal(truth.classes, expected[::down, ::down])
        np.testing.assert_array_equal(truth.inside, np.indices((100, 130))[1, ::down, ::down] < 80)
        assert set(np.unique(truth.instances)) == {0, 1, 2}
        np.testing.assert_array_equal(image_of(field), pixels((100, 130, 3))[::down, ::down])
    with pytest.raises(LabelError, match=r"s.geojson has annotations of 'Ignore\*' \(1 objects\); allowed: 'gland'"):
        one(plain(data=DataConfig(slides=slides), classes=classes), slide)


@pytest.mark.parametrize("down", [1, 2, 4])
def test_labels_of_a_slide_may_be_of_a_coarser_level(slide: Path, down: int) -> None:
    coarse = squares((-(-100 // down), -(-130 // down)))
    tifffile.imwrite(slide / "l.tif", coarse)
    field = one(at_place(plain(), slides=(AnnotatedSlide("s.tif", labels="l.tif"),)), slide)
    assert field.shape == (100, 130)
    rows = (np.arange(100) + 0.5) * coarse.shape[0] / 100
    cols = (np.arange(130) + 0.5) * coarse.shape[1] / 130
    expected = coarse[rows.astype(int)[:, None], cols.astype(int)]
    np.testing.assert_array_equal(field.truth.read(whole(field)).instances, expected)
    part = Box(33, 71, 5, 6)
    np.testing.assert_array_equal(field.truth.read(part).instances, expected[part.slices])


def test_a_slide_is_trained_on_as_a_run_would_read_it(slide: Path) -> None:
    tifffile.imwrite(slide / "l.tif", squares((100, 130)))
    geojson(slide / "s.geojson", polygon("object", 40, 64, 16, 96))
    level = choose_level(open_slide(slide / "s.tif"), 0.8)
    for given in ({"labels": "l.tif"}, {"annotations": "s.geojson"}):
        field = one(at_place(plain(mpp=0.8), slides=(AnnotatedSlide("s.tif", **given),)), slide)
        assert field.shape == level.shape == (63, 82)
        np.testing.assert_array_equal(image_of(field), read_box(level, whole(field)))
        classes = field.truth.read(whole(field)).classes
        assert classes.shape == level.shape
    rows, cols = np.nonzero(classes)
    found = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
    assert found == (25, 40, 10, 60), "40 px of 0.5 are 25 of 0.8"


def test_labels_of_part_of_a_slide_are_refused(slide: Path) -> None:
    tifffile.imwrite(slide / "l.tif", squares((64, 64)))
    with pytest.raises(
        LabelError, match=r"l.tif of 64 wide x 64 high is not a level of s.tif, whose level 0 is 130 wide x 100 high"
    ):
        one(at_place(plain(), slides=(AnnotatedSlide("s.tif", labels="l.tif"),)), slide)


@pytest.mark.parametrize(
    ("some", "other", "same"),
    [
        ((251, 1251), (1001, 5001), True),  # rounded up
        ((250, 1250), (1001, 5001), True),  # rounded down
        ((1001, 5001), (1001, 5001), True),
        ((4004, 20004), (1001, 5001), True),
        ((25, 2000), (1001, 80001), True),
        ((251, 1270), (1001, 5001), False),
        ((1251, 251), (1001, 5001), False),
        ((1, 1), (100, 130), True),
    ],
)
def test_one_image_is_known_by_its_proportions(some: tuple[int, int], other: tuple[int, int], same: bool) -> None:
    assert one_image(some, other) is one_image(other, some) is same


def test_slide_without_resolution_says_where_to_give_it(slide: Path) -> None:
    pyramid(slide / "u.tif", pixels((100, 130, 3)))
    geojson(slide / "s.geojson", polygon("object", 10, 50, 20, 60))
    slides = (AnnotatedSlide("u.tif", annotations="s.geojson"),)
    with pytest.raises(
        ResolutionError, match=r"u.tif has no micrometres per pixel \(.*\); give it an mpp under \[\[data"
    ):
        one(at_place(plain(mpp=1.0), slides=slides), slide)
    assert one(at_place(plain(mpp=1.0), slides=slides, mpp=0.5), slide).shape == (50, 65)
    slides = (AnnotatedSlide("u.tif", annotations="s.geojson", mpp=0.25),)
    assert one(at_place(plain(mpp=1.0), slides=slides, mpp=0.5), slide).shape == (25, 33)


def test_annotated_slide_does_not_care_what_rasters_are(slide: Path) -> None:
    geojson(slide / "s.geojson", polygon("object", 10, 50, 20, 60))
    slides = (AnnotatedSlide("s.tif", annotations="s.geojson", split="train"),)
    field = one(at_place(plain(), slides=slides, labels_are="components"), slide)
    assert field.truth.read(whole(field)).instances.max() == 1
