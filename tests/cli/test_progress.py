"""The progress of a run, as it is shown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from wsipipe.cli.progress import RunBars, lines_above_bars, run_columns, run_line, show_run
from wsipipe.events import BlockDone, Event, PrecisionGain, RunStarted, SlideDone, SlideFailed, SlideStarted, Spent

RUN: list[Event] = [
    RunStarted(blocks=20, pixels=20_000_000),
    PrecisionGain("bfloat16", speed=1.96, differing=0.0004),
    SlideFailed("slides/bad[1].tif", "bad[1].tif is a damaged TIFF"),
    SlideStarted("slides/good.tif", "out/good.zarr", blocks=20, blocks_to_do=20, pixels_to_do=20_000_000),
    *(BlockDone("slides/good.tif", (0, i), 1_000_000, 1_200_000, 0, {0: 1_000_000}, False, Spent()) for i in range(20)),
    SlideDone("slides/good.tif", "out/good.zarr", seconds=12.0, pixels=20_000_000),
]


def test_a_terminal_shows_all_slides_the_current_one_speed_and_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Progress(*run_columns(), console=console, auto_refresh=False) as display:
        listener = lines_above_bars(display, run_line, RunBars(display))
        for event in RUN:
            listener(event)
            display.refresh()
        done = {task.description: (task.completed, task.total) for task in display.tasks}
    assert done == {"all slides": (20_000_000, 20_000_000), "good.tif": (20_000_000, 20_000_000)}
    for text in ("all slides", "good.tif", "MP/s", "left", "bad[1].tif: FAILED: bad[1].tif is a damaged TIFF"):
        assert text in screen.getvalue()


def test_elsewhere_there_are_plain_lines_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with show_run() as listener:
        for event in RUN:
            listener(event)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[:3] == [
        "bfloat16 would be 2.0 times as fast here; 0.04% of the labels of a tile differ (--precision bfloat16)",
        "bad[1].tif: FAILED: bad[1].tif is a damaged TIFF",
        "good.tif: 20 of 20 blocks to do, 20.0 MP",
    ]
    assert lines[3:-1] == [f"good.tif: {tenth} %" for tenth in range(10, 100, 10)]
    assert lines[-1] == "good.tif: done in 12.0 s -> out/good.zarr"
