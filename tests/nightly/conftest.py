"""Shared by the tests of nights."""

from __future__ import annotations

import pytest

from wsipipe.report import write


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw one picture a report: they take longer than these slides, and are tested in `tests.report`."""
    monkeypatch.setattr(write, "MAX_PICTURES", 1)
