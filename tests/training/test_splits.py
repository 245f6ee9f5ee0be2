"""The splits of a training set: by share, by pattern, by table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.training.given import at_place, pairs, plain, splits, table
from wsipipe.errors import UsageError
from wsipipe.training.fields import read_fields


def test_share_is_of_the_last_names_and_test_is_after_validation(tmp_path: Path) -> None:
    names = [f"{i:02}" for i in range(10)]
    pairs(tmp_path, *names)
    found = read_fields(plain(data={"validation": 0.2, "test": 0.3}), [tmp_path])
    assert "".join(field.split[1] for field in found) == "rrrrr" + "aa" + "eee"
    assert [field.name for field in found] == names
    assert Counter(splits(read_fields(plain(data={"validation": 0.01}), [tmp_path])).values())["validation"] == 1
    assert set(splits(read_fields(plain(), [tmp_path])).values()) == {"train"}


def test_single_image_is_trained_on(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    assert splits(read_fields(plain(data={"validation": 0.5, "test": 0.4}), [tmp_path])) == {"a": "train"}


def test_patterns_take_names_with_or_without_suffix(tmp_path: Path) -> None:
    pairs(tmp_path, "a1", "a2", "b[1]", "c")
    data = {"validation": ("a*",), "test": ("b[1]", "c")}
    expected = {"a1": "validation", "a2": "validation", "b[1]": "test", "c": "test"}
    with pytest.raises(UsageError, match="none of the 4 images is left to train on"):
        read_fields(plain(data=data), [tmp_path])
    pairs(tmp_path, "d")
    assert splits(read_fields(plain(data=data), [tmp_path])) == expected | {"d": "train"}
    table(tmp_path / "t.csv", "image,label", "a1_image.png,a1_label.png", "c_image.png,c_label.png")
    config = at_place(plain(), table="t.csv", validation=("c_image",))
    assert splits(read_fields(config, [tmp_path])) == {"a1_image.png": "train", "c_image.png": "validation"}
    with pytest.raises(
        UsageError, match=r"\[data\] test: no image matches 'x\*'; there are a1, a2, b\[1\], c and 1 more"
    ):
        read_fields(plain(data={"test": ("x*",)}), [tmp_path])


def test_splits_of_a_table_leave_no_room_for_shares(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b", "c")
    rows = [f"{name}_image.png,{name}_label.png,{split}" for name, split in (("a", "validation"), ("b", ""), ("c", ""))]
    table(tmp_path / "t.csv", "image,label,split", *rows)
    found = read_fields(at_place(plain(), table="t.csv", validation=0.5, test=0.3), [tmp_path])
    assert list(splits(found).values()) == ["validation", "train", "train"]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    table(tmp_path / "t.csv", "image,label", "a_image.png,a_label.png", "a_image.png,a_label.png")
    with pytest.raises(UsageError, match=r"2 images are called a_image.png; names must differ"):
        read_fields(at_place(plain(), table="t.csv"), [tmp_path])
