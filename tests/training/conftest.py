"""For the tests of trainings: processes that start at once."""

from __future__ import annotations

import multiprocessing
from functools import wraps
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

from tests.training.discs import write_discs
from tests.warm import CONTEXT


@pytest.fixture(autouse=True)
def _processes_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork processes from one that has imported torch, instead of spawning them; those of commands still spawn."""
    forkserver.ensure_running()
    asked = multiprocessing.get_context

    @wraps(asked)
    def context(method: str | None = None) -> BaseContext:
        return CONTEXT if method == "spawn" else asked(method)

    monkeypatch.setattr(multiprocessing, "get_context", context)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four images of discs."""
    return write_discs(tmp_path_factory.mktemp("discs"))
