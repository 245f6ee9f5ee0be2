"""Imports go down only (see CONTRIBUTING.md), and the heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import wsipipe

ROOT = Path(wsipipe.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

# From the ground up. A layer may import those below it, and itself where it is one folder.
LAYERS = [
    {"redaction"},
    {"arrays", "errors", "events", "homeless", "palette", "version"},
    {"extras"},
    {"tables", "urls"},
    {"files", "documented"},
    {"geometry"},
    {"slides", "store", "leases", "model"},
    {"rasters"},
    {"objects", "tissue"},
    {"evaluation"},
    {"pictures", "inference"},
    {"importing"},
    {"quantization"},
    {"report", "training", "napari_plugin"},
    {"viewer", "results"},
    {"pipeline", "demo"},
    {"nightly"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}

# The same within slides/, file by file or folder by folder.
LAYERS_OF_SLIDES = [
    {"planes", "resolution", "identity", "byte_source", "opened", "address"},
    {"pixels"},
    {"slide"},
    {"readers"},
    {"open", "discover", "table", "compare"},
]
HEIGHT_IN_SLIDES = {name: height for height, names in enumerate(LAYERS_OF_SLIDES) for name in names}

# library: the folders, or files at the top, that may import it
HOMES = {
    "torch": {"model", "inference", "importing", "quantization", "training"},
    "safetensors": {"model", "training"},
    "dask": {"pipeline", "napari_plugin", "results"},
    "distributed": {"pipeline"},
    "zarr": {"files", "slides", "rasters", "store", "napari_plugin", "results", "demo"},
    "xarray": {"results"},
    "obstore": {"urls"},
    "tifffile": {"slides", "rasters", "demo"},
    "imagecodecs": {"viewer", "slides", "rasters", "pictures", "training", "demo"},
    "click": {"cli"},
    "openvino": {"inference"},
    "onnx": {"model", "quantization"},
    "nncf": {"quantization"},
    "onnxruntime": {"inference", "model"},
    "rich": {"cli", "report"},
    "scipy": {"objects", "tissue", "evaluation", "training"},
    "shapely": {"rasters", "objects", "viewer", "napari_plugin"},
    "pyarrow": {"objects"},
    "spatialdata": {"objects"},
    "anndata": {"objects"},
    "geopandas": {"objects"},
    "pandas": {"objects"},
    "matplotlib": {"training", "pictures"},
    "PIL": {"pictures"},
    "bokeh": {"viewer", "homeless"},
    "tornado": {"viewer"},
    "napari": {"napari_plugin"},
}
EXTRAS = ["cloud", "train", "openvino", "onnx", "quantize", "slurm", "kubernetes", "spatialdata", "xarray", "napari"]
EVERYWHERE = {"dask.system"}  # how many cores are ours


def part_of(module: str) -> str:
    """The folder of a module of wsipipe, or its own name if it is at the top."""
    return module.split("/")[0].removesuffix(".py")


def imports(module: str) -> list[tuple[str, str | None]]:
    """(dotted module, name or None) of every import of ``module`` that is executed at any time."""
    return imports_in((ROOT / module).read_text())


@cache
def imports_in(source: str) -> list[tuple[str, str | None]]:
    """As `imports`."""
    tree = ast.parse(source)
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            found += ((node.module, alias.name) for alias in node.names)
    return found


def ours(module: str) -> Iterator[tuple[str, str | None]]:
    """The modules of wsipipe that ``module`` imports, without the leading ``wsipipe.``, and the name taken."""
    for dotted, name in imports(module):
        if dotted.split(".")[0] == "wsipipe":
            yield dotted.removeprefix("wsipipe").removeprefix("."), name


INSIDE = [module for module in MODULES if module != "__init__.py"]


def files_imported(module: str) -> set[str]:
    """The files of wsipipe that ``module`` imports at any time, within functions too."""
    found = set()
    for target, name in ours(module):
        whole, of_name = target.replace(".", "/") + ".py", f"{target}.{name}".strip(".").replace(".", "/") + ".py"
        found.add(of_name if of_name in MODULES else whole)
    return found & set(MODULES)


def test_the_package_was_found() -> None:
    assert {"geometry/grid.py", "cli/run.py", "model/unet.py"} <= set(MODULES)
    assert sum(1 for module in INSIDE for _ in ours(module)) > 50


def test_every_module_has_a_layer_and_imports_only_down() -> None:
    assert {part_of(module) for module in INSIDE} <= HEIGHT.keys()
    up = [
        f"{module} imports wsipipe.{target}"
        for module in INSIDE
        for target, _ in ours(module)
        if (there := target.split(".")[0]) != part_of(module) and HEIGHT[there] >= HEIGHT[part_of(module)]
    ]
    assert up == []


def test_within_slides_imports_go_down_as_well() -> None:
    modules = [module for module in INSIDE if part_of(module) == "slides" and not module.endswith("__init__.py")]
    up = [
        f"{module} imports {target}"
        for module in modules
        for target in files_imported(module)
        if part_of(target) == "slides"
        and (here := part_of(module.removeprefix("slides/"))) != (there := part_of(target.removeprefix("slides/")))
        and HEIGHT_IN_SLIDES[there] > HEIGHT_IN_SLIDES[here]
    ]
    assert up == []


def test_no_files_import_each_other_in_a_circle() -> None:
    imported = {module: files_imported(module) for module in MODULES}
    while leaves := [module for module, others in imported.items() if not others & imported.keys()]:
        for module in leaves:
            del imported[module]
    assert imported == {}, "each of these imports another of them"


def test_circles_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from wsipipe.b import g\n")
    (tmp_path / "b.py").write_text("from wsipipe import c\n")
    (tmp_path / "c.py").write_text("import wsipipe.a\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    monkeypatch.setattr(f"{__name__}.MODULES", ["a.py", "b.py", "c.py"])
    with pytest.raises(AssertionError, match="each of these imports another"):
        test_no_files_import_each_other_in_a_circle()


def test_nothing_inside_imports_the_package_itself() -> None:
    taken = [(module, name) for module in INSIDE for target, name in ours(module) if not target]
    assert [one for one in taken if not (ROOT / str(one[1])).is_dir()] == []


def test_no_module_takes_the_private_names_of_another() -> None:
    private = [
        f"{module} takes {target}.{name}"
        for module in INSIDE
        for target, name in ours(module)
        if any(part.startswith("_") for part in (*target.split("."), name or ""))
    ]
    assert private == []


def test_heavy_libraries_stay_where_they_belong() -> None:
    astray = [
        f"{module} imports {dotted}"
        for module in MODULES
        for dotted, name in imports(module)
        if (library := dotted.split(".")[0]) in HOMES
        and not {dotted, f"{dotted}.{name}"} & EVERYWHERE
        and part_of(module) not in HOMES[library]
    ]
    assert astray == []


def test_geometry_is_integers() -> None:
    allowed = {"numpy", *sys.stdlib_module_names}
    others = [
        f"{module} imports {dotted}"
        for module in MODULES
        if part_of(module) == "geometry"
        for dotted, _ in imports(module)
        if dotted.split(".")[0] not in allowed
        and not dotted.startswith(("wsipipe.geometry", "wsipipe.errors", "wsipipe.arrays"))
    ]
    assert others == []


def test_every_library_that_is_imported_is_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(one for name in EXTRAS for one in extras[name])]
    declared = {requirement.split("[")[0].split(">")[0].split("=")[0] for requirement in requirements}
    imported = {dotted.split(".")[0] for module in MODULES for dotted, _ in imports(module)}
    foreign = {name.replace("_", "-") for name in imported - sys.stdlib_module_names - {"wsipipe"}}
    foreign = {"pillow" if name == "PIL" else name for name in foreign}
    assert foreign <= declared
