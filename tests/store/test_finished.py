from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.store.test_store import edit, make, spec_of
from wsipipe.errors import DamagedStoreError, StoreError
from wsipipe.geometry.grid import Box
from wsipipe.store import lifecycle
from wsipipe.store.finished import open_finished
from wsipipe.store.image_label import ImageLabel, parse_image_label, read_attributes


def test_a_finished_store_says_what_it_was_written_with(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (700, 1300), 8, 1040, downsample=4.00017)
    labels = make(spec)
    lifecycle.reopen(spec)
    lifecycle.publish(spec, {"labels": {"0": 900_000, "7": 10_000}, "tissue": {"share": 0.25}})
    found = open_finished(spec.path)
    assert (found.path, found.version, found.model, found.model_sha256) == (spec.path, "0.1.0", "glands", "b" * 64)
    assert (found.slide, found.level, found.shrink, found.reading, found.mpp) == ("a" * 64, 0, 1.0, "", 0.5)
    assert found.downsample == pytest.approx(4.00017, abs=1e-6)
    assert found.classes == (("gland", 7, "#ff8000"), ("fat", 200, "#0080ff"))
    assert (found.counts, found.complete, found.tissue_share) == ({0: 900_000, 7: 10_000}, True, 0.25)
    assert found.levels == len(found.shapes)
    assert tuple(found.shapes) == tuple(spec.grid.level_shapes)
    assert np.array_equal(found.labels(0)[:], labels)


def test_labels_of_a_box_are_those_of_zarr_however_the_array_is_stored(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (700, 1300), 8, 1040)
    make(spec)
    box = Box(500, 700, 900, 1300)
    found, right = open_finished(spec.path), zarr.open_array(f"{spec.path}/0")[:]
    np.testing.assert_array_equal(found.read_labels(box), right[box.slices])
    assert found.read_labels(box).any()
    shutil.rmtree(f"{spec.path}/0")
    zarr.create_array(f"{spec.path}/0", data=right, chunks=(64, 64))  # stored by another program
    np.testing.assert_array_equal(open_finished(spec.path).read_labels(box), right[box.slices])


def test_a_store_without_size_of_pixels_or_statistics_opens(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20), mpp=None)
    make(spec)
    found = open_finished(Path(spec.path))
    assert (found.mpp, found.counts, found.tissue_share) == (None, {}, None)


def test_a_copy_of_an_unfinished_store_is_not_complete(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    lifecycle.begin_store(spec)
    assert not open_finished(spec.partial.rename(tmp_path / "copy.zarr")).complete


def test_a_store_of_a_newer_wsipipe_opens(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    make(spec)
    edit(Path(spec.path), lambda a: (a.update(store_version=99), a["fingerprint"].update(colour=1)))
    assert open_finished(spec.path).model == "glands"


def test_a_foreign_file_or_folder_is_not_a_finished_store(tmp_path: Path) -> None:
    (tmp_path / "file.zarr").write_bytes(b"mine")
    (tmp_path / "folder.zarr").mkdir()
    zarr.create_group(tmp_path / "foreign.zarr", attributes={"ome": {"image-label": {}}})
    for name in ("gone", "file", "folder", "foreign"):
        with pytest.raises(StoreError, match=rf"{name}\.zarr is not a store that wsipipe made"):
            open_finished(tmp_path / f"{name}.zarr")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.clear(),
        lambda a: a.update(fingerprint=None),
        lambda a: a["fingerprint"].pop("slide"),
        lambda a: a["fingerprint"].update(level="first"),
        lambda a: a.update(run=[1]),
        lambda a: a.update(run={"labels": {"gland": 1}}),
        lambda a: a.update(run={"tissue": 0.5}),
    ],
)
def test_attributes_that_make_no_sense_are_damage(tmp_path: Path, change: Any) -> None:
    spec = spec_of(tmp_path, (5, 5))
    make(spec)
    edit(Path(spec.path), change)
    with pytest.raises(DamagedStoreError, match=r"case-17\.zarr cannot be read"):
        open_finished(spec.path)


def test_a_level_that_is_not_a_plane_is_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (5, 5))
    make(spec)
    zarr.create_array(f"{spec.path}/0", shape=(2, 5, 5), dtype="uint8", overwrite=True)
    with pytest.raises(StoreError, match=r"array 0 has shape \(2, 5, 5\)"):
        open_finished(spec.path).labels(0)


def test_attributes_of_both_versions_of_zarr_are_read(tmp_path: Path) -> None:
    ome = {"image-label": {"properties": [{"label-value": 3, "class": "cell"}]}}
    zarr.create_group(tmp_path / "2.zarr", attributes=ome, zarr_format=2)
    zarr.create_group(tmp_path / "3.zarr", attributes={"ome": ome, "mine": 1}, zarr_format=3)
    two, three = (read_attributes(tmp_path / name) for name in ("2.zarr", "3.zarr"))
    assert two == ome
    assert three == ome | {"ome": ome, "mine": 1}
    assert parse_image_label(two) == parse_image_label(three) == ImageLabel(classes=(("cell", 3, "#009e73"),))
    (tmp_path / "3.zarr/zarr.json").write_text(json.dumps([]))
    with pytest.raises(DamagedStoreError, match=r"zarr\.json cannot be read"):
        read_attributes(tmp_path / "3.zarr")
    assert read_attributes(tmp_path) == read_attributes(tmp_path / "gone") == {}


@pytest.mark.parametrize(
    "label",
    [
        None,
        [],
        {"properties": None, "colors": 7},
        {"properties": [None, {}, {"label-value": "1", "class": "x"}, {"label-value": 0, "class": "x"}]},
        {"properties": [{"label-value": 2}], "colors": [{"label-value": 2, "rgba": [1, 2, 3, 4]}]},
    ],
)
def test_an_image_label_that_names_no_class_has_none(label: Any) -> None:
    assert parse_image_label({"image-label": label, "multiscales": [{}]}) == ImageLabel()


@pytest.mark.parametrize("rgba", [None, 7, [], [1, 2], ["javascript:", 300, -1], [256, 0, 0, 255]])
def test_what_is_not_a_colour_gives_one_of_the_palette(rgba: Any) -> None:
    label = {"properties": [{"label-value": 2, "class": "x"}], "colors": [{"label-value": 2, "rgba": rgba}]}
    assert parse_image_label({"image-label": label}).classes == (("x", 2, "#e69f00"),)
