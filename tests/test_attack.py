"""A run with workers lets nobody in: every port that it listens on is attacked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attack import CASES, Target, target


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("attacked")) as run:
        yield run


def test_all_ports_are_on_loopback(run: Target) -> None:
    assert len(run.listening) >= 6, "scheduler, two nannies, two workers, and HTTP"
    assert {address for address, _ in run.listening} == {"127.0.0.1"}


@pytest.mark.parametrize("name", CASES)
def test_nobody_gets_in(run: Target, name: str) -> None:
    assert CASES[name](run) == []
