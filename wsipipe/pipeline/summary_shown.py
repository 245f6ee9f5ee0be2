"""The summary of a run as Python shows it: as text, and as a table in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsipipe.report.markup import element
from wsipipe.report.record import FAILED
from wsipipe.report.words import shown_lines

if TYPE_CHECKING:
    from wsipipe.pipeline.summary import RunSummary, SlideOutcome

MOST_SLIDES = 50
"""Slides that are listed; those that failed come first."""
COLUMNS = ("slide", "outcome", "result", "MP", "seconds", "objects")


def as_text(summary: RunSummary) -> str:
    """A line for the run, and one for each slide."""
    lines = [_headline(summary)]
    for slide in _listed(summary):
        name, status, result, size, seconds, objects = _cells(slide)
        size = f"  {size} MP in {seconds} s" if size else ""
        lines.append(f"    {status:8} {name}: {result}{size}{f', {objects} objects' if objects else ''}")
    return shown_lines([*lines, *_unlisted(summary)])


def as_html(summary: RunSummary) -> str:
    """The same as a table; whatever names and messages hold is shown as text."""
    head = element("tr", *(element("th", name) for name in COLUMNS))
    rows = [element("tr", *(element("td", cell) for cell in _cells(slide))) for slide in _listed(summary)]
    more = [element("p", line) for line in _unlisted(summary)]
    return element("div", element("p", _headline(summary)), element("table", head, *rows), *more).source


def _headline(summary: RunSummary) -> str:
    statuses = dict.fromkeys(slide.status for slide in summary.slides)
    counts = ", ".join(f"{summary.count(status)} {status}" for status in statuses) or "no slides"
    end = "".join(f"; {why}" for why in (summary.stopped, summary.ended) if why)
    return f"{counts} -> {summary.out}, in {summary.seconds:,.1f} s{end}"


def _listed(summary: RunSummary) -> list[SlideOutcome]:
    failed_first = sorted(summary.slides, key=lambda slide: slide.status != FAILED)
    return failed_first[:MOST_SLIDES]


def _unlisted(summary: RunSummary) -> list[str]:
    left = len(summary.slides) - MOST_SLIDES
    return [f"and {left:,} more, in summary.slides"] if left > 0 else []


def _cells(slide: SlideOutcome) -> tuple[str, ...]:
    """The values of `COLUMNS`; empty where there are none."""
    where = [text for text in (slide.shown_store, slide.message) if text]
    return (
        Path(slide.slide).name,
        slide.status,
        " - ".join(where),
        f"{slide.pixels / 1e6:,.1f}" if slide.pixels else "",
        f"{slide.seconds:,.1f}" if slide.seconds else "",
        f"{sum(one.objects for one in slide.objects):,}" if slide.objects else "",
    )
