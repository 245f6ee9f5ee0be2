"""Nothing of a file's name or content acts on the terminal, whoever prints it."""

from __future__ import annotations

import io
import logging
import sys
import traceback
import unicodedata
from pathlib import Path
from typing import TextIO, cast

import pytest
from rich.console import Console

from tests.conftest import Call, WriteSlide
from wsipipe.cli.progress import plain_lines
from wsipipe.cli.terminal import Escaping, escaped_output, terminal
from wsipipe.events import Event, SlideFailed, SlideStarted
from wsipipe.report.progress import LiveListener, Rows
from wsipipe.report.run_line import run_line
from wsipipe.report.run_progress import RunProgress

HOSTILE = "a\x1b[2J\x9b31m\x07\r\nwsipipe: 9 done\u202e[red].tif"
"""Clears the screen, turns red, beeps, begins a line that wsipipe did not write, and runs backwards."""


def acting(text: str) -> set[str]:
    """The characters of ``text`` that a terminal obeys, but for line ends and tabs."""
    return {c for c in text if c in "\u202e" or (unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t")}


@pytest.fixture
def hostile(tmp_path: Path, write_slide: WriteSlide) -> Path:
    return write_slide(tmp_path / "slides" / HOSTILE)


def test_a_run_over_a_file_of_a_hostile_name(hostile: Path, tmp_path: Path, tiny_model: Path, call: Call) -> None:
    bad = hostile.with_name(f"bad{HOSTILE}")
    bad.write_bytes(b"\x1b[31mnot a slide")
    given = ["run", hostile, bad, "-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu", "--threads", 1]
    for more in ([], ["--dry-run"], ["--json"]):
        ended = call(*given, *more)
        assert acting(ended.out) | acting(ended.err) == set()
        assert "\nwsipipe: 9 done" not in ended.out + ended.err, "no line begins with what the name says"
        assert "\\x1b[2J" in ended.err + ended.out


@pytest.mark.parametrize("command", [["info"], ["info", "--pixels"], ["preview"], ["run", "--tile"], ["nightly"]])
def test_other_commands_over_a_hostile_name(
    hostile: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where `preview` puts its picture
    ended = call(*command, hostile)
    assert acting(ended.out) | acting(ended.err) == set()


def test_a_night_over_a_hostile_name(
    hostile: Path, tmp_path: Path, tiny_model: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsipipe.nightly.night.INBOX_SECONDS", 0)
    hostile.with_name(f"bad{HOSTILE}").write_bytes(b"not a slide")
    night = tmp_path / "night.toml"
    inbox, out = str(hostile.parent), str(tmp_path / "out")
    night.write_text(
        f'inbox = ["{inbox}"]\nout = "{out}"\nmodel = "{tiny_model}"\nsettle = "0s"\n[run]\ndevice = "cpu"'
    )
    for more in (["--dry-run"], []):
        ended = call("nightly", night, *more)
        assert acting(ended.out) | acting(ended.err) == set()
        assert "\nwsipipe: 9 done" not in ended.out + ended.err


def test_what_others_print_is_escaped_too(capsys: pytest.CaptureFixture[str]) -> None:
    with escaped_output():
        handler = logging.StreamHandler(sys.stderr)
        handler.emit(logging.makeLogRecord({"msg": "logged \x1b[2J"}))
        traceback.print_exception(ValueError("raised \x1b[2J"))
        sys.stdout.writelines(["written \x1b[2J\n"])
        assert isinstance(sys.stderr, Escaping)
        assert not isinstance(terminal(), Escaping), "bars need the terminal itself"
    printed = capsys.readouterr()
    assert acting(printed.out + printed.err) == set()
    assert (printed.out + printed.err).count("\\x1b[2J") == 3


def test_bars_show_a_hostile_name_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [
        SlideStarted(f"slides/{HOSTILE}", "out/a.zarr", blocks=2, blocks_to_do=2, pixels_to_do=200),
        SlideFailed(f"slides/{HOSTILE}", f"{HOSTILE} is damaged"),
    ]
    screen = io.StringIO()
    console = Console(file=screen, width=200)  # without colours: whatever acts on a terminal is the name's
    view = RunProgress()
    listener = LiveListener(view, run_line, console)
    for event in events:
        listener(event)
        console.print(Rows(view.rows))
    plain = plain_lines(run_line, lambda _: None)
    for event in events:
        plain(event)
    for text in (screen.getvalue(), capsys.readouterr().err):
        assert acting(text) == set()
        assert "[red].tif" in text
        assert "\nwsipipe: 9 done" not in text


def test_a_stream_is_else_the_one_beneath() -> None:
    beneath = io.StringIO()
    stream = cast(TextIO, Escaping(beneath))
    assert stream.write("a\x1bb\n") == 4
    assert (beneath.getvalue(), stream.isatty()) == ("a\\x1bb\n", False)


def test_what_the_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="iso8859-1", write_through=True))
    with escaped_output():
        sys.stdout.writelines(["Gewebe-\u4e2d 0.5 \xb5m\n"])
    assert written.getvalue() == b"Gewebe-\\u4e2d 0.5 \xb5m\n"
