"""Nights for the tests: their files, the content of their inboxes, and their reports."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from wsipipe.inference import speeds as speeds_module
from wsipipe.nightly.config import Night, read_night
from wsipipe.pipeline import block_tasks
from wsipipe.report.record import NightReport, SlideReport, read_report

HOUR, DAY = 3600.0, 86400.0
SMALL = "[run]\ndevice = 'cpu,cpu'\nengine = 'torch'\nblock = 64\ntile = 64\nthreads = 2\ntissue = 'off'\n"
"""The table of a night whose slides have some hundred pixels; two replicas with a core each, and no tissue mask."""


def write_night(path: Path, *, tables: str = SMALL, **keys: Any) -> Path:
    """Write the file of a night: top-level ``keys``, which are strings, numbers or lists of them, then ``tables``."""
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()) + tables)
    return path


def night_of(folder: Path, model: Path, *, tables: str = SMALL, **keys: Any) -> Night:
    """The night of ``folder/night.toml``, of the slides in ``folder/in`` into ``folder/out``."""
    given = {"inbox": ["in"], "out": "out", "model": str(model)} | keys
    return read_night(write_night(folder / "night.toml", tables=tables, **given))


class Clock:
    """A clock that moves only when it is set, or when somebody sleeps by it."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() + DAY if now is None else now  # so that files of the test were left alone for long

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def rows(report: NightReport | Path, *, parts: int = 1) -> dict[str, SlideReport]:
    """The slides of a report, or of the ``report.json`` in a folder, by this many of the last parts of their paths."""
    told = read_report(report / "report.json") if isinstance(report, Path) else report
    by_name = {"/".join(Path(row.slide).parts[-parts:]): row for row in told.slides}
    assert len(by_name) == len(told.slides), "each slide has one row"
    return by_name


def statuses(report: NightReport | Path, *, parts: int = 1) -> dict[str, str]:
    """The status of each slide."""
    return {name: row.status for name, row in rows(report, parts=parts).items()}


def listing(*folders: Path) -> dict[str, tuple[int, int, int, str]]:
    """Everything under ``folders``: inode, size and time of change of each entry, and the digest of each file."""
    found = {}
    for folder in folders:
        for path in (folder, *sorted(folder.rglob("*"))):
            there = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path)] = (there.st_ino, there.st_size, there.st_mtime_ns, content)
    return found


def log_rows(path: Path) -> list[dict[str, Any]]:
    """The events of a log file: each line is a JSON object, the last one too."""
    text = path.read_text()
    assert text.endswith("\n")
    found = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(row, dict) for row in found)
    return found


def events(found: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [row for row in found if row["event"] == name]


def set_age(path: Path, seconds: float, clock: Clock) -> None:
    """Set the time of change of ``path`` to ``seconds`` before ``clock``'s now."""
    os.utime(path, (clock() - seconds,) * 2)


def blocks_take(seconds: float, side_px: int, patch: pytest.MonkeyPatch) -> None:
    """Let each block whose tile has ``side_px`` claim to take ``seconds``, and the network be as fast as that.

    The clock of the night is not moved: the test's listener does that with each block.
    """
    predict = block_tasks.predict_block

    def slow(*arguments: Any) -> Any:
        block = predict(*arguments)
        block.spent.wait += seconds
        return block

    patch.setattr(block_tasks, "predict_block", slow)
    patch.setattr(speeds_module, "speed_of", lambda *_: side_px**2 / seconds)
    patch.setattr(speeds_module, "remember", lambda *_: None)
    patch.setattr(speeds_module, "recall", lambda *_: {})
