"""A run in Python shows its progress where someone watches it: in a terminal, or below the cell of a notebook."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import wsipipe
from tests.conftest import WriteSlide

HOSTILE = "<b>a\x1b[2J.tif"


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, write_slide: WriteSlide) -> Callable[..., wsipipe.RunSummary]:
    slide = write_slide(tmp_path / HOSTILE)
    config = wsipipe.RunConfig(out=str(tmp_path / "out"), model=str(tiny_model), device="cpu", block=64, tile=64)
    return lambda **options: wsipipe.run([slide], config, **options)


@pytest.mark.parametrize(
    ("options", "shown"), [({}, True), ({"progress": False}, False), ({"listener": lambda _: None}, False)]
)
def test_a_terminal_shows_a_run_unless_someone_else_listens(
    options: dict[str, Any], shown: bool, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run(**options).exit_code == 0
    assert (r"<b>a\x1b[2J.tif: done in" in terminal.getvalue()) == shown
    assert bool(terminal.getvalue()) == shown


def test_elsewhere_nothing_is_shown_unless_asked(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert capsys.readouterr() == ("", "")
    assert run(progress=True).exit_code == 0
    assert "skipped" in capsys.readouterr().err


class Notebook:
    """What a kernel of Jupyter has: the shell that rich looks for, and one output that is drawn anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: list[str] = []
        shell = type("ZMQInteractiveShell", (), {})()
        monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
        module = ModuleType("IPython.display")
        module.__dict__.update(HTML=str, display=self.display)
        monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
        monkeypatch.setitem(sys.modules, "IPython.display", module)

    def display(self, shown: str, *, display_id: bool) -> Any:
        assert display_id
        self.drawn.append(shown)
        return SimpleNamespace(update=self.drawn.append)


def test_a_notebook_shows_a_run_in_one_output(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(monkeypatch)
    assert run().exit_code == 0
    assert r"&lt;b&gt;a\x1b[2J.tif: done in" in notebook.drawn[-1]
    assert not any("<b>" in drawn or "\x1b" in drawn for drawn in notebook.drawn)
    assert capsys.readouterr() == ("", "")
