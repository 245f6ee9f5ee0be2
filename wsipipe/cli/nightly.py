"""``wsipipe nightly``: one pass over all inboxes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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


@click.command()
@click.argument("config", metavar="CONFIG.toml", required=False)
@click.option("--dry-run", is_flag=True, help="Print what would be done, with projected hours, space and memory.")
@click.option("--metrics", metavar="FILE", help="File for node-exporter's textfile collector; overrides CONFIG.")
@click.option("--example", is_flag=True, help="Only print a CONFIG.toml with every key and its meaning.")
def nightly(config: str | None, dry_run: bool, metrics: str | None, example: bool) -> None:
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
    from wsipipe.report.words import shown_lines
    from wsipipe.report.write import PAGE

    if example:
        click.echo(example_night())
        return
    if config is None:
        raise click.UsageError("Missing argument 'CONFIG.toml'; wsipipe nightly --example prints one to begin with.")
    night = read_night(Path(config))
    if metrics is not None:
        night = replace(night, config=replace(night.config, metrics=str(Path(metrics).absolute())))
    if dry_run:
        click.echo(projection_as_text(*project(night, time.time())))
        return
    told: list[NightReport] = []
    log = None
    try:
        with ExitStack() as stack:
            listener = stack.enter_context(show_run())
            if night.config.log is not None:
                log = stack.enter_context(JsonLines(Path(night.place(night.config.log))))
                listener = Both(listener, log)
            report = run_night(night, listener, told=told.append)
    finally:  # also of a night that was interrupted
        problems = [stderr_problem(), log.problem if log else ""]
        for one in told:
            click.echo(report_as_text(one))
            click.echo(shown_lines([f"report: {night.report / PAGE}", *filter(None, problems)]))
    click.get_current_context().exit(report.exit_code)


def report_as_text(report: NightReport) -> str:
    """One line for each slide that is not done, one for an early end, and one for the whole night."""
    from wsipipe.report.record import DONE, SKIPPED
    from wsipipe.report.words import count_of, headline, shown_lines

    lines = [
        f"{s.status:9} {Path(s.slide).name}: {s.message or '; '.join(s.warnings)}"
        for s in report.slides
        if s.status not in (DONE, SKIPPED)
    ]
    lines += [f"ended early: {report.stopped}"] if report.stopped else []
    idle = not report.stopped and {slide.status for slide in report.slides} <= {SKIPPED}
    found = count_of(len(report.slides), "slide")
    lines.append(f"nothing to do: {found} found{', all done' * bool(report.slides)}" if idle else headline(report))
    return shown_lines(lines)


def projection_as_text(found: InboxContent, projections: list[Projection]) -> str:
    """The text of ``--dry-run``."""
    from wsipipe.cli.run_text import plan_as_text
    from wsipipe.nightly.remedies import in_night
    from wsipipe.report.words import shown_lines

    lines = [f"{row.status:9} {row.slide}: {row.message}" for row in found.left]
    for projection in projections:
        lines += in_night(plan_as_text(projection.plan)).splitlines()
        hours = "not measured yet" if projection.hours is None else f"{projection.hours:.1f} h"
        lines.append(f"projected: {hours}; results at most {projection.output_bytes / 1e9:,.1f} GB before compression")
    return shown_lines(lines) if lines else "nothing to do"
