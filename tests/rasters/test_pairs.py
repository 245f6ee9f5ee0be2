"""Which image goes with which labels, and the message if that is not clear."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsipipe.errors import UsageError
from wsipipe.rasters.pairs import by_stem, matched, pairs_in, rasters_in, stem


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "common"),
    [
        ("a_image.png", "a"),
        ("a_label.tif", "a"),
        ("A_Mask.PNG", "A"),
        ("a_IMG.png", "a"),
        ("a_masks.ome.tiff", "a"),
        ("a_label.ome.zarr", "a"),
        ("a.geojson", "a"),
        ("a_label.xml", "a"),
        ("case 1.2_image.png", "case 1.2"),
        ("a_image_label.png", "a_image"),
        ("image.png", "image"),
        ("unlabel.png", "unlabel"),
        ("a.jpg", "a"),
    ],
)
def test_stem_is_the_name_that_image_and_labels_share(name: str, common: str) -> None:
    assert stem(Path("folder.png") / name) == common


def test_folder_of_marked_names_is_paired(tmp_path: Path) -> None:
    touch(
        tmp_path, "b_image.png", "b_label.tif", "a_IMG.tif", "a_Mask.png", "notes.txt", "overview.png", "._b_image.png"
    )
    assert pairs_in(tmp_path) == {
        "a": (tmp_path / "a_IMG.tif", tmp_path / "a_Mask.png"),
        "b": (tmp_path / "b_image.png", tmp_path / "b_label.tif"),
    }
    assert list(pairs_in(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(("images", "labels"), [("image", "label"), ("images", "masks")])
def test_folders_of_images_and_labels_are_paired(tmp_path: Path, images: str, labels: str) -> None:
    touch(
        tmp_path, f"{images}/2.png", f"{images}/1.ome.tif", f"{labels}/1.png", f"{labels}/2_label.png", f"{labels}/x.md"
    )
    assert pairs_in(tmp_path) == {
        "1": (tmp_path / images / "1.ome.tif", tmp_path / labels / "1.png"),
        "2": (tmp_path / images / "2.png", tmp_path / labels / "2_label.png"),
    }


def test_folders_within_go_before_marked_names(tmp_path: Path) -> None:
    touch(tmp_path, "image/1.png", "label/1.png", "b_image.png")
    assert list(pairs_in(tmp_path)) == ["1"]


def test_zarr_folders_are_files_of_pixels(tmp_path: Path) -> None:
    touch(tmp_path, "a_image.zarr/zarr.json", "a_label.zarr/zarr.json", "b_image.zarr.partial/zarr.json")
    assert list(pairs_in(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "folder {} holds no training images; wsipipe looks for NAME_image.* with NAME_label.*, or image/NAME.* "),
        (["a.png"], "folder {} holds no training images; "),
        (["train/image/a.png", "train/label/a.png"], "folder {} holds no training images; "),
        (["a_image.png"], "{}/a_image.png has no partner of the same name (1 of 1 have none, under {}); add it"),
        (["a_label.png"], "{}/a_label.png has no partner of the same name (1 of 1 have none, under {}); add it"),
        (["image/a.png"], "{}/image/a.png has no partner of the same name (1 of 1 have none, under {}); add it"),
        (
            ["image/b.png", "image/c.png", "label/a.png", "label/c.png"],
            "{}/label/a.png has no partner of the same name (2 of 3 have none, under {}); add it, or move",
        ),
        (["a_image.png", "a_image.tif", "a_label.png"], "{}/a_image.png and a_image.tif share the name 'a'; move one"),
        (["a_image.png", "a_label.png", "a_mask.png"], "{}/a_label.png and a_mask.png share the name 'a'; move one"),
        (["image/a.png", "label/a.png", "mask/a.png"], "{}/label/a.png and a.png share the name 'a'; move one"),
    ],
)
def test_files_without_a_partner_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UsageError, match=f"^{re.escape(message.replace('{}', str(tmp_path)))}"):
        pairs_in(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["a_image.webp", "a_label.webp"],
        ["a_image.BMP", "a_label.png"],
        ["image/a.gif", "label/a.png"],
        ["images/a.bmp", "masks/a.bmp"],
    ],
)
def test_images_in_an_unsupported_format_are_named(tmp_path: Path, files: list[str]) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UsageError, match=f"; {Path(files[0]).name} is in an unsupported format; convert it to PNG"):
        pairs_in(tmp_path)


@pytest.mark.parametrize(("name", "reason"), [("missing", "No such file or directory"), ("file", "Not a directory")])
def test_folder_that_cannot_be_listed_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    touch(tmp_path, "file")
    with pytest.raises(UsageError, match=f"folder {tmp_path / name} cannot be listed: {reason}"):
        pairs_in(tmp_path / name)


def test_evaluation_pairs_by_the_same_rules(tmp_path: Path) -> None:
    touch(tmp_path, "p/a.zarr/zarr.json", "l/a_label.png")
    first, second = by_stem(rasters_in(tmp_path / "p")), by_stem(rasters_in(tmp_path / "l"))
    assert matched(first, second, tmp_path / "l") == {"a": (tmp_path / "p/a.zarr", tmp_path / "l/a_label.png")}
