"""``wsipipe nightly``: one pass over all inboxes."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsipipe.cli.command import PATH, Command
from wsipipe.cli.slide_options import with_options
from wsipipe.cli.verbosity import VERBOSITY_OPTIONS, verbosity

if TYPE_CHECKING:
    from wsipipe.nightly.night import InboxContent
    from wsipipe.nightly.projection import Projection
    from wsipipe.report.record import NightReport


EXAMPLES: dict[str, Any] = {
    "inbox": ["inbox"],
    "out": "segmentations",
    "report": "segmentations/reports",
    "model": "nuclei",
    "until": "06:30",
    "duration": "8h",
    "metrics": "wsipipe.prom",
    "webhook": "https://example.org/hook",
    "log": "wsipipe.jsonl",
    "margin": 64,
    "tile": 1024,
    "block": 4096,
    "batch": 4,
    "threads": 4,
    "max_memory": "24GB",
    "roi": "2mm,3mm,1mm,1mm",
    "min_area": 8.0,
    "reader": "tiff",
    "channels": "0,2",
    "z": 0,
    "t": 0,
    "series": 0,
    "scheduler": "tcp://scheduler:8786",
    "kind": "slurm",
    "workers": 8,
    "adapt": [1, 20],
    "options": {"queue": "gpu", "walltime": "08:00:00"},
    "match": "*_20x*.tif",
    "mpp": 0.5,
}
"""Values in the example of a night, of keys that have no default."""


def example_night() -> str:
    """A night's file with every key: those that must be given, and all others as comments."""
    from wsipipe.cli.run import run
    from wsipipe.cli.toml_keys import commented_keys
    from wsipipe.nightly.config import NightConfig

    head = (
        "# wsipipe nightly night.toml --dry-run     what would be done, and how long it would take",
        "# wsipipe nightly night.toml               one pass over everything that is new; made for a timer",
        "#",
        "# Paths are relative to this file. Keys behind a # have their default, or an example where they have none.",
    )
    return "\n".join((*head, *commented_keys(NightConfig, EXAMPLES, run)))


@click.command(cls=Command)
@click.argument("config", type=PATH, metavar="CONFIG.toml", required=False)
@click.option("--dry-run", is_flag=True, help="Print what would be done, with projected hours, space and memory.")
@click.option(
    "--metrics", type=PATH, metavar="FILE", help="File for node-exporter's textfile collector; overrides CONFIG."
)
@click.option("--example", is_flag=True, help="Only print a CONFIG.toml with every key and its meaning.")
@with_options(VERBOSITY_OPTIONS)
def nightly(config: str | None, dry_run: bool, metrics: str | None, example: bool, verbose: bool, quiet: bool) -> None:
    """Segment everything new in the inboxes of CONFIG.toml, write a report, and exit; made for a timer.

    Exit code: 0 all well, 1 some slides failed, 2 CONFIG is wrong, 3 the environment, 130 interrupted: the next night
    resumes.
    """
    from dataclasses import replace

    from wsipipe.cli.progress import Both, JsonLines, show_run
    from wsipipe.cli.streams import stderr_problem
    from wsipipe.nightly.config import read_night
    from wsipipe.nightly.night import run_night
    from wsipipe.nightly.projection import project
    from wsipipe.report.run_line import Verbosity
    from wsipipe.report.words import shown_lines
    from wsipipe.report.write import PAGE

    level = verbosity(verbose, quiet)
    if example:
        click.echo(example_night())
        return
    if config is None:
        raise click.UsageError("Missing argument 'CONFIG.toml'; wsipipe nightly --example prints one to begin with.")
    night = read_night(Path(config))
    if metrics is not None:
        night = replace(night, config=replace(night.config, metrics=str(Path(metrics).absolute())))
    if dry_run:
        found, projections = project(night, time.time())
        for line, warning in found.warnings:
            click.echo(shown_lines([f"{line}: warning: {warning}"]), err=True)
        click.echo(projection_as_text(found, projections))
        return
    told: list[NightReport] = []
    log = None
    try:
        with ExitStack() as stack:
            listener = stack.enter_context(show_run(level))
            if night.config.log is not None:
                log = stack.enter_context(JsonLines(Path(night.place(night.config.log))))
                listener = Both(listener, log)
            report = run_night(night, listener, told=told.append)
    finally:  # also of a night that was interrupted
        said = [text for one in told for text in (report_as_text(one), shown_lines([f"report: {night.report / PAGE}"]))]
        said = [] if level == Verbosity.QUIET else said
        said += [shown_lines([problem]) for problem in (stderr_problem(), log.problem if log else "") if problem]
        if said:
            click.echo("\n".join(said))
    click.get_current_context().exit(report.exit_code)


def report_as_text(report: NightReport) -> str:
    """Lines for each slide that is not done, one for an early end, and one for the whole night."""
    from wsipipe.nightly.remedies import lines_with_table
    from wsipipe.report.record import DONE, SKIPPED
    from wsipipe.report.words import in_a_line, shown_lines

    lines = []
    for s in report.slides:
        if s.status not in (DONE, SKIPPED):
            said, *table = lines_with_table(s.message or "; ".join(s.warnings))
            lines += [f"{s.status:9} {Path(s.slide).name}: {said}", *table]
    lines += [f"ended early: {report.stopped}"] if report.stopped else []
    idle = not (report.stopped or report.warned) and {slide.status for slide in report.slides} <= {SKIPPED}
    return shown_lines([*lines, nothing_to_do(len(report.slides)) if idle else in_a_line(report)])


def nothing_to_do(slides: int) -> str:
    """The line of a night whose slides are all done, or that has none."""
    from wsipipe.report.words import count_of

    return f"nothing to do: {count_of(slides, 'slide')} found{', all done' if slides else ''}"


def projection_as_text(found: InboxContent, projections: list[Projection]) -> str:
    """The text of ``--dry-run``."""
    from wsipipe.cli.run_text import plan_as_text
    from wsipipe.nightly.remedies import in_night, lines_with_table, with_table
    from wsipipe.pipeline.run_plan import Refused
    from wsipipe.report.words import shown_lines

    lines = []
    for row in found.left:
        said, *table = lines_with_table(row.message)
        lines += [f"{row.status:9} {row.slide}: {said}", *table]
    lines += [f"tried again {one.slide}: failed in {one.nights}: {one.message}" for one in found.failed]
    for projection in projections:
        lines += in_night(plan_as_text(projection.plan)).splitlines()
        for slide in projection.plan.slides:
            if isinstance(slide, Refused):
                lines += lines_with_table(with_table(in_night(slide.error), Path(slide.path).name))[1:]
    return shown_lines([*lines, _total(found, projections)])


def _total(found: InboxContent, projections: list[Projection]) -> str:
    """The last line of ``--dry-run``: slides by what would become of them, and the projected time and space."""
    from wsipipe.pipeline.run_plan import Refused
    from wsipipe.report.words import count_of, duration, size

    plans = [projection.plan for projection in projections]
    slides = sum(len(plan.slides) for plan in plans)
    refused = sum(isinstance(slide, Refused) for plan in plans for slide in plan.slides)
    to_do = sum(len(plan.to_do) for plan in plans)
    if not found.left and not refused and not to_do:
        return nothing_to_do(slides)
    counts = {"done before": slides - refused - to_do, "to do": to_do, "refused": refused}
    counts |= Counter(row.status for row in found.left)
    seconds = [projection.seconds for projection in projections]
    known = [one for one in seconds if one is not None]
    time_needed = f"about {duration(sum(known))}" if len(known) == len(seconds) else "time not measured yet"
    counted = ", ".join(f"{number} {what}" for what, number in counts.items())
    return (
        f"total: {count_of(slides + len(found.left), 'slide')}: {counted}; "
        f"{time_needed}; results at most {size(sum(one.output_bytes for one in projections))} before compression"
    )
