"""For the tests of trainings: processes that start at once."""

from __future__ import annotations

import multiprocessing
from functools import wraps
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

import pytest

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
