"""The few rounds of every run of the tests, and the many of ``python -m pytest -m soak``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

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


def each_value_once(*values: Sequence[object]) -> list[object]:
    """Combinations of values of several parameters: few in which each value is, and all others only with ``-m soak``.

    Each value of the longest list is in one of the few, and each other in one or more. A value that is `in_soak`
    is in none of them.
    """
    one = type(pytest.param())
    sets = [[value if isinstance(value, one) else pytest.param(value) for value in each] for each in values]
    always = [[value for value in each if not value.marks] for each in sets]
    few = [tuple(each[number % len(each)] for each in always) for number in range(max(map(len, always)))]
    return [
        pytest.param(
            *(value for each in chosen for value in each.values),
            id="-".join(str(each.id or each.values[0]) for each in chosen) if any(each.id for each in chosen) else None,
            marks=() if chosen in few else pytest.mark.soak,
        )
        for chosen in product(*sets)
    ]


def examples(count: int) -> int:
    """Examples of a property, of which ``count`` are tried in the profile ``push``; in proportion more in ``deep``."""
    return count * settings().max_examples // PUSH_EXAMPLES
