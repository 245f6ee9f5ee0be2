"""The tasks of one slide whose store is finished, and lacks its objects or their ids: measured, then written.

The store keeps its name, and its labels stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from wsipipe.errors import SlideError
from wsipipe.events import BlockMeasured, Listener, ObjectsFound, SlideDone, SlideStarted, Warned
from wsipipe.files import locate
from wsipipe.pipeline.cluster.patience import error_of, result_of
from wsipipe.pipeline.objects_plan import plan_objects_of_run
from wsipipe.pipeline.objects_store import StoreObjects, measure_left, remove_blocks
from wsipipe.pipeline.objects_tasks import ObjectsTasks
from wsipipe.pipeline.plausible import odd_sizes
from wsipipe.pipeline.run_plan import RunPlan
from wsipipe.pipeline.slide_job import AFTER_DEATHS, Futures, Stage
from wsipipe.pipeline.slide_plan import SlidePlan


class MeasureJob:
    """The slide of ``plan``, whose objects the workers of ``client`` measure in its finished store.

    Parameters
    ----------
    plan
        What is to be done.
    run
        The run that it belongs to.
    client
        A client of the workers.
    listener
        Receives the slide's events.

    Raises
    ------
    WsipipeError
        If the store cannot be read.
    """

    def __init__(self, plan: SlidePlan, run: RunPlan, client: Client, listener: Listener) -> None:
        assert run.setup.objects is not None
        self.plan, self.stage = plan, Stage.BLOCKS
        self._client, self._listener, self._started = client, listener, time.perf_counter()
        self._model_sha256 = run.setup.model.sha256
        self._objects = plan_objects_of_run(locate(plan.store.path), run.setup.objects, plan.slide, plan.level)
        grid, measured = plan.grid, self._objects.existing() is not None  # then its counts are missing, or ids
        remove_blocks(plan.store.path, but=self._objects.folder(self._objects.run_block_px))
        self._todo: Iterator[tuple[int, int]] = iter(()) if measured else grid.indices()
        self._in_flight: set[Future[Any]] = set()
        self._measured = 0
        self._tasks = ObjectsTasks(client, run.outline_bytes(plan))
        self._finishing = self._tasks.rounds(self._objects)
        listener(SlideStarted(plan.slide.path, plan.store.path, grid.count, 0, 0))

    def next_tasks(self, most: int) -> Futures:
        """Submit up to ``most`` further tasks: blocks first, then table and ids; see `SlideJob.next_tasks`."""
        futures: Futures = []
        if self.stage is Stage.BLOCKS and most:
            boxes = map(self.plan.grid.block_box, islice(self._todo, most))
            futures = [self._client.submit(measure_left, self._objects, box, pure=False) for box in boxes]
            if not (futures or self._in_flight):
                self.stage = Stage.FINISHING
        if self.stage is Stage.FINISHING and not self._in_flight:
            futures = next(self._finishing, [])
            if not futures:
                slide, store = self.plan.slide.path, self.plan.store.path
                self._listener(SlideDone(slide, store, time.perf_counter() - self._started, 0))
                self.stage = Stage.DONE
        self._in_flight.update(futures)
        return futures

    def record(self, future: Future[Any]) -> None:
        """Record the result of ``future``, one of this job's tasks.

        Raises
        ------
        MachineError
            If the scheduler was lost, or a disk failed; what was measured stays.
        SlideError
            If labels or pixels cannot be read, an outline is too ragged, or workers died each time.
        """
        self._in_flight.discard(future)
        error = error_of(future)
        if isinstance(error, KilledWorker):
            raise SlideError(
                f"{self.plan.slide.file}: the worker died each time that it measured objects; {AFTER_DEATHS}"
            ) from error
        if error is not None:
            raise error
        result = result_of(future)
        self._tasks.take(result)
        if self.stage is Stage.BLOCKS:
            self._measured += 1
            self._listener(BlockMeasured(self.plan.slide.path, self._measured, self.plan.grid.count))
        if isinstance(result, StoreObjects):
            self._listener(ObjectsFound(self.plan.slide.path, result.table, result.classes))
            for message in odd_sizes(self.plan.slide, self._model_sha256, result.classes):
                self._listener(Warned(self.plan.slide.path, message))
        future.release()

    def cancel(self) -> set[Future[Any]]:
        """Cancel the tasks in flight, and return them."""
        in_flight, self._in_flight = self._in_flight, set()
        self._client.cancel(list(in_flight))
        return in_flight
