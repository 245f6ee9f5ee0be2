"""``wsipipe evaluate``: scores of segmentations."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsipipe.errors import UsageError

if TYPE_CHECKING:
    from wsipipe.evaluation.evaluate import Evaluation


class ListsMetrics(click.Command):
    """A command whose help lists the metrics; it imports them, and with them numpy, only for that."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the metrics, each with its description, below the options."""
        from wsipipe.evaluation.metrics import METRICS

        with formatter.section("Metrics"):
            formatter.write_dl([(name, metric.description) for name, metric in METRICS.items()])


@click.command(cls=ListsMetrics)
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--metrics", metavar="A,B", help="Metrics, listed below.  [default: all but warping_error]")
@click.option(
    "--predictions-are",
    type=click.Choice(["objects", "classes", "instances"]),
    help="Meaning of their values.  [default: objects if the stores have tables of them, else classes]",
)
@click.option(
    "--labels-are",
    type=click.Choice(["classes", "instances"]),
    default="classes",
    show_default=True,
    help="Meaning of their values.",
)
@click.option("--map", "maps", multiple=True, metavar="V=C", help="Value V of the labels means class C; repeatable.")
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), metavar="FILE", help="Also write one row per image, as CSV."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def evaluate(
    predictions: Path,
    labels: Path,
    metrics: str | None,
    maps: tuple[str, ...],
    table: Path | None,
    as_json: bool,
    **are: Any,
) -> None:  # the rest are options of `evaluate_files`, under the same names
    """Compare PREDICTIONS with LABELS, each a file or a folder of files paired by name.

    PREDICTIONS are stores of wsipipe run, or label rasters (OME-Zarr, TIFF, PNG); LABELS are rasters, or QuPath
    GeoJSON. Files pair by their names without suffix and without _image, _label or _mask at the end. Objects are
    connected components of a class unless values are instances. Where wsipipe objects made tables in the stores, their
    objects are scored instead, without small ones. Exit code: 0 done, 1 a file cannot be read, 2 usage.
    """
    from wsipipe.evaluation.evaluate import evaluate as evaluate_files
    from wsipipe.evaluation.metrics import DEFAULT_METRICS
    from wsipipe.evaluation.pairing import pair

    names = DEFAULT_METRICS if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    if table is not None:
        check_table(table, pair(predictions, labels).values())
    found = evaluate_files(predictions, labels, metrics=names, mapped=parse_maps(maps), **are)
    if table is not None:
        write_scores(table, found)
    click.echo(json.dumps(as_document(found), indent=2) if as_json else scores_as_text(found))


def parse_maps(texts: tuple[str, ...]) -> dict[int, int]:
    """The values of ``--map``: ``("255=1",)`` as ``{255: 1}``.

    Raises
    ------
    UsageError
        If a text is not VALUE=CLASS, or maps a value that another text maps to another class.
    """
    mapped: dict[int, int] = {}
    for text in texts:
        value, _, meant = text.partition("=")
        if not (value.strip().isdecimal() and meant.strip().isdecimal()):
            raise UsageError(f"--map {text} is not VALUE=CLASS, two numbers such as 255=1")
        if mapped.setdefault(int(value), int(meant)) != int(meant):
            raise UsageError(f"--map {value} is given twice, for {mapped[int(value)]} and {int(meant)}")
    return mapped


def as_document(found: Evaluation) -> dict[str, Any]:
    """The document of ``--json``; a score without a value is null."""
    images = [
        {"name": i.name, "prediction": i.prediction, "labels": i.labels, "scores": _finite(i.scores)}
        for i in found.images
    ]
    objects = None if found.objects is None else asdict(found.objects)
    return {"images": images, "scores": _finite(found.scores), "objects": objects}


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def scores_as_text(found: Evaluation) -> str:
    """The scores of all images as a table."""
    width = max(len(name) for name in found.scores)
    rows = [f"{name:<{width}}  {_number(value):>8}" for name, value in found.scores.items()]
    count = len(found.images)
    objects = [] if found.objects is None else [f"objects of the predictions: {found.objects}"]
    return "\n".join([*rows, f"{count} image" + ("s" if count > 1 else ""), *objects])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def check_table(table: Path, inputs: Iterable[tuple[Path, Path]]) -> None:
    """Make sure that ``--csv`` does not overwrite an input.

    Raises
    ------
    UsageError
        If ``table`` is an input, or lies in a folder that is one.
    """
    for path in (path for pair in inputs for path in pair):
        if table.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"--csv {table} is an input, or lies in one ({path}); give another file")


def write_scores(table: Path, found: Evaluation) -> None:
    """Write one row of scores per image, as CSV, by rename.

    Raises
    ------
    OutputError
        If ``table`` cannot be written.
    """
    from wsipipe.files import write_whole

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "prediction", "labels", *found.scores])
    for image in found.images:
        values = ("" if math.isnan(value) else repr(value) for value in image.scores.values())
        writer.writerow([image.name, image.prediction, image.labels, *values])
    write_whole(table, text.getvalue().encode(), way_out="give another file")
