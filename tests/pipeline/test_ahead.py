from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsipipe.pipeline.ahead import map_ahead


@pytest.mark.parametrize(("items", "ahead"), [(0, 1), (1, 3), (3, 3), (20, 1), (20, 3)])
def test_results_come_in_order_and_items_are_drawn_as_they_are_needed(items: int, ahead: int) -> None:
    drawn: list[int] = []

    def draw() -> Iterator[int]:
        for item in range(items):
            drawn.append(item)
            yield item

    with ThreadPoolExecutor(2) as pool:
        found = []
        for result in map_ahead(pool, lambda item: item * item, draw(), ahead=ahead):
            found.append(result)
            assert len(drawn) - len(found) < ahead
    assert found == [item * item for item in range(items)]


def test_an_error_is_raised_where_its_result_would_have_come() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, lambda item: 1 // item, [2, 1, 0, 1], ahead=3)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
