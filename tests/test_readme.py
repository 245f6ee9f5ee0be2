"""What README.md and environment.yml say is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import wsipipe
from tests.conftest import WriteSlide

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_slide: WriteSlide) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    write_slide(tmp_path / "case-17.svs", (300, 200))
    write_slide(tmp_path / "slides" / "case-18.tif", (150, 130))
    monkeypatch.chdir(tmp_path)
    network = wsipipe.UNet(base_channels=1, depth=2)
    classes = (wsipipe.LabelClass("background", 0, "#000000"), wsipipe.LabelClass("nucleus", 1, "#ffe119"))
    wsipipe.save_model("my.safetensors", network, wsipipe.ModelSpec(classes=classes, mpp=0.5))
    names: dict[str, object] = {}
    exec(example.replace("base_channels=16", "base_channels=1, depth=1"), names)
    assert (tmp_path / "segmentations" / "case-18.zarr" / "zarr.json").exists()
    assert names["labels"].shape == (300, 200)  # type: ignore[attr-defined]


def requirement(text: str) -> tuple[str, str]:
    """Name, without extras, and bounds of a requirement."""
    match = re.fullmatch(r"([\w-]+)(?:\[.*\])?\s*(.*)", text)
    assert match, text
    return match[1], match[2].replace("==", "=")


def test_the_conda_environment_has_the_names_and_bounds_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = dict(map(requirement, project["dependencies"]))
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in wanted.items()}
    wanted["python"] = project["requires-python"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dict(map(requirement, conda)) == {**wanted, "pip": ""}
