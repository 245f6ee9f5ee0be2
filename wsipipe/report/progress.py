"""Progress as rows, and how they are drawn: in a terminal, or below the cell of a notebook.

::

    slide 2 of 40  CMU-1-Small-Region.svs   63% ━━━━━━━━━━━━━━──────── 0.31 MP/s  40 s left
    all slides                               4% ━───────────────────── 0.31 MP/s  2 h 05 min left

A view, such as `RunProgress`, hears events and gives `Row` s; `live` draws them several times a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.text import Text

from wsipipe.report.words import shortened, shown_lines

E = TypeVar("E")
E_in = TypeVar("E_in", contravariant=True)
Clock = Callable[[], float]
"""Seconds since any moment."""
SMOOTH_SECONDS = 30.0
"""Time over which a speed is smoothed: some tiles of a CPU, each of which takes seconds."""
SURE_SECONDS = 2.0
"""No time left is said before a work has taken this long."""
DEAD_BAND = 0.1
"""An estimate of the end stays as it is while new ones differ by less than this share of the time left."""
REFRESHES = 4
"""Drawings a second."""
SPINNERS, BARS = {False: "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", True: "|/-\\"}, {False: "━─", True: "=-"}
CUTS = {False: "…", True: "~"}
"""For terminals with Unicode (False), and without."""
LEAST_BAR = 12
"""The fewest columns of a bar; names may take the others that numbers leave."""
LEAST_COLUMNS = len("0.310 MP/s"), len("12 min left")
"""Least widths of the columns behind the bar, so that it keeps its own when they are filled."""


@dataclass(frozen=True)
class Row:
    """One line of progress."""

    name: str
    """Of the work; it is cut in the middle where there is no space."""
    share: float | None = None
    """What is done, 0 to 1; None while that is unknown."""
    note: str = ""
    """What is being done, if there is no share; else something to say after the bar, such as the speed."""
    left: float | None = None
    """Seconds until the end; None while that is unknown."""
    number: str = ""
    """Such as ``slide 2 of 40``, in front of the name."""


class View(Protocol[E_in]):
    """What hears events, and says how far the work is."""

    def hear(self, event: E_in) -> None:
        """Take ``event`` into account."""

    def rows(self) -> Sequence[Row]:
        """What is under way now; called by another thread."""


class Pace:
    """The speed of a work that advances in lumps, and when it will end.

    The speed is a mean over the past, whose weights fall by e every `SMOOTH_SECONDS`.
    """

    def __init__(self, now: float) -> None:
        self._began = self._last = now
        self._weighted, self._lumps = 0.0, 0
        self._end: float | None = None
        self.rate = 0.0
        """Amount a second."""

    def add(self, amount: float, left: float, now: float) -> None:
        """Note that ``amount`` was done, and ``left`` of it are to do."""
        self._weighted = self._weighted * math.exp((self._last - now) / SMOOTH_SECONDS) + amount
        self._last, self._lumps = now, self._lumps + 1
        span = SMOOTH_SECONDS * -math.expm1((self._began - now) / SMOOTH_SECONDS)
        self.rate = self._weighted / span if span > 0 else 0.0
        if self.rate and self._lumps > 1 and now - self._began >= SURE_SECONDS:
            seconds = left / self.rate
            if self._end is None or abs(now + seconds - self._end) > DEAD_BAND * seconds:
                self._end = now + seconds

    def left(self, now: float) -> float | None:
        """Seconds until the end; None where nothing can be said yet."""
        return None if self._end is None else max(0.0, self._end - now)


def time_left(seconds: float) -> str:
    """``2 h 05 min left``, ``12 min left`` or ``40 s left``."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s left"
    minutes = math.ceil(whole / 60)
    return f"{minutes} min left" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min left"


class Rows:
    """The ``rows`` of a view, as rich draws them: columns of numbers, and bars in the space that is left."""

    def __init__(self, rows: Callable[[], Sequence[Row]], clock: Clock = time.monotonic) -> None:
        self._rows, self._clock = rows, clock

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw them in the width of the console."""
        if not (rows := list(self._rows())):
            return
        if plain := options.ascii_only:
            rows = [replace(row, name=row.name.encode("ascii", "backslashreplace").decode()) for row in rows]
        spinner = SPINNERS[plain][int(self._clock() * REFRESHES) % len(SPINNERS[plain])]
        ends = [[row.note if row.share is not None else "", _left(row)] for row in rows]
        widths = [max(least, *(cell_len(end[i]) for end in ends)) for i, least in enumerate(LEAST_COLUMNS)]
        number = max(cell_len(row.number) for row in rows)
        fixed = 2 + number + 2 * (number > 0) + sum(width + 2 for width in widths) + len("  100% ")
        free = max(options.max_width - fixed, 2 * LEAST_BAR)
        name = min(max(cell_len(row.name) for row in rows), free - LEAST_BAR)
        for row, end in zip(rows, ends, strict=True):
            line = Text(f"{spinner} ", no_wrap=True, overflow="crop")
            if number:
                line.append(f"{row.number:{number}}  ")
            line.append(_padded(row.name, name, CUTS[plain]))
            if row.share is None:
                line.append(f"  {row.note}")
            else:
                line.append(f"  {math.floor(100 * row.share):3d}% ")
                _append_bar(line, row.share, free - name, BARS[plain])
                for text, width in zip(end, widths, strict=True):
                    line.append(f"  {' ' * (width - cell_len(text))}{text}")
            line.truncate(options.max_width)
            yield line


def _left(row: Row) -> str:
    return "" if row.left is None else time_left(row.left)


def _append_bar(line: Text, share: float, columns: int, marks: str) -> None:
    full = int(columns * share)
    line.append(marks[0] * full, "bar.complete")
    line.append(marks[1] * (columns - full), "bar.back")


def _padded(text: str, columns: int, cut_mark: str) -> str:
    """``text`` in exactly so many ``columns``, cut if it must be; letters of some scripts take two."""
    length = columns
    while cell_len(cut := shortened(text, max(1, length))) > columns and length > 1:
        length -= 1
    cut = cut if cut == text else cut.replace("…", cut_mark)
    return cut + " " * (columns - cell_len(cut))


class LiveListener(Generic[E]):
    """A listener that moves a ``view``, and lets the ``line`` of each event scroll above it on ``console``."""

    def __init__(self, view: View[E], line: Callable[[E], str | None], console: Console) -> None:
        self._view, self._line, self._console = view, line, console

    def __call__(self, event: E) -> None:
        """Hear ``event``."""
        self._view.hear(event)
        if (text := self._line(event)) is not None:
            self._console.print(shown_lines([text]), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def live(view: View[E], line: Callable[[E], str | None], console: Console) -> Iterator[LiveListener[E]]:
    """A listener whose ``view`` is drawn on ``console`` until the context ends, and then vanishes; lines stay."""
    with Live(Rows(view.rows), console=console, refresh_per_second=REFRESHES, transient=True):
        yield LiveListener(view, line, console)
