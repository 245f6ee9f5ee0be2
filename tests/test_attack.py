"""A run with workers lets nobody in: every port that it listens on is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.attack import CASES, Target, target


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("attacked")) as run:
        yield run


@pytest.fixture(scope="module")
def got_in(run: Target) -> dict[str, list[str]]:
    """What got in, by case; all are tried at once, for most of their time they wait for an answer."""
    with ThreadPoolExecutor(len(CASES)) as attackers:
        return dict(zip(CASES, attackers.map(lambda case: case(run), CASES.values()), strict=True))


def test_all_ports_are_on_loopback(run: Target) -> None:
    assert len(run.listening) >= 6, "scheduler, two nannies, two workers, and HTTP"
    assert {address for address, _ in run.listening} == {"127.0.0.1"}


@pytest.mark.parametrize("name", CASES)
def test_nobody_gets_in(got_in: dict[str, list[str]], name: str) -> None:
    assert got_in[name] == []
