"""The manifest that napari finds, and the reader that it names."""

from __future__ import annotations

import importlib
import shutil
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr

from tests.napari_plugin.made import made_result
from wsipipe.napari_plugin.reader import get_reader

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def manifest() -> Path:
    """The file that the entry point names, which the package holds."""
    module, _, file = PROJECT["project"]["entry-points"]["napari.manifest"]["wsipipe"].partition(":")
    path = ROOT / module.replace(".", "/") / file
    packed = PROJECT["tool"]["setuptools"]["package-data"]["wsipipe"]
    assert path.relative_to(ROOT / "wsipipe").as_posix() in packed
    return path


def test_the_manifest_names_the_reader() -> None:
    text = yaml.safe_load(manifest().read_text())
    assert text["name"] == PROJECT["project"]["name"]  # or napari does not find it
    assert text["display_name"][0].isupper()  # or napari's own reader is preselected
    (command,) = text["contributions"]["commands"]
    (reader,) = text["contributions"]["readers"]
    assert reader["command"] == command["id"]
    assert reader["accepts_directories"]
    module, _, name = command["python_name"].partition(":")
    assert getattr(importlib.import_module(module), name) is get_reader


def test_npe2_accepts_the_manifest() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic warns of npe2
        npe2 = pytest.importorskip("npe2", reason="no npe2; pip install '.[test]'")
        npe2.PluginManifest.from_file(manifest()).validate_imports()


def test_stores_are_read_and_others_left_to_others(tmp_path: Path) -> None:
    made = made_result(tmp_path)
    read = get_reader(str(made.store))
    assert read is not None
    assert [kind for _, _, kind in read(str(made.store))] == ["image", "labels", "image", "image", "labels", "shapes"]
    read = get_reader([str(made.store)] * 2)
    assert read is not None
    assert len(read([str(made.store)] * 2)) == 12
    zarr.save_array(str(tmp_path / "array.zarr"), np.zeros((2, 2)))
    shutil.copytree(made.store, tmp_path / "damaged.zarr")
    (tmp_path / "damaged.zarr" / "zarr.json").write_text("{")
    for other in ("array.zarr", "damaged.zarr", "case-17.tif", "gone.zarr", "", "case-17.zarr/probabilities"):
        assert get_reader(str(tmp_path / other)) is None
    assert get_reader([str(made.store), str(tmp_path / "array.zarr")]) is None
