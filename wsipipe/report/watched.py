"""A run as it is watched from Python: in a terminal, or below the cell of a notebook."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from typing import Any

from rich.console import Console
from rich.text import Text

from wsipipe.events import Event, Listener, ignore
from wsipipe.report.progress import REFRESHES, Rows, live
from wsipipe.report.run_line import run_line
from wsipipe.report.run_progress import RunProgress
from wsipipe.report.words import shown_lines

COLUMNS = 100
"""Width of the rows in a notebook, in characters."""
MOST_LINES = 200
"""Lines that stay above the rows in a notebook."""
FRAME = "<pre style='font-family:monospace;line-height:1.3'>{code}</pre>"


@contextmanager
def watched_run(progress: bool | None) -> Iterator[Listener]:
    """A listener that shows a run until the context ends.

    Parameters
    ----------
    progress
        Whether to show it; None: in a terminal and in a notebook, and nowhere else.
    """
    console = Console(stderr=True)
    if progress is None:
        progress = console.is_jupyter or (sys.stderr is not None and sys.stderr.isatty())
    if not progress:
        yield ignore
    elif console.is_jupyter:
        with _NotebookRun(import_module("IPython.display")) as listener:  # which every notebook has
            yield listener
    else:
        with live(RunProgress(), run_line, console) as listener:
            yield listener


class _NotebookRun:
    """A listener that draws lines and rows in one output of a cell, without widgets, several times a second.

    ``display`` is the module of IPython.
    """

    def __init__(self, display: Any) -> None:
        self._view, self._lines = RunProgress(), list[str]()
        self._html: Callable[[str], Any] = display.HTML
        self._output = display.display(self._html(""), display_id=True)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_the_end, name="wsipipe-progress", daemon=True)

    def __call__(self, event: Event) -> None:
        """Hear ``event``."""
        self._view.hear(event)
        if (line := run_line(event)) is not None:
            self._lines = [*self._lines, shown_lines([line])][-MOST_LINES:]

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._draw(rows=False)

    def _draw_until_the_end(self) -> None:
        while not self._ended.wait(1 / REFRESHES):
            self._draw()

    def _draw(self, *, rows: bool = True) -> None:
        """Draw the lines, and the ``rows`` while there are some; rich escapes what it exports."""
        console = Console(file=StringIO(), record=True, width=COLUMNS, force_jupyter=False)
        for line in self._lines:
            console.print(Text(line))
        if rows:
            console.print(Rows(self._view.rows))
        self._output.update(self._html(console.export_html(inline_styles=True, code_format=FRAME)))
