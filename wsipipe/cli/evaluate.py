"""``wsipipe evaluate``: scores of segmentations, and of models."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsipipe.cli.evaluate_text import (
    as_document,
    comparison_as_document,
    comparison_as_text,
    scores_as_text,
    write_scores,
)
from wsipipe.errors import UsageError

if TYPE_CHECKING:
    from wsipipe.evaluation.evaluate import Evaluation, Options

Pairs = dict[str, tuple[Path, Path]]
"""(prediction, or slide, and its labels) by name."""


class ListsMetrics(click.Command):
    """A command whose help lists the metrics; it imports them, and with them numpy, only for that."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the metrics, each with its description, below the options."""
        from wsipipe.evaluation.metrics import METRICS

        with formatter.section("Metrics"):
            formatter.write_dl([(name, metric.description) for name, metric in METRICS.items()])


@click.command(cls=ListsMetrics)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PREDICTIONS LABELS")
@click.option("-m", "--model", metavar="MODEL", help="PREDICTIONS are slides: segment them with MODEL first.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With a model: where its results stay.  [default: removed]",
)
@click.option("--mpp", type=float, metavar="F", help="With a model: micrometres per pixel of level 0.")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Which of two is better: predictions, with LABELS alone; or models, with SLIDES LABELS.",
)
@click.option(
    "--on",
    type=click.Choice(["labels", "store"]),
    help="Whose pixels to compare on where they differ.  [default: labels; outlines: store]",
)
@click.option("--metrics", metavar="A,B", help="Metrics, listed below.  [default: all but warping_error]")
@click.option(
    "--predictions-are",
    type=click.Choice(["objects", "classes", "instances"]),
    help="Meaning of their values.  [default: objects if the stores have tables of them, else classes]",
)
@click.option(
    "--labels-are",
    type=click.Choice(["classes", "instances", "objects"]),
    help="Meaning of their values.  [default: classes; objects if both sides have tables of them]",
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="V=C",
    help="Value V of the labels means class C, a value of the predictions or a name; repeatable.",
)
@click.option(
    "--min-area",
    "min_area_um2",
    type=float,
    metavar="UM2",
    help="Area of the smallest component that is an object, um2; 0: any.  [default: the model's]",
)
@click.option(
    "--radius",
    "radius_um",
    type=float,
    metavar="UM",
    help="How far apart centroids of the same object may be, for detection_f1.  [default: 3, for nuclei]",
)
@click.option(
    "--pictures", type=click.Path(path_type=Path), metavar="DIR", help="Draw the images there, the worst ones first."
)
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), metavar="FILE", help="Also write one row per image, as CSV."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def evaluate(
    paths: tuple[Path, ...],
    model: str | None,
    out: Path | None,
    mpp: float | None,
    compare: tuple[str, str] | None,
    metrics: str | None,
    maps: tuple[str, ...],
    pictures: Path | None,
    table: Path | None,
    as_json: bool,
    **terms: Any,
) -> None:  # the rest are fields of Options, under the same names
    """Compare PREDICTIONS with LABELS, each a file or a folder of files paired by name.

    PREDICTIONS are stores of wsipipe run, or label rasters (OME-Zarr, TIFF, PNG); LABELS are rasters, or QuPath
    GeoJSON, at any resolution. Files pair by their names without suffix and without _image, _label or _mask at the
    end. Objects are connected components of a class unless values are instances. Where wsipipe objects made tables in
    the stores, their objects are scored instead. Exit code: 0 done, 1 a file cannot be read, 2 usage.
    """
    from wsipipe.evaluation.evaluate import Options, compare_evaluations

    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    given = {name: value for name, value in terms.items() if value is not None}
    options = Options(metrics=names, mapped=parse_maps(maps), **given)
    _check_words(paths, model, out, mpp, compare)
    if compare is not None and (table is not None or pictures is not None):
        raise UsageError("--csv and --pictures are of one set of predictions; leave --compare out")
    with _pairs(paths, model or "", out, mpp, compare) as found:
        for path in (path for path in (table, pictures) if path is not None):
            check_output(path, (one for pairs in found for pair in pairs.values() for one in pair))
        scored = [_scored(pairs, options) for pairs in found]
        if compare is not None:
            both, titles = (scored[0], scored[1]), _titles(*compare)
            differences = compare_evaluations(*both)
            as_text = comparison_as_text(titles, both, differences)
            document = comparison_as_document(titles, both, differences)
        else:
            as_text, document = scores_as_text(scored[0]), as_document(scored[0])
        if table is not None:
            write_scores(table, scored[0])
        if pictures is not None:
            from wsipipe.pictures.scored_images import draw_evaluation

            draw_evaluation(pictures, scored[0])
    click.echo(json.dumps(document, indent=2) if as_json else as_text)


def _check_words(
    paths: tuple[Path, ...], model: str | None, out: Path | None, mpp: float | None, compare: tuple[str, str] | None
) -> None:
    """Refuse arguments and options that do not go together.

    Raises
    ------
    UsageError
        If there are any; the message says what is allowed.
    """
    runs = model is not None or (compare is not None and len(paths) == 2)
    if model is not None and compare is not None:
        raise UsageError("-m is one model, and --compare names two; leave one of them out")
    if len(paths) != 2 and not (compare is not None and len(paths) == 1):
        what = "LABELS, or SLIDES and LABELS" if compare is not None else "PREDICTIONS and LABELS"
        raise UsageError(f"{len(paths)} paths are given; give {what}")
    if not runs and (out is not None or mpp is not None):
        raise UsageError("-o and --mpp are for slides that are segmented first (-m, or --compare with SLIDES LABELS)")


@contextmanager
def _pairs(
    paths: tuple[Path, ...], model: str, out: Path | None, mpp: float | None, compare: tuple[str, str] | None
) -> Iterator[list[Pairs]]:
    """The predictions, one set or two, with their labels; segmented first where there are models."""
    from wsipipe.evaluation.pairing import pair, pair_slides

    if compare is None and not model:
        yield [pair(*paths)]
    elif compare is not None and len(paths) == 1:
        yield [pair(Path(one), paths[0]) for one in compare]
    else:
        slides = pair_slides(*paths)
        with tempfile.TemporaryDirectory(prefix="wsipipe-") as temporary:
            folder = Path(temporary) if out is None else out
            if compare is None:
                yield [_segmented(slides, model, folder, mpp)]
            else:
                places = zip(compare, _titles(*compare), strict=True)
                yield [_segmented(slides, one, folder / Path(title).stem, mpp) for one, title in places]


def _titles(first: str, second: str) -> tuple[str, str]:
    """What to call two files or folders: by their names, or by their paths if these are the same."""
    names = Path(first).name, Path(second).name
    if Path(names[0]).stem != Path(names[1]).stem:
        return names
    return (f"1 {names[0]}", f"2 {names[1]}")


def _segmented(slides: Pairs, model: str, out: Path, mpp: float | None) -> Pairs:
    """The stores of slides, as ``wsipipe run`` makes them in ``out``, with their labels.

    Ends the command as that would if a slide fails.
    """
    from wsipipe.cli.progress import show_run
    from wsipipe.cli.run_text import summary_as_text
    from wsipipe.pipeline.config import RunConfig
    from wsipipe.pipeline.run import run

    with show_run() as listener:
        summary = run([str(slide) for slide, _ in slides.values()], RunConfig(str(out), model, mpp), listener)
    if summary.exit_code:
        click.echo(summary_as_text(summary), err=True)
        click.get_current_context().exit(summary.exit_code)
    stores = {os.path.realpath(one.slide): Path(one.store) for one in summary.slides if one.store}
    return {name: (stores[os.path.realpath(slide)], labels) for name, (slide, labels) in slides.items()}


def _scored(pairs: Pairs, options: Options) -> Evaluation:
    from wsipipe.evaluation.evaluate import evaluate_pairs

    return evaluate_pairs(pairs, options)


def parse_maps(texts: tuple[str, ...]) -> dict[int, int | str]:
    """The values of ``--map``: ``("255=1", "2=nucleus")`` as ``{255: 1, 2: "nucleus"}``.

    Raises
    ------
    UsageError
        If a text is not VALUE=CLASS, or maps a value that another text maps to another class.
    """
    mapped: dict[int, int | str] = {}
    for text in texts:
        value, _, meant = (part.strip() for part in text.partition("="))
        number = meant.removeprefix("-").isdecimal()
        if not value.isdecimal() or not meant or "=" in meant or meant.startswith("-"):
            raise UsageError(f"--map {text} is not VALUE=CLASS, two numbers such as 255=1, or a name: 255=nucleus")
        named = int(meant) if number else meant
        if mapped.setdefault(int(value), named) != named:
            raise UsageError(f"--map {value} is given twice, for {mapped[int(value)]} and {named}")
    return mapped


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Make sure that no input is overwritten.

    Raises
    ------
    UsageError
        If ``path`` is an input, or lies in a folder that is one.
    """
    for one in inputs:
        if path.resolve().is_relative_to(one.resolve()):
            raise UsageError(f"{path} is an input, or lies in one ({one}); give another place")
