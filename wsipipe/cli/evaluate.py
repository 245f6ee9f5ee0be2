"""``wsipipe evaluate``: scores of segmentations, and of models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsipipe.cli.command import PATH, Command, in_section
from wsipipe.cli.evaluate_text import (
    as_document,
    comparison_as_document,
    comparison_as_text,
    scores_as_text,
    write_scores,
)
from wsipipe.cli.json_text import echo_json
from wsipipe.cli.slide_options import with_options
from wsipipe.cli.verbosity import VERBOSITY_OPTIONS, verbosity
from wsipipe.errors import UsageError
from wsipipe.extras import require

if TYPE_CHECKING:
    from wsipipe.pipeline.config import RunConfig
    from wsipipe.report.run_line import Verbosity

Pairs = dict[str, tuple[Path, Path]]
"""(prediction, or slide, and its labels) by name."""


class ListsMetrics(Command):
    """A command whose help lists the metrics; it imports them, and with them numpy, only for that."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the metrics, each with its description, below the options, and then the examples."""
        from wsipipe.evaluation.metrics import METRICS

        with formatter.section("Metrics"):
            formatter.write_dl([(name, metric.description) for name, metric in METRICS.items()])
        super().format_epilog(ctx, formatter)


_models, _scores = in_section("Models and comparisons"), in_section("Scores")
_meaning, _files = in_section("Meaning of the values"), in_section("Output")


@click.command(
    cls=ListsMetrics,
    examples=(
        ("wsipipe evaluate out/ truth/", "results and labels, paired by name"),
        ("wsipipe evaluate -m my.safetensors slides/ truth/", "segment the slides first"),
        ("wsipipe evaluate --compare a/ b/ truth/", "which of two results is better"),
        ("wsipipe evaluate out/ truth/ --pictures errors/", "the worst images first"),
    ),
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PREDICTIONS LABELS")
@_models("-m", "--model", type=PATH, metavar="MODEL", help="PREDICTIONS are slides: segment them with MODEL first.")
@_models(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With a model: where its results stay.  [default: removed]",
)
@_models("--mpp", type=float, metavar="F", help="With a model: micrometres per pixel of level 0.")
@_models(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Which of two is better: predictions, with LABELS alone; or models, with SLIDES LABELS.",
)
@_scores("--metrics", metavar="A,B", help="Metrics, listed below.  [default: all but warping_error]")
@_scores(
    "--on",
    type=click.Choice(["labels", "store"]),
    help="Whose pixels to compare on where they differ.  [default: labels; outlines: store]",
)
@_scores(
    "--min-area",
    "min_area_um2",
    type=float,
    metavar="UM2",
    help="Area of the smallest component that is an object, um2; 0: any.  [default: the model's]",
)
@_scores(
    "--radius",
    "radius_um",
    type=float,
    metavar="UM",
    help="How far apart centroids of the same object may be, for detection_f1.  [default: 3, for nuclei]",
)
@_meaning(
    "--predictions-are",
    type=click.Choice(["objects", "classes", "instances"]),
    help="Meaning of their values.  [default: objects if the stores have tables of them, else classes]",
)
@_meaning(
    "--labels-are",
    type=click.Choice(["classes", "instances", "objects"]),
    help="Meaning of their values.  [default: classes; objects if both sides have tables of them]",
)
@_meaning(
    "--map",
    "maps",
    multiple=True,
    metavar="V=C",
    help="Value V of the labels means class C, a value of the predictions or a name; repeatable.",
)
@_files("--pictures", type=click.Path(path_type=Path), metavar="DIR", help="Draw the images there, the worst first.")
@_files("--csv", "table", type=click.Path(path_type=Path), metavar="FILE", help="Also write one row per image, as CSV.")
@_files("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@with_options(VERBOSITY_OPTIONS)
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
    verbose: bool,
    quiet: bool,
    **terms: Any,
) -> None:  # the rest are fields of Options, under the same names
    """Compare PREDICTIONS with LABELS, each a file or a folder of files paired by name.

    PREDICTIONS are stores of wsipipe run, or label rasters (OME-Zarr, TIFF, PNG); LABELS are rasters, or QuPath
    GeoJSON, at any resolution. Files pair by their names without suffix and without _image, _label or _mask at the
    end. Objects are connected components of a class unless values are instances. Where wsipipe objects made tables in
    the stores, their objects are scored instead. Exit code: 0 done, 1 a file cannot be read, 2 usage.
    """
    from wsipipe.evaluation.evaluate import Options, check_options, compare_evaluations, evaluate_pairs
    from wsipipe.evaluation.metrics import OF_PROBABILITIES

    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    options = Options(
        metrics=names, mapped=parse_maps(maps), **{name: value for name, value in terms.items() if value is not None}
    )
    _check_words(paths, model, out, mpp, compare)
    if compare is not None and (table is not None or pictures is not None):
        raise UsageError("--csv and --pictures are of one set of predictions; leave --compare out")
    check_options(options)
    models = [model] if model is not None else list(compare or ()) * (len(paths) == 2)
    given = _given(paths, models, compare)
    for path in (path for path in (table, pictures) if path is not None):
        check_output(path, (one for pairs in given for pair in pairs.values() for one in pair))
    probable = bool(set(names or ()) & set(OF_PROBABILITIES))
    if pictures is not None and probable:
        require("matplotlib", "train", what="--pictures of probabilities")
    with _segmented(given, models, out, mpp, probable=probable, level=verbosity(verbose, quiet)) as found:
        scored = [evaluate_pairs(pairs, options) for pairs in found]
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
    if as_json:
        echo_json(document)
    else:
        click.echo(as_text)


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


def _given(paths: tuple[Path, ...], models: Sequence[str], compare: tuple[str, str] | None) -> list[Pairs]:
    """The predictions with their labels, one set or two; where there are models, the slides, once for each."""
    from wsipipe.evaluation.pairing import pair, pair_slides

    if models:
        return [pair_slides(*paths)] * len(models)
    return [pair(*paths)] if compare is None else [pair(Path(one), paths[0]) for one in compare]


def _titles(first: str, second: str) -> tuple[str, str]:
    """What to call two files or folders: by their names, with a number if these are the same."""
    names = Path(first).absolute().name, Path(second).absolute().name
    if Path(names[0]).stem != Path(names[1]).stem:
        return names
    return (f"1 {names[0]}", f"2 {names[1]}")


@contextmanager
def _segmented(
    given: list[Pairs],
    models: Sequence[str],
    out: Path | None,
    mpp: float | None,
    *,
    probable: bool,
    level: Verbosity,
) -> Iterator[list[Pairs]]:
    """The predictions with their labels: those ``given``, or made of slides by each of the ``models``.

    The stores are in ``out``, those of two models in a folder each; without it they last as long as the context.
    """
    from wsipipe.pipeline.config import RunConfig

    if not models:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="wsipipe-") as temporary:
        folder = Path(temporary) if out is None else out
        folders = [folder] if len(models) == 1 else [folder / Path(title).stem for title in _titles(*models)]
        yield [
            _stores(slides, RunConfig(str(where), model, mpp, probabilities=probable), level)
            for slides, model, where in zip(given, models, folders, strict=True)
        ]


def _stores(slides: Pairs, config: RunConfig, level: Verbosity) -> Pairs:
    """The stores of slides, as ``wsipipe run`` makes them, with their labels.

    Ends the command as that would if a slide fails.
    """
    from wsipipe.cli.progress import show_run
    from wsipipe.cli.run_text import summary_as_text
    from wsipipe.pipeline.run import run

    with show_run(level) as listener:
        summary = run([str(slide) for slide, _ in slides.values()], config, listener)
    if summary.exit_code:
        click.echo(summary_as_text(summary, level), err=True)
        click.get_current_context().exit(summary.exit_code)
    stores = {os.path.realpath(one.slide): Path(one.store) for one in summary.slides if one.store}
    return {name: (stores[os.path.realpath(slide)], labels) for name, (slide, labels) in slides.items()}


def parse_maps(texts: tuple[str, ...]) -> dict[int, int | str]:
    """The values of ``--map``: ``("255=1", "2=nucleus")`` as ``{255: 1, 2: "nucleus"}``.

    Raises
    ------
    UsageError
        If a text is not VALUE=CLASS, has a number that no label can have, or maps a value that another text maps to
        another class.
    """
    from wsipipe.rasters.label_raster import MAX_LABEL  # it brings numpy

    mapped: dict[int, int | str] = {}
    for text in texts:
        value, _, meant = (part.strip() for part in text.partition("="))
        number = meant.removeprefix("-").isdecimal()
        if not value.isdecimal() or not meant or "=" in meant or meant.startswith("-"):
            raise UsageError(f"--map {text} is not VALUE=CLASS, two numbers such as 255=1, or a name: 255=nucleus")
        named = int(meant) if number else meant
        if max(int(value), int(meant) if number else 0) > MAX_LABEL:
            raise UsageError(f"--map {text}: the largest value of a label is {MAX_LABEL}")
        if mapped.setdefault(int(value), named) != named:
            raise UsageError(f"--map {value} is given twice, for {mapped[int(value)]} and {named}")
    return mapped


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Make sure that no input is overwritten, and no output taken for an input.

    Raises
    ------
    UsageError
        If ``path`` is an input, lies in a folder that is one, or is the folder that holds one.
    """
    for one in inputs:
        if path.resolve().is_relative_to(one.resolve()):
            raise UsageError(f"{path} is an input, or lies in one ({one}); give another place")
        if one.absolute().parent.resolve() == path.resolve():
            raise UsageError(f"{path} holds an input ({one.name}); give another folder, such as {path / 'errors'}")
