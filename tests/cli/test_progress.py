"""The progress of a run, as it is shown."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from rich.cells import cell_len
from rich.console import Console

from wsipipe.cli.progress import show_run
from wsipipe.events import (
    BlockDone,
    BlockMeasured,
    Event,
    GpuUnused,
    PrecisionGain,
    RunStarted,
    SizesChosen,
    SlideDone,
    SlideFailed,
    SlideLeft,
    SlideStarted,
    Spent,
    TilesDone,
    TissueFound,
    Warned,
)
from wsipipe.report.progress import LiveListener, Pace, Row, Rows, time_left
from wsipipe.report.run_line import Verbosity, run_line
from wsipipe.report.run_progress import RunProgress

GOOD = "slides/good.tif"
SIZES = SizesChosen("torch", 1024, 1, 2048, 2, 1, bare=3e5, measured=True, seconds=2.0)


def block(slide: str, i: int, computed: int = 1_200_000) -> BlockDone:
    return BlockDone(slide, (0, i), 1_000_000, computed, 0, {0: 1_000_000}, False, Spent())


RUN: list[Event] = [
    RunStarted(blocks=20, pixels=20_000_000, slides=1, model="nuclei", devices=("cpu (EPYC, 2 cores)",)),
    GpuUnused("the CPU computes, though this machine seems to have an NVIDIA GPU"),
    SIZES,
    PrecisionGain("bfloat16", speed=1.96, differing=0.0004),
    SlideFailed("slides/bad[1].tif", "bad[1].tif is a damaged TIFF"),
    SlideStarted(GOOD, "out/good.zarr", blocks=20, blocks_to_do=20, pixels_to_do=20_000_000, work=24_000_000),
    *(block(GOOD, i) for i in range(20)),
    Warned(GOOD, "few nuclei"),
    SlideDone(GOOD, "out/good.zarr", seconds=12.0, pixels=20_000_000),
]


class Screen:
    """A run on a terminal of ``width`` columns, with a clock that is turned by hand."""

    def __init__(self, width: int, *, encoding: str = "utf-8") -> None:
        self.now = 0.0
        self.view = RunProgress(lambda: self.now)
        self.file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        self.console = Console(file=self.file, width=width, force_terminal=False, legacy_windows=False)

    def lines(self) -> list[str]:
        """What is drawn now."""
        buffer = self.file.buffer
        assert isinstance(buffer, io.BytesIO)
        buffer.seek(0)
        buffer.truncate()
        self.console.print(Rows(self.view.rows, lambda: self.now))
        return buffer.getvalue().decode(self.file.encoding).splitlines()

    def each_second(self, events: Iterator[tuple[float, Event]]) -> Iterator[list[str]]:
        """What is drawn each second, while each event happens at its time."""
        for at, event in events:
            while self.now + 1 <= at:
                self.now += 1
                yield self.lines()
            self.view.hear(event)


def course(seconds_a_tile: float = 4.0) -> Iterator[tuple[float, Event]]:
    """Three slides of a run of 40, of 8 blocks with 4 tiles each; a slide's tissue is a half of it."""
    at = 0.0
    yield at, RunStarted(blocks=320, pixels=400_000_000, slides=40)
    yield at + 3, SIZES
    for number in range(3):
        slide = f"slides/CMU-{number}-Small-Region-of-a-slide-with-a-long-name.svs"
        at += 5
        yield at, SlideStarted(slide, "out", blocks=8, blocks_to_do=8, pixels_to_do=10_000_000, work=16_000_000)
        at += 4
        yield at, TissueFound(slide, "brightfield", 0.5, 8_000_000)
        for i in range(8):
            for tile in range(1, 5):
                at += seconds_a_tile * (0.5 + tile % 2)  # they do not end evenly
                yield at, TilesDone(slide, (0, i), 250_000 * tile)
            yield at, block(slide, i, 1_000_000)
            yield at, TilesDone(slide, (0, i), 250_000)  # a report that comes late
        at += 2
        yield at, SlideDone(slide, "out", 1.0, 10_000_000)


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_moves_every_second_and_fits_the_terminal(width: int) -> None:
    screen = Screen(width)
    drawn = list(screen.each_second(course()))
    assert all(len(line) <= width for lines in drawn for line in lines)
    assert all(before != after for before, after in pairwise(drawn))
    under_way = [lines for lines in drawn if len(lines) == 2 and "left" in lines[0]]
    assert len(under_way) > 300
    for slide, every in under_way:
        assert re.match(r". slide \d of 40  CMU-\d", slide)
        assert re.search(r" \d+% ━*─* +0\.\d+ MP/s +\d+ (s|min) left$", slide)
        assert re.search(r"^. all slides .* \d+% ━*─* +0\.\d+ MP/s +(\d+ h \d\d|\d+) min left$", every)
    assert "-:--:--" not in str(drawn)
    shares = [int(found[1]) for lines in drawn if (found := re.search(r"(\d+)%", lines[-1]))]
    assert shares == sorted(shares)
    assert 6 <= shares[-1] <= 8, "3 of 40"
    if width == 120:
        assert "CMU-0-Small-Region-of-a-slide-with-a-long-name.svs" in under_way[0][0]


def test_time_left_is_right_and_does_not_flicker() -> None:
    screen = Screen(100)
    left = [
        (screen.now, int(found[1]))
        for lines in screen.each_second(course(2.0))
        if (found := re.search(r"slide 1 of 40 .* (\d+) s left", lines[0]))
    ]
    end = next(at for at, event in course(2.0) if isinstance(event, SlideDone)) - 2
    assert all(abs(at + seconds - end) < 0.3 * (end - at) + 4 for at, seconds in left[10:])
    rising = sum(after > before for (_, before), (_, after) in pairwise(left))
    assert rising <= len(left) / 10
    assert len(left) > 40, "once there is an estimate, there is always one"


def test_slides_that_overlap_have_a_line_each_and_a_failed_one_none() -> None:
    screen = Screen(120)
    screen.view.hear(RunStarted(blocks=40, pixels=40_000_000, slides=2))
    for name in ("a", "b"):
        screen.view.hear(SlideStarted(f"{name}.tif", name, 20, 20, 20_000_000, 20_000_000))
    assert [line[2:] for line in screen.lines()[:2]] == [
        "slide 1 of 2  a.tif  starting",
        "slide 2 of 2  b.tif  starting",
    ]
    for _ in range(4):
        screen.now += 5
        screen.view.hear(TilesDone("a.tif", (0, 0), int(1e6 * screen.now)))
    assert " 99%" in screen.lines()[0] or "finishing" in screen.lines()[0]
    screen.view.hear(SlideFailed("a.tif", "damaged"))
    b, every = screen.lines()
    assert b[2:] == "slide 2 of 2  b.tif  starting"
    assert "50%" in every
    screen.view.hear(SlideLeft("b.tif", "b", "time is up"))
    assert len(screen.lines()) == 1


def test_a_single_slide_has_one_line_and_says_what_follows_its_blocks() -> None:
    screen = Screen(80)
    for event in RUN[:3]:
        screen.view.hear(event)
    assert "loading the network" in screen.lines()[0]
    for event in RUN[3:-3]:
        screen.now += 1
        screen.view.hear(event)
    (line,) = screen.lines()
    assert re.fullmatch(r". good\.tif +95% ━+─+ +\d\.\d+ MP/s +1 s left", line)
    screen.view.hear(RUN[-3])
    assert [line[2:] for line in screen.lines()] == ["good.tif  finishing"]
    screen.view.hear(RUN[-1])
    assert screen.lines() == []


def test_blocks_that_are_measured_move_it_too() -> None:
    screen = Screen(80)
    screen.view.hear(RunStarted(blocks=0, pixels=0, slides=1))
    screen.view.hear(SlideStarted("a.tif", "a", 10, 0, 0))
    for done in range(1, 6):
        screen.now += 2
        screen.view.hear(BlockMeasured("a.tif", done, 10))
    (line,) = screen.lines()
    assert " 50% " in line
    assert line.endswith("10 s left")


@pytest.mark.parametrize(("encoding", "marks"), [("utf-8", "━"), ("ascii", "=")])
def test_names_of_any_script_and_terminals_without_unicode_keep_the_columns(encoding: str, marks: str) -> None:
    screen = Screen(80, encoding=encoding)
    rows = [Row("大きなスライドの名前" * 4 if marks == "━" else "x" * 60, 0.5), Row("a.tif", 0.25)]
    screen.console.print(Rows(lambda: rows, lambda: 0.0))
    lines = screen.file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert max(map(cell_len, lines)) <= 80
    assert len({cell_len(line[: line.index("%")]) for line in lines}) == 1
    assert all(marks in line for line in lines)


def test_the_speed_is_that_of_the_last_half_minute() -> None:
    pace = Pace(0.0)
    for second in range(1, 101):
        pace.add(2.0, 500.0, float(second))
    assert pace.rate == pytest.approx(2.0, rel=0.05)
    for second in range(101, 301):
        pace.add(1.0, 100.0, float(second))
    assert pace.rate == pytest.approx(1.0, rel=0.05)
    assert pace.left(300.0) == pytest.approx(100.0, rel=0.15)
    assert pace.left(1000.0) == 0.0


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s left"), (59, "59 s left"), (61, "2 min left"), (7500, "2 h 05 min left")]
)
def test_time_left_is_said_shortly(seconds: float, said: str) -> None:
    assert time_left(seconds) == said


def test_lines_scroll_above_the_rows() -> None:
    screen = Screen(80)
    listener = LiveListener(screen.view, run_line, screen.console)
    for event in RUN:
        listener(event)
    printed = screen.file.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "bad[1].tif: FAILED: bad[1].tif is a damaged TIFF\n" in printed
    assert printed.startswith("nuclei on cpu (EPYC, 2 cores): 1 slide, 20.0 MP to do\nwarning: the CPU computes")


Lines = Callable[[Verbosity], list[str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Lines:
    """The lines of `RUN` where there is no terminal."""

    def lines(verbosity: Verbosity) -> list[str]:
        with show_run(verbosity) as listener:
            for event in RUN:
                listener(event)
        shown = capsys.readouterr()
        assert shown.out == ""
        return shown.err.splitlines()

    return lines


def test_elsewhere_there_are_plain_lines_for_each_tenth(said: Lines) -> None:
    lines = said(Verbosity.NORMAL)
    assert lines[:5] == [
        "nuclei on cpu (EPYC, 2 cores): 1 slide, 20.0 MP to do",
        "warning: the CPU computes, though this machine seems to have an NVIDIA GPU",
        "bfloat16 would be 2.0 times as fast here; 0.04% of the labels of a tile differ (--precision bfloat16)",
        "bad[1].tif: FAILED: bad[1].tif is a damaged TIFF",
        "good.tif: 20 of 20 blocks to do, 20.0 MP",
    ]
    assert lines[5:-2] == [f"good.tif: {tenth} %" for tenth in range(10, 100, 10)]
    assert lines[-2:] == ["good.tif: warning: few nuclei", "good.tif: done in 12.0 s -> out/good.zarr"]


def test_each_verbosity_says_what_the_one_before_says_and_more(said: Lines) -> None:
    quiet, normal, verbose = map(said, Verbosity)
    assert quiet == [line for line in normal if "warning" in line or "FAILED" in line]
    assert len(quiet) == 3
    assert [line for line in verbose if line not in normal] == [
        "torch, tile 1024, batch 1, block 2048, 2 blocks in flight; "
        "bare network 0.30 MP/s with margins, measured in 2.0 s"
    ]
    assert [line for line in verbose if line in normal] == normal
