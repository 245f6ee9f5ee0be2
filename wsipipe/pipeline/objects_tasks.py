"""The tasks that finish the objects of a slide, once its blocks are measured: the table, then the ids of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from distributed import Client, Future

from wsipipe.pipeline.instances import InstancesWork, begin_instances
from wsipipe.pipeline.objects_plan import ObjectsPlan
from wsipipe.pipeline.objects_store import finish_objects


class ObjectsTasks:
    """The tasks of one slide, round by round, on the workers of ``client``.

    Parameters
    ----------
    client
        A client of the workers.
    limit_bytes
        The most memory that joining an outline may take.
    """

    def __init__(self, client: Client, limit_bytes: int) -> None:
        self._client, self._limit_bytes = client, limit_bytes
        self._instances: InstancesWork | None = None

    def rounds(self, plan: ObjectsPlan) -> Iterator[list[Future[Any]]]:
        """Submit the tasks, a round at a time. The results of each round go to `take` before the next one."""
        submit = self._client.submit
        yield [submit(finish_objects, plan, plan.run_block_px, self._limit_bytes, pure=False)]
        yield [submit(_begin, plan, pure=False)]
        if self._instances is None:
            return
        blocks: dict[tuple[int, int], Future[Any]] = {}
        for row, col in product(*map(range, self._instances.blocks)):  # each after the one on its left
            left = blocks.get((row, col - 1))
            blocks[row, col] = submit(self._instances.fill_block, (row, col), left, pure=False)
        yield list(blocks.values())
        yield [submit(self._instances.complete, pure=False)]

    def take(self, result: object) -> None:
        """Keep ``result``, which a task gave, if later rounds need it."""
        if isinstance(result, InstancesWork):
            self._instances = result


def _begin(plan: ObjectsPlan) -> InstancesWork | None:
    """Begin the ids of a store, and sort the edges of outlines into its blocks; None if it needs no ids."""
    work = begin_instances(plan.store.path, wanted=plan.instances)
    if work is not None:
        work.write_edges()
    return work
