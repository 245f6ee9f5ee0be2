"""The command `wsipipe examples`, and that a wheel has what it writes."""

from __future__ import annotations

import tomllib
from glob import glob
from pathlib import Path

from tests.conftest import Call

ROOT = Path(__file__).parent.parent.parent
SOURCES = {"workflows": ROOT / "workflows", "notebooks": ROOT / "docs" / "notebooks"}


def wanted() -> dict[str, bytes]:
    """The content of each example, by its path."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for name, folder in SOURCES.items()
        for path in folder.rglob("*")
        if path.is_file()
    }


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_examples_are_written_and_nothing_is_overwritten(call: Call, tmp_path: Path) -> None:
    ended = call("examples", tmp_path / "a" / "b")
    assert ended.code == 0
    assert written(tmp_path / "a" / "b") == wanted()
    assert f"{len(wanted())} examples written to {tmp_path / 'a' / 'b'}" in ended.out
    mine = tmp_path / "a" / "b" / "workflows" / "night.toml"
    mine.write_text("mine")
    (tmp_path / "a" / "b" / "workflows" / "crontab").unlink()
    again = call("examples", tmp_path / "a" / "b")
    assert again.code == 0
    assert "1 examples written" in again.out
    assert f"{mine} is there, and stays as it is" in again.err
    assert written(tmp_path / "a" / "b") == wanted() | {"workflows/night.toml": b"mine"}


def test_a_folder_that_cannot_be_written_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = call("examples", tmp_path / "file")
    assert ended.code == 3
    assert str(tmp_path / "file") in ended.err
    assert (tmp_path / "file").read_text() == ""


def test_a_wheel_has_them() -> None:
    given = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    found = {name for pattern in given["wsipipe"] for name in glob(pattern, root_dir=ROOT / "wsipipe", recursive=True)}  # noqa: PTH207 - Path.glob follows no links
    assert {f"examples/{name}" for name in wanted()} <= found
