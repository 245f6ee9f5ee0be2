"""The few rounds of every run of the tests, and the many of ``python -m pytest -m soak``."""

from __future__ import annotations

import pytest
from hypothesis import settings

PUSH_EXAMPLES = 30
"""Examples of a property in the Hypothesis profile ``push`` of `tests.conftest`."""


def rounds(few: object, *many: object) -> list[object]:
    """Values to parametrise a test with: ``few`` always, each of ``many`` only with ``-m soak``."""
    return [few, *(pytest.param(*_tuple(value), marks=pytest.mark.soak) for value in many)]


def _tuple(value: object) -> tuple[object, ...]:
    """The values of one round, of which there may be several."""
    return value if type(value) is tuple else (value,)


def in_soak(*values: object) -> list[object]:
    """Further values of one parameter of a test, each only with ``-m soak``."""
    return [pytest.param(value, marks=pytest.mark.soak) for value in values]


def examples(count: int) -> int:
    """Examples of a property, of which ``count`` are tried in the profile ``push``; in proportion more in ``deep``."""
    return count * settings().max_examples // PUSH_EXAMPLES
