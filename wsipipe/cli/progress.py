"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere, all of it on stderr."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from wsipipe.errors import OutputError
from wsipipe.events import (
    BlockDone,
    ClusterReady,
    Event,
    Listener,
    OfSlide,
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


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that shows a run on stderr, until the context ends."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    with Progress(*columns(), console=Console(stderr=True)) as bars:
        yield Bars(bars)


def columns() -> tuple[ProgressColumn, ...]:
    """What a bar shows: whose it is, how far, megapixels per second, time left."""
    return TextColumn("{task.description}"), BarColumn(), _Speed(), TextColumn("left"), TimeRemainingColumn()


def spoken(event: Event) -> str | None:
    """The line that says ``event``; None for one that is only counted."""
    match event:
        case ClusterReady():
            return (
                f"{event.workers} workers with {event.threads} blocks in flight at {event.scheduler}; "
                f"dashboard: {event.dashboard}"
            )
        case SizesChosen():
            how = f"measured in {event.seconds:.1f} s" if event.seconds else "as measured before"
            return (
                f"{event.engine}, tile {event.tile}, batch {event.batch}, block {event.block}, {event.threads} blocks "
                f"in flight; bare network {event.bare / 1e6:.2f} MP/s with margins, {how}"
            )
        case SlideStarted():
            size = f"{event.pixels_to_do / 1e6:.1f} MP"
            return f"{_name(event)}: {event.blocks_to_do} of {event.blocks} blocks to do, {size}"
        case TissueFound():
            return f"{_name(event)}: {event.share:.0%} is to be looked at ({event.how})"
        case SlideEmpty():
            return f"{_name(event)}: no tissue, complete in {event.seconds:.1f} s -> {event.store}"
        case SlideDone():
            return f"{_name(event)}: done in {event.seconds:.1f} s -> {event.store}"
        case SlideSkipped():
            return f"{_name(event)}: skipped, {event.reason} -> {event.store}"
        case SlideTaken():
            return f"{_name(event)}: taken by {event.holder}"
        case SlideLeft():
            return f"{_name(event)}: open, {event.reason}"
        case SlideFailed():
            return f"{_name(event)}: FAILED: {event.error}"
        case Warned():
            return f"{_name(event)}: warning: {event.message}"
    return None


def _name(event: OfSlide) -> str:
    return Path(event.slide).name


class Lines:
    """Plain lines: every event that is more than a count, and each tenth of a slide."""

    def __init__(self) -> None:
        self._blocks: dict[str, int] = {}
        self._done: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Say ``event``."""
        if isinstance(event, SlideStarted):
            self._blocks[event.slide] = event.blocks_to_do
        if isinstance(event, BlockDone):
            self._done[event.slide] += 1
            done, blocks = self._done[event.slide], self._blocks[event.slide]
            tenth, before = (10 * count // blocks for count in (done, done - 1))
            if before < tenth < 10:
                click.echo(f"{Path(event.slide).name}: {10 * tenth} %", err=True)
        elif (line := spoken(event)) is not None:
            click.echo(line, err=True)


class JsonLines:
    """Every event as a JSON object, with its name and the time, added to a file as it happens; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as err:
            raise OutputError(f"log {self._path} can not be written: {err.strerror}; give another") from err
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __call__(self, event: Event) -> None:
        """Write ``event``."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"time": at, "event": type(event).__name__, **asdict(event)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


class Both:
    """Two listeners as one."""

    def __init__(self, first: Listener, second: Listener) -> None:
        self._first, self._second = first, second

    def __call__(self, event: Event) -> None:
        """Tell ``event`` to both."""
        self._first(event)
        self._second(event)


class Bars:
    """Two bars, one over all slides and one for the slide that was begun last; the lines scroll above."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._all = bars.add_task("all slides", total=None)
        self._slide = bars.add_task("", total=None, visible=False)
        self._current = ""

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        match event:
            case RunStarted():
                self._bars.update(self._all, total=event.pixels)
            case SlideStarted():
                self._current = event.slide
                self._bars.reset(
                    self._slide, total=event.pixels_to_do, description=Path(event.slide).name, visible=True
                )
            case BlockDone():
                self._bars.advance(self._all, event.pixels)
                if event.slide == self._current:
                    self._bars.advance(self._slide, event.pixels)
        if (line := spoken(event)) is not None:
            self._bars.console.print(line, markup=False, highlight=False)


class _Speed(ProgressColumn):
    """Megapixels per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{(task.speed or 0) / 1e6:.2f} MP/s")
