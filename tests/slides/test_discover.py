from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.slides.made import ome_zarr, picture
from wsipipe.errors import UsageError
from wsipipe.slides.discover import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.svs", "a.TIF", "notes.txt", ".hidden.tif", "c[1].tif"):
        (tmp_path / name).touch()
    ome_zarr(tmp_path / "d.zarr", [picture((64, 64))], "yx")
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.zarr").mkdir()
    return tmp_path


def test_folder_gives_its_slides_sorted(folder: Path) -> None:
    assert expand([str(folder)]) == [folder / name for name in ("a.TIF", "b.svs", "c[1].tif", "d.zarr")]


def test_pattern_the_shell_left_is_expanded_sorted(folder: Path) -> None:
    assert expand([f"{folder}/*.[st]*"]) == [folder / "b.svs", folder / "c[1].tif", folder / "notes.txt"]
    assert expand([f"{folder}/**/d.zarr"]) == [folder / "d.zarr"]


def test_brackets_in_a_name_are_no_pattern(folder: Path) -> None:
    assert expand([str(folder / "c[1].tif")]) == [folder / "c[1].tif"]


def test_slide_given_twice_is_given_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "link.svs").symlink_to(folder / "b.svs")
    monkeypatch.chdir(folder)
    given = ["b.svs", "./b.svs", str(folder / "b.svs"), "empty/../b.svs", "link.svs", "d.zarr", "d.zarr/"]
    assert expand(given) == [folder / "b.svs", folder / "d.zarr"]


def test_ome_zarr_folder_is_a_slide_not_a_folder_of_slides(folder: Path) -> None:
    assert expand([str(folder / "d.zarr")]) == [folder / "d.zarr"]


def test_missing_file_is_kept_to_be_reported_as_failed(folder: Path) -> None:
    assert expand([str(folder / "nowhere.svs")]) == [folder / "nowhere.svs"]


@pytest.mark.parametrize(
    ("given", "problem"), [("*.ndpi", r"nothing matches .*\*\.ndpi"), ("empty", "empty holds no slide")]
)
def test_nothing_found_is_an_error_that_names_it(folder: Path, given: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        expand([str(folder / given)])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list any folder")
def test_folder_that_cannot_be_listed_is_an_error(folder: Path) -> None:
    (folder / "empty").chmod(0)
    with pytest.raises(UsageError, match="cannot be listed"):
        expand([str(folder / "empty")])
