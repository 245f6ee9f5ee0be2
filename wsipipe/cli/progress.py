"""The progress of a run or a training, shown on stderr: bars on a terminal, plain lines elsewhere.

`show_events` is the mechanism; the line of an event, and what moves the bars, are given to it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TextIO, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from wsipipe.cli.streams import why_untold
from wsipipe.cli.terminal import terminal
from wsipipe.events import (
    BlockDone,
    BlockMeasured,
    ClusterReady,
    Event,
    Listener,
    ObjectsFound,
    OfSlide,
    PrecisionGain,
    RunStarted,
    SizesChosen,
    SlideDone,
    SlideEmpty,
    SlideFailed,
    SlideLeft,
    SlideSkipped,
    SlideStarted,
    SlideTaken,
    TissueFound,
    Warned,
)
from wsipipe.report.words import shown_lines

E = TypeVar("E")


@contextmanager
def show_events(
    line: Callable[[E], str | None],
    *,
    milestone: Callable[[E], str | None],
    bars: Callable[[Progress], Callable[[E], None]],
    columns: Sequence[ProgressColumn] = (),
) -> Iterator[Callable[[E], None]]:
    """A listener that shows events on stderr until the context ends.

    Parameters
    ----------
    line
        Gives the line of an event; None for one that only moves a bar.
    milestone
        Gives the line that an event adds where there are no bars, such as a slide's next tenth; None for most events.
    bars
        Adds its bars to a display, and returns what moves them at each event.
    columns
        The columns of a bar; by default those of rich.
    """
    if not sys.stderr.isatty():
        yield plain_lines(line, milestone)
        return
    with Progress(*columns, console=Console(file=terminal())) as display:
        yield lines_above_bars(display, line, bars(display))


def plain_lines(line: Callable[[E], str | None], milestone: Callable[[E], str | None]) -> Callable[[E], None]:
    """A listener that writes the ``line`` and the ``milestone`` of each event to stderr."""

    def listener(event: E) -> None:
        for text in (line(event), milestone(event)):
            if text is not None:
                click.echo(shown_lines([text]), err=True)

    return listener


def lines_above_bars(
    display: Progress, line: Callable[[E], str | None], move_bars: Callable[[E], None]
) -> Callable[[E], None]:
    """A listener that moves the bars of ``display``, and lets the ``line`` of each event scroll above them."""

    def listener(event: E) -> None:
        move_bars(event)
        if (text := line(event)) is not None:
            display.console.print(shown_lines([text]), markup=False, highlight=False)

    return listener


def show_run() -> AbstractContextManager[Listener]:
    """A listener that shows a run on stderr until the context ends: two bars, or a line for each tenth of a slide."""
    return show_events(run_line, milestone=Tenths(), bars=RunBars, columns=run_columns())


def run_columns() -> tuple[ProgressColumn, ...]:
    """The columns of a bar: its name, the bar, megapixels per second, time left."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Speed(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def run_line(event: Event) -> str | None:
    """The line of ``event``; None for one that only moves a bar."""
    match event:
        case ClusterReady():
            return (
                f"{event.workers} workers with {event.threads} blocks in flight at {event.scheduler}; "
                f"dashboard: {event.dashboard}"
            )
        case SizesChosen():
            how = f"measured in {event.seconds:.1f} s" if event.seconds else "as measured before"
            replicas = f"{event.devices} replicas, " if event.devices > 1 else ""
            return (
                f"{event.engine}, {replicas}tile {event.tile}, batch {event.batch}, block {event.block}, "
                f"{event.threads} blocks in flight; bare network {event.bare / 1e6:.2f} MP/s with margins, {how}"
            )
        case PrecisionGain():
            return (
                f"{event.precision} would be {event.speed:.1f} times as fast here; {event.differing:.2%} of the labels "
                f"of a tile differ (--precision {event.precision})"
            )
        case SlideStarted():
            size = f"{event.pixels_to_do / 1e6:.1f} MP"
            region = "" if event.region_share is None else f"; region on {event.region_share:.1%} of the slide"
            return f"{_name(event)}: {event.blocks_to_do} of {event.blocks} blocks to do, {size}{region}"
        case TissueFound(how="not readable"):
            return f"{_name(event)}: tissue cannot be found (not readable), so the whole slide is segmented"
        case TissueFound():
            return f"{_name(event)}: tissue covers {event.share:.0%} ({event.how})"
        case SlideEmpty():
            return f"{_name(event)}: no tissue, complete in {event.seconds:.1f} s -> {event.store}"
        case ObjectsFound():
            return f"{_name(event)}: {sum(one.objects for one in event.classes):,} objects"
        case SlideDone():
            return f"{_name(event)}: done in {event.seconds:.1f} s -> {event.store}"
        case SlideSkipped():
            return f"{_name(event)}: skipped, {event.reason} -> {event.store}"
        case SlideTaken():
            return f"{_name(event)}: taken {'over ' if event.over else ''}by {event.holder}"
        case SlideLeft():
            return f"{_name(event)}: open, {event.reason}"
        case SlideFailed():
            return f"{_name(event)}: FAILED: {event.error}"
        case Warned():
            return f"{_name(event)}: warning: {event.message}"
    return None


def _name(event: OfSlide) -> str:
    return Path(event.slide).name


class Tenths:
    """The milestones of a run: a line for each tenth of a slide, such as ``x.tif: 30 %``."""

    def __init__(self) -> None:
        self._blocks: dict[str, int] = {}
        self._done: Counter[str] = Counter()

    def __call__(self, event: Event) -> str | None:
        """Count ``event``, and return the line of the tenth that it completes. The last one is a `SlideDone`."""
        if isinstance(event, BlockMeasured):
            return tenth_line(_name(event), event.done, event.blocks)
        if isinstance(event, SlideStarted):
            self._blocks[event.slide] = event.blocks_to_do
        if not isinstance(event, BlockDone):
            return None
        self._done[event.slide] += 1
        done, blocks = self._done[event.slide], self._blocks[event.slide]
        return tenth_line(_name(event), done, blocks)


def tenth_line(name: str, done: int, blocks: int) -> str | None:
    """The line of the tenth that block number ``done`` of ``blocks`` completes, but for the last; None for most."""
    tenth, before = (10 * count // blocks for count in (done, done - 1))
    return f"{name}: {10 * tenth} %" if 0 <= before < tenth < 10 else None


class RunBars:
    """Two bars: one over all slides, and one for the slide that began last."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._all = display.add_task("all slides", total=None)
        self._slide = display.add_task("", total=None, visible=False)
        self._current = ""

    def __call__(self, event: Event) -> None:
        """Move the bars by ``event``."""
        match event:
            case RunStarted():
                self._display.update(self._all, total=event.pixels)
            case SlideStarted():
                self._current = event.slide
                self._display.reset(
                    self._slide, total=event.pixels_to_do, description=shown_lines([_name(event)]), visible=True
                )
            case BlockMeasured():
                self._display.update(self._slide, total=event.blocks, completed=event.done)
            case BlockDone():
                self._display.advance(self._all, event.pixels)
                if event.slide == self._current:
                    self._display.advance(self._slide, event.pixels)


class _Speed(ProgressColumn):
    """Megapixels per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{(task.speed or 0) / 1e6:.2f} MP/s")


class JsonLines:
    """A listener that appends each event to a file, as a JSON object with its name and the time; a context manager.

    ``problem`` says why the file could not be written; it is empty if it could.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.problem = path, ""
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # said as its lines were written
                self._file.close()

    def __call__(self, event: Event) -> None:
        """Write the line of ``event``, unless an earlier one could not be written."""
        if self.problem:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"time": at, "event": type(event).__name__, **asdict(event)}
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as err:
            self.problem = why_untold(f"log {self._path}", err)


class Both:
    """A listener that passes each event on to two."""

    def __init__(self, first: Listener, second: Listener) -> None:
        self._first, self._second = first, second

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on to both."""
        self._first(event)
        self._second(event)
