"""Place of the real slides that some tests need: ``WSIPIPE_TEST_DATA``, or ``../shared/data`` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_folder = Path(os.environ.get("WSIPIPE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
DATA: Path | None = _folder.resolve() if _folder.is_dir() else None
needs_data = pytest.mark.skipif(DATA is None, reason=f"no real slides at {_folder} (set WSIPIPE_TEST_DATA)")


CASES: Path | None = DATA.parent / "cases" if DATA and (DATA.parent / "cases").is_dir() else None
needs_cases = pytest.mark.skipif(CASES is None, reason="no folder of cases beside the real slides")


def case(name: str) -> Path:
    """The path of a small input that once went wrong; only for tests that are marked."""
    assert CASES is not None
    return CASES / name


def real(*names: str, marks: tuple[pytest.MarkDecorator, ...] = ()) -> list[object]:
    """Parameters for a test over real files: their paths within the data, skipped where there are none."""
    return [pytest.param(name, marks=(needs_data, *marks), id=name.split("/")[-1]) for name in names]


def data(name: str) -> Path:
    """The path of one of them; only for tests that are marked."""
    assert DATA is not None
    return DATA / name
