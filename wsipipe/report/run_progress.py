"""The progress of a run: a row for each slide that is under way, and one for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from wsipipe.events import (
    BlockDone,
    BlockMeasured,
    Event,
    RunStarted,
    SizesChosen,
    SlideDone,
    SlideEmpty,
    SlideFailed,
    SlideLeft,
    SlideStarted,
    SlideTaken,
    TilesDone,
    TissueFound,
)
from wsipipe.report.progress import Clock, Pace, Row
from wsipipe.report.run_line import name_of
from wsipipe.report.words import amount, shown_lines

MOST_ROWS = 8
"""Most slides that have a row; of tiny ones more may be under way."""


@dataclass
class _Slide:
    """A slide that is under way. Its work is counted in pixels through the network, or in blocks that are measured."""

    name: str
    number: int
    pixels: int
    """Pixels of the blocks to do."""
    pace: Pace
    work: float = 0.0
    """All of the work."""
    done: float = 0.0
    stage: str = "starting"
    """What is being done, while no share of the work is known."""
    blocks: dict[tuple[int, int], int] = field(default_factory=dict)
    """The work that is done in each block; reports of tiles may arrive after the block's end."""

    @property
    def share(self) -> float | None:
        """Share of the work that is done; None before it begins, and once only what follows is left."""
        return None if self.stage else self.done / self.work


class RunProgress:
    """A `View` of a run. ``clock`` gives seconds."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._slides: dict[str, _Slide] = {}  # those that are under way
        self._begun = self._ended = 0
        self._count = self._pixels = 0
        self._stage = "planning"
        self._pace: Pace | None = None  # of all slides
        self._done = self._known = 0.0  # work that is done, and all work of the slides of which it is known
        self._typical = (0.0, 0)  # (work, pixels) of slides, from which that of the others is estimated
        self._unknown_pixels = 0  # of these others
        self._shown = 0.0

    def hear(self, event: Event) -> None:
        """Take ``event`` into account."""
        with self._lock:
            self._hear(event)

    def _hear(self, event: Event) -> None:
        now = self._clock()
        match event:
            case RunStarted():
                self._count, self._stage = event.slides, "measuring the network's speed"
                self._pixels = self._unknown_pixels = event.pixels
            case SizesChosen():
                self._stage = "loading the network"
            case SlideStarted():
                self._begun += 1
                slide = _Slide(shown_lines([name_of(event)]), self._begun, event.pixels_to_do, Pace(now), event.work)
                self._slides[event.slide] = slide
                if event.pixels_to_do and not event.work:
                    slide.stage = "finishing"
            case TissueFound() if event.slide in self._slides:
                slide = self._slides[event.slide]
                slide.work, slide.pace = event.work, Pace(now)
                self._start(slide, now)
            case TilesDone() | BlockDone() if event.slide in self._slides:
                self._advance(self._slides[event.slide], event, now)
            case BlockMeasured() if event.slide in self._slides:
                slide = self._slides[event.slide]
                slide.stage, slide.work = "" if event.done < event.blocks else "finishing", event.blocks
                slide.pace.add(event.done - slide.done, event.blocks - event.done, now)
                slide.done = event.done
            case SlideDone() | SlideEmpty() | SlideFailed() | SlideLeft() | SlideTaken():
                self._end(event.slide)

    def _start(self, slide: _Slide, now: float) -> None:
        """Count the work of ``slide``, which is known now."""
        slide.stage = "" if slide.work else "finishing"
        self._known += slide.work
        self._typical = self._typical[0] + slide.work, self._typical[1] + slide.pixels
        self._unknown_pixels -= slide.pixels
        self._pace = self._pace or Pace(now)

    def _advance(self, slide: _Slide, event: TilesDone | BlockDone, now: float) -> None:
        """Count the pixels of a block that went through the network since it was last heard of."""
        if slide.stage == "starting":  # without a tissue mask
            self._start(slide, now)
        before = slide.blocks.get(event.index, 0)
        more = event.computed - before
        if more <= 0 or not slide.work:
            return
        slide.blocks[event.index] = event.computed
        slide.done = min(slide.work, slide.done + more)
        self._done += more
        slide.pace.add(more, slide.work - slide.done, now)
        assert self._pace is not None
        self._pace.add(more, max(0.0, self._expected - self._done), now)
        if slide.done >= slide.work:
            slide.stage = "finishing"

    def _end(self, path: str) -> None:
        """Forget a slide; what it did not do, nobody will."""
        slide = self._slides.pop(path, None)
        if slide is None:
            return
        self._ended += 1
        if slide.stage == "starting":
            self._unknown_pixels -= slide.pixels
        elif slide.pixels:
            self._known -= slide.work - slide.done

    @property
    def _expected(self) -> float:
        """The work of all slides: that of those whose tissue is known, and as much a pixel of the others."""
        work, pixels = self._typical
        return self._known + (self._unknown_pixels * work / pixels if pixels else 0.0)

    def rows(self) -> Sequence[Row]:
        """A row for each slide under way, and one for all of them if there are several."""
        with self._lock:
            now = self._clock()
            rows = [self._row(slide, now) for slide in list(self._slides.values())[:MOST_ROWS]]
            if self._count > 1 or not self._begun:
                rows.append(self._row_of_all(now))
            return rows

    def _row(self, slide: _Slide, now: float) -> Row:
        number = f"slide {slide.number} of {self._count}" if self._count > 1 else ""
        if slide.share is None:
            return Row(slide.name, note=slide.stage, number=number)
        speed = _speed(slide.pace.rate * slide.pixels / slide.work)
        return Row(slide.name, slide.share, speed, slide.pace.left(now), number)

    def _row_of_all(self, now: float) -> Row:
        """The row of all slides, whose share never falls, though the work of some is only estimated."""
        if not self._begun:
            return Row("", note=self._stage)
        if self._pace is None or not self._expected:
            parts = sum(slide.share or 0.0 for slide in self._slides.values())
            share, speed, left = (self._ended + parts) / max(1, self._count), "", None
        else:
            share, left = self._done / self._expected, self._pace.left(now)
            speed = _speed(self._pace.rate * self._pixels / self._expected)
        self._shown = min(1.0, max(self._shown, share))
        return Row("", self._shown, speed, left, "all slides")


def _speed(pixels_per_second: float) -> str:
    """The speed in words; nothing while there is none."""
    return f"{amount(pixels_per_second)}/s" if pixels_per_second else ""
