"""Imports go down only (docs: the layers), and the heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsipipe

ROOT = Path(wsipipe.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

# From the ground up. A layer may import those below it, and itself where it is one folder.
LAYERS = [
    {"errors", "events", "version"},
    {"tables", "urls"},
    {"files"},
    {"geometry"},
    {"slides", "labels"},
    {"model", "tissue", "evaluation"},
    {"inference", "report", "export"},
    {"training"},
    {"pipeline", "demo"},
    {"nightly"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}

# library: the folders, or files at the top, that may import it
HOMES = {
    "torch": {"model", "inference", "training"},
    "safetensors": {"model", "training"},
    "dask": {"pipeline"},
    "distributed": {"pipeline"},
    "zarr": {"files", "slides", "labels", "report", "demo"},
    "obstore": {"urls"},
    "tifffile": {"slides", "labels", "demo"},
    "imagecodecs": {"slides", "report", "demo"},
    "click": {"cli"},
    "openvino": {"inference"},
    "rich": {"cli"},
    "scipy": {"tissue", "evaluation", "training"},
    "shapely": {"slides"},
    "matplotlib": {"training"},
}
EVERYWHERE = {"dask.system"}  # how many cores are ours


def part_of(module: str) -> str:
    """The folder of a module of wsipipe, or its own name if it is at the top."""
    return module.split("/")[0].removesuffix(".py")


def imports(module: str) -> Iterator[tuple[str, str | None]]:
    """(dotted module, name or None) of every import of ``module`` that is executed at any time."""
    tree = ast.parse((ROOT / module).read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            yield from ((node.module, alias.name) for alias in node.names)


def ours(module: str) -> Iterator[tuple[str, str | None]]:
    """The modules of wsipipe that ``module`` imports, without the leading ``wsipipe.``, and the name taken."""
    for dotted, name in imports(module):
        if dotted.split(".")[0] == "wsipipe":
            yield dotted.removeprefix("wsipipe").removeprefix("."), name


INSIDE = [module for module in MODULES if module != "__init__.py"]


def test_the_package_was_found() -> None:
    assert {"geometry/grid.py", "cli/run.py", "model/unet.py"} <= set(MODULES)
    assert sum(1 for module in INSIDE for _ in ours(module)) > 50


@pytest.mark.parametrize("module", INSIDE)
def test_every_module_has_a_layer_and_imports_only_down(module: str) -> None:
    here = part_of(module)
    assert here in HEIGHT
    for target, _ in ours(module):
        there = target.split(".")[0]
        assert there == here or HEIGHT[there] < HEIGHT[here], f"{module} imports wsipipe.{target}"


@pytest.mark.parametrize("module", INSIDE)
def test_nothing_inside_imports_the_package_itself(module: str) -> None:
    for target, name in ours(module):
        assert target != "" or (ROOT / str(name)).is_dir(), f"{module} imports {name} from wsipipe/__init__"


@pytest.mark.parametrize("module", INSIDE)
def test_no_module_takes_the_private_names_of_another(module: str) -> None:
    for target, name in ours(module):
        assert not any(part.startswith("_") for part in (*target.split("."), name or "")), f"{target}.{name}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_where_they_belong(module: str) -> None:
    for dotted, name in imports(module):
        library = dotted.split(".")[0]
        if library in HOMES and not {dotted, f"{dotted}.{name}"} & EVERYWHERE:
            assert part_of(module) in HOMES[library], f"{module} imports {dotted}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("geometry/")])
def test_geometry_is_integers(module: str) -> None:
    for dotted, _ in imports(module):
        library = dotted.split(".")[0]
        allowed = library in {"numpy", *sys.stdlib_module_names} or dotted.startswith(
            ("wsipipe.geometry", "wsipipe.errors")
        )
        assert allowed, f"{module} imports {dotted}"


def test_every_library_that_is_imported_is_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["openvino"], *extras["slurm"], *extras["kubernetes"]]
    declared = {requirement.split("[")[0].split(">")[0].split("=")[0] for requirement in requirements}
    imported = {dotted.split(".")[0] for module in MODULES for dotted, _ in imports(module)}
    foreign = {name.replace("_", "-") for name in imported - sys.stdlib_module_names - {"wsipipe"}}
    assert foreign <= declared
