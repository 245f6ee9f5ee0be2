"""What an installation consists of: pyproject.toml, and what says the same elsewhere."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_workflows import tool
from wsipipe.extras import DISTRIBUTION
from wsipipe.version import VERSION

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "openslide-bin": "openslide"}


def project() -> dict[str, Any]:
    """The table ``[project]`` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def of_extra(name: str) -> list[str]:
    """The requirements of an extra, and of the extras that it is made of."""
    found = []
    for text in project()["optional-dependencies"][name]:
        within = re.fullmatch(rf"{project()['name']}\[(.*)\]", text)
        found += [one for extra in within[1].split(",") for one in of_extra(extra)] if within else [text]
    return found


def requirement(text: str) -> tuple[str, str]:
    """Name, without extras, and bounds of a requirement."""
    match = re.fullmatch(r"([\w-]+)(?:\[.*\])?\s*(.*)", text)
    assert match, text
    return match[1], match[2].replace("==", "=")


def test_the_conda_environment_has_the_names_and_bounds_of_the_package_and_its_extras() -> None:
    wanted = dict(map(requirement, [*project()["dependencies"], *of_extra("all")]))
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in wanted.items()}
    wanted["python"] = project()["requires-python"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dict(map(requirement, conda)) == {**wanted, "pip": ""}


def test_all_is_every_extra_of_users_but_the_largest_two() -> None:
    for_developers = {"docs", "fuzz", "interop", "networks", "test"}
    extras = project()["optional-dependencies"]
    for_users = [extras[name] for name in extras.keys() - for_developers - {"all", "napari", "spatialdata"}]
    assert {one for requirements in for_users for one in requirements if "[" not in one} == set(of_extra("all"))


def test_messages_name_the_package_as_pip_does() -> None:
    assert project()["name"] == DISTRIBUTION
    extras = project()["optional-dependencies"].keys()
    said = re.compile(r"""(?:install\(|require\("\w+", )["'](\w+)["']""")
    named = {name for path in (ROOT / "wsipipe").rglob("*.py") for name in said.findall(path.read_text())}
    assert {"cloud", "train", "openslide"} <= named <= extras


def resolved(python: str, *options: str, beside: str = "") -> dict[str, str]:
    """The versions that uv would install for a version of Python, by name."""
    command = [tool("uv", "pip install uv"), "pip", "compile", "-q", "--no-annotate", "--no-header", "-"]
    command += ["--python-version", python, *options]
    done = subprocess.run(command, input=beside, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return dict(line.split("==") for line in done.stdout.split() if "==" in line)


@pytest.mark.soak
@pytest.mark.parametrize("python", ["3.11", "3.14"])
@pytest.mark.parametrize(
    "other", ["napari", "monai", "tiatoolbox", "cellpose", "segmentation-models-pytorch", "spatialdata"]
)
def test_the_newest_of_each_neighbour_fits_in(other: str, python: str) -> None:
    ours = ["pyproject.toml", *(["--extra", other] if other == "spatialdata" else [])]
    assert resolved(python, *ours, beside=other)[other] == resolved(python, beside=other)[other]


@pytest.mark.soak
@pytest.mark.parametrize("bound", ["highest", "lowest-direct"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_dependency_has_wheels_for_every_python(python: str, bound: str) -> None:
    wheels = ["--only-binary", ":all:", "--resolution", bound]
    assert "torch" in resolved(python, "pyproject.toml", "--extra", "all", "--extra", "test", *wheels)


def test_what_else_names_versions_names_the_same() -> None:
    (ruff,) = [text for text in project()["optional-dependencies"]["test"] if text.startswith("ruff==")]
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert hooks["rev"] == f"v{ruff.removeprefix('ruff==')}"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (VERSION, project()["license"])
