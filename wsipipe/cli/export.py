"""``wsipipe export``: what was found, as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsipipe.cli.command import PATH, Command
from wsipipe.cli.exit_codes import EXIT_FAILED

if TYPE_CHECKING:
    from wsipipe.files import Location
    from wsipipe.objects.export import Selection

SUFFIXES = {
    "geojson": ".geojson.gz",
    "csv": ".csv",
    "parquet": ".parquet",
    "ome-tiff": ".ome.tif",
    "spatialdata": ".spatialdata",
}
"""What the names of files end in, by kind."""


@click.command(
    cls=Command,
    examples=(
        ("wsipipe export out/ --to geojson", "for QuPath, one file for each store"),
        ("wsipipe export out/a.zarr --to csv -o a.csv", "a table"),
        ("wsipipe export a.zarr --to geojson --class nucleus", "one class only"),
    ),
)
@click.argument("out", nargs=-1, required=True, type=PATH, metavar="OUT|STORE...")
@click.option("--to", "kind", type=click.Choice(list(SUFFIXES)), required=True, help="The kind of file.")
@click.option(
    "-o",
    "--out",
    "target",
    type=PATH,
    metavar="FILE|DIR",
    help="File, or for several stores the folder.  [default: <store's name>.geojson.gz, .csv, ...]",
)
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class; may be repeated.")
@click.option(
    "--region", type=PATH, metavar="GEOJSON", help="Only objects whose centroid lies in a polygon of this file."
)
@click.option(
    "--simplify",
    type=click.FloatRange(min=0),
    metavar="PX",
    help="How far outlines in GeoJSON and SpatialData may be from the original, in pixels of the slide's level 0.",
)
@click.option(
    "--annotation",
    "annotations",
    multiple=True,
    metavar="NAME",
    help="In GeoJSON, objects of this class are annotations, others detections; may be repeated.",
)
def export(
    out: tuple[str, ...],
    kind: str,
    target: str | None,
    classes: tuple[str, ...],
    region: str | None,
    simplify: float | None,
    annotations: tuple[str, ...],
) -> None:
    """Write the objects in each OUT, a folder of results or one store, for other programs.

    geojson is for QuPath, parquet is GeoParquet, and spatialdata has outlines and measures. `wsipipe objects` makes the
    objects first. ome-tiff has the labels themselves, with all levels.
    Exit code: 0 all done, 1 some stores failed, 2 usage, 3 the environment (no space).
    """
    from wsipipe.errors import SlideError, UsageError
    from wsipipe.objects.export import Selection
    from wsipipe.objects.region import read_region
    from wsipipe.store.check import stores_named

    if kind not in ("geojson", "spatialdata") and simplify is not None:
        raise UsageError(f"--simplify changes outlines in geojson and spatialdata, not {kind}; remove it")
    if kind != "geojson" and annotations:
        raise UsageError(f"--annotation changes types in geojson, not {kind}; remove it")
    if kind == "ome-tiff" and (classes or region is not None):
        raise UsageError("--to ome-tiff writes whole label images; remove --class and --region")
    selection = Selection(classes, None if region is None else read_region(Path(region)))
    stores = stores_named(out)
    paths = _targets([store.name for store in stores], kind, target)
    failed = 0
    for store, path in zip(stores, paths, strict=True):
        try:
            if path.resolve().is_relative_to(str(store)):
                raise UsageError(f"-o {path} lies in the store itself; give another file")
            written = _written(store, path, kind, selection, simplify, annotations)
            click.echo(f"{store}: {written} -> {path}")
        except SlideError as err:
            failed += 1
            click.echo(f"{store}: FAILED: {err}")
    click.get_current_context().exit(EXIT_FAILED if failed else 0)


def _written(
    store: Location,
    path: Path,
    kind: str,
    selection: Selection,
    simplify_px: float | None,
    annotations: tuple[str, ...],
) -> str:
    """Write one store's file, and say what it holds."""
    from wsipipe.objects.export import export_csv, export_geojson, export_parquet
    from wsipipe.objects.read import open_objects
    from wsipipe.objects.spatial import export_spatialdata
    from wsipipe.rasters.ome_tiff import export_ome_tiff
    from wsipipe.store.finished import open_finished

    if kind == "ome-tiff":
        return f"{export_ome_tiff(store, path)} levels of labels"
    table = open_objects(store)
    if kind == "geojson":
        count = export_geojson(table, path, selection, simplify_px=simplify_px, annotations=annotations)
    elif kind == "spatialdata":
        origin = {"wsipipe": {"store": str(store), "slide": open_finished(store).slide_path}}
        count = export_spatialdata(table, path, selection, simplify_px=simplify_px, attributes=origin)
    else:
        count = (export_csv if kind == "csv" else export_parquet)(table, path, selection)
    return f"{count:,} objects"


def _targets(stores: list[str], kind: str, target: str | None) -> list[Path]:
    """The file for each store, by the names of the stores.

    Raises
    ------
    UsageError
        If two stores would share one.
    OutputError
        If the folder for several cannot be made.
    """
    from wsipipe.errors import UsageError
    from wsipipe.files import make_folder
    from wsipipe.store.spec import ROOT, STORE

    folder = Path() if target is None else Path(target)
    if target is not None and len(stores) == 1 and (not folder.is_dir() or (folder / ROOT).is_file()):
        return [folder]
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {target} is one file for {len(stores)} stores; give a folder")
    make_folder(folder)
    paths = [folder / (name.removesuffix(STORE) + SUFFIXES[kind]) for name in stores]
    if len(set(paths)) < len(paths):
        raise UsageError("two stores have the same name, and would share a file; export them one at a time")
    return paths
