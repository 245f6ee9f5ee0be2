"""environment.yml says of conda what pyproject.toml says of pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


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
