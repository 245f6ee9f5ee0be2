"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere, all of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from wsipipe.events import (
    BlockDone,
    Event,
    Listener,
    RunStarted,
    SizesChosen,
    SlideDone,
    SlideFailed,
    SlideSkipped,
    SlideStarted,
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
        case SizesChosen():
            how = f"measured in {event.seconds:.1f} s" if event.seconds else "as measured before"
            return (
                f"{event.engine}, tile {event.tile}, batch {event.batch}, block {event.block}, {event.threads} blocks "
                f"in flight; bare network {event.bare / 1e6:.2f} MP/s with margins, {how}"
            )
        case SlideStarted():
            size = f"{event.pixels_to_do / 1e6:.1f} MP"
            return f"{_name(event)}: {event.blocks_to_do} of {event.blocks} blocks to do, {size}"
        case SlideDone():
            return f"{_name(event)}: done in {event.seconds:.1f} s -> {event.store}"
        case SlideSkipped():
            return f"{_name(event)}: skipped, {event.reason} -> {event.store}"
        case SlideFailed():
            return f"{_name(event)}: FAILED: {event.error}"
        case Warned():
            return f"{_name(event)}: warning: {event.message}"
    return None


def _name(event: SlideStarted | SlideDone | SlideSkipped | SlideFailed | Warned) -> str:
    return Path(event.slide).name


class Lines:
    """Plain lines: every event that is more than a count, and each tenth of a slide."""

    def __init__(self) -> None:
        self._blocks = self._done = 0

    def __call__(self, event: Event) -> None:
        """Say ``event``."""
        if isinstance(event, SlideStarted):
            self._blocks, self._done = event.blocks_to_do, 0
        if isinstance(event, BlockDone):
            self._done += 1
            tenth, before = (10 * done // self._blocks for done in (self._done, self._done - 1))
            if before < tenth < 10:
                click.echo(f"{Path(event.slide).name}: {10 * tenth} %", err=True)
        elif (line := spoken(event)) is not None:
            click.echo(line, err=True)


class Bars:
    """Two bars, one over all slides and one for the current one; the lines scroll above."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._all = bars.add_task("all slides", total=None)
        self._slide = bars.add_task("", total=None, visible=False)

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        match event:
            case RunStarted():
                self._bars.update(self._all, total=event.pixels)
            case SlideStarted():
                self._bars.reset(
                    self._slide, total=event.pixels_to_do, description=Path(event.slide).name, visible=True
                )
            case BlockDone():
                self._bars.advance(self._all, event.pixels)
                self._bars.advance(self._slide, event.pixels)
        if (line := spoken(event)) is not None:
            self._bars.console.print(line, markup=False, highlight=False)


class _Speed(ProgressColumn):
    """Megapixels per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{(task.speed or 0) / 1e6:.2f} MP/s")
