"""The progress of a run or a training, shown on stderr: rows that move on a terminal, plain lines elsewhere.

`show_events` is the mechanism; the line of an event, and the rows, are given to it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self, TextIO, TypeVar

import click
from rich.console import Console

from wsipipe.cli.streams import why_untold
from wsipipe.cli.terminal import terminal
from wsipipe.events import BlockDone, BlockMeasured, Event, Listener, SlideStarted, TilesDone
from wsipipe.report.progress import View, live
from wsipipe.report.run_line import Verbosity, name_of, run_line
from wsipipe.report.run_progress import RunProgress
from wsipipe.report.words import shown_lines

E = TypeVar("E")


@contextmanager
def show_events(
    line: Callable[[E], str | None],
    *,
    milestone: Callable[[E], str | None],
    view: View[E],
    verbosity: Verbosity = Verbosity.NORMAL,
) -> Iterator[Callable[[E], None]]:
    """A listener that shows events on stderr until the context ends.

    Parameters
    ----------
    line
        Gives the line of an event; None for one that only moves a row.
    milestone
        Gives the line that an event adds where there are no rows, such as a slide's next tenth; None for most events.
    view
        Gives the rows that move.
    verbosity
        Quiet: neither rows nor milestones, but what ``line`` still says.
    """
    if verbosity == Verbosity.QUIET:
        yield plain_lines(line, lambda _: None)
    elif not sys.stderr.isatty():
        yield plain_lines(line, milestone)
    else:
        with live(view, line, Console(file=terminal())) as listener:
            yield listener


def plain_lines(line: Callable[[E], str | None], milestone: Callable[[E], str | None]) -> Callable[[E], None]:
    """A listener that writes the ``line`` and the ``milestone`` of each event to stderr."""

    def listener(event: E) -> None:
        for text in (line(event), milestone(event)):
            if text is not None:
                click.echo(shown_lines([text]), err=True)

    return listener


def show_run(verbosity: Verbosity = Verbosity.NORMAL) -> AbstractContextManager[Listener]:
    """A listener that shows a run on stderr until the context ends: rows, or a line for each tenth of a slide."""
    said = partial(run_line, verbosity=verbosity)
    return show_events(said, milestone=Tenths(), view=RunProgress(), verbosity=verbosity)


class Tenths:
    """The milestones of a run: a line for each tenth of a slide, such as ``x.tif: 30 %``."""

    def __init__(self) -> None:
        self._blocks: dict[str, int] = {}
        self._done: Counter[str] = Counter()

    def __call__(self, event: Event) -> str | None:
        """Count ``event``, and return the line of the tenth that it completes. The last one is a `SlideDone`."""
        if isinstance(event, BlockMeasured):
            return tenth_line(name_of(event), event.done, event.blocks)
        if isinstance(event, SlideStarted):
            self._blocks[event.slide] = event.blocks_to_do
        if not isinstance(event, BlockDone):
            return None
        self._done[event.slide] += 1
        done, blocks = self._done[event.slide], self._blocks[event.slide]
        return tenth_line(name_of(event), done, blocks)


def tenth_line(name: str, done: int, blocks: int) -> str | None:
    """The line of the tenth that block number ``done`` of ``blocks`` completes, but for the last; None for most."""
    tenth, before = (10 * count // blocks for count in (done, done - 1))
    return f"{name}: {10 * tenth} %" if 0 <= before < tenth < 10 else None


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
        if self.problem or isinstance(event, TilesDone):  # what tiles add up to is in the lines of their blocks
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
