"""The meaning of labels: objects, components, or classes by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.training.given import one, pixels, plain, png, squares
from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.training.config import ClassConfig

SHAPE = (40, 48)
IMAGE, LABELS = pixels((*SHAPE, 3)), squares(SHAPE)


def test_instances_are_their_numbers_and_components_are_counted(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 3:9] = labels[2:9, 20:30] = labels[20:30, 3:9] = 255
    labels[20:30, 9:15] = 128
    png(tmp_path / "a_image.png", IMAGE)
    png(tmp_path / "a_label.png", labels)
    truth = one(plain(), tmp_path).truth.read(Box(0, SHAPE[0], 0, SHAPE[1]))
    np.testing.assert_array_equal(truth.instances, labels)
    truth = one(plain(data={"labels_are": "components"}), tmp_path).truth.read(Box(0, SHAPE[0], 0, SHAPE[1]))
    assert len(np.unique(truth.instances)) == 1 + 3
    np.testing.assert_array_equal(truth.instances, ndimage.label(labels)[0])
    np.testing.assert_array_equal(truth.classes, labels > 0)


def test_classes_are_found_by_their_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).choice(np.array([0, 7, 9, 2], np.uint8), SHAPE)
    png(tmp_path / "a_image.png", IMAGE)
    png(tmp_path / "a_label.png", values)
    classes = (ClassConfig("seven", value=7), ClassConfig("second"), ClassConfig("nine", value=9))
    truth = one(plain(data={"labels_are": "classes"}, classes=classes), tmp_path).truth.read(Box(0, 40, 0, 48))
    np.testing.assert_array_equal(truth.classes, np.select([values == 7, values == 2, values == 9], [1, 2, 3]))
    assert not truth.instances.any()
    with pytest.raises(LabelError, match=r"^a_label.png has pixels of value 9; the classes have 0, 2, 7; add each to"):
        one(plain(data={"labels_are": "classes"}, classes=classes[:2]), tmp_path)


def test_scattered_numbers_are_not_taken_for_objects(tmp_path: Path) -> None:
    png(tmp_path / "a_image.png", IMAGE)
    png(tmp_path / "a_label.png", (LABELS > 0).astype(np.uint8) * 255)
    with pytest.raises(LabelError, match=r"a_label.png: its values 255 lie in 30 separate pieces each.*components"):
        one(plain(), tmp_path)
