"""The tasks of one slide, in order: its tissue, its blocks, its coarser levels; then its store gets its name."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from distributed import Client, Future
from distributed.scheduler import KilledWorker

from wsipipe.errors import ChannelError, SlideError, SlideReadError
from wsipipe.events import BlockDone, Listener, ObjectsFound, SlideDone, SlideEmpty, SlideStarted, TissueFound, Warned
from wsipipe.inference.block import BlockWork
from wsipipe.inference.work import work_of
from wsipipe.pipeline.block_tasks import Index, StoreWork, count_block, is_blank, store_block
from wsipipe.pipeline.cluster.patience import error_of, result_of
from wsipipe.pipeline.graph import map_blocks, tasks_of
from wsipipe.pipeline.history import approximate_text, history_of
from wsipipe.pipeline.instances import remove_unfinished
from wsipipe.pipeline.objects_plan import ObjectsPlan, plan_objects_of_run
from wsipipe.pipeline.objects_store import StoreObjects, remove_blocks
from wsipipe.pipeline.objects_tasks import ObjectsTasks
from wsipipe.pipeline.plausible import little_found, odd_sizes, stain_conflict
from wsipipe.pipeline.run_plan import RunPlan
from wsipipe.pipeline.slide_plan import SlidePlan
from wsipipe.pipeline.slide_seen import look
from wsipipe.pipeline.summary import Outcomes
from wsipipe.pipeline.tissue_tasks import TISSUE_PRIORITY, TissueFinding, submit_tissue
from wsipipe.store import content, lifecycle
from wsipipe.store.spec import OBJECTS_TABLE, Seen, coarse_chunks
from wsipipe.tissue.detect import BLANK

MOST_LISTED = 20
"""Regions that a message lists."""
Futures = list["Future[Any]"]  # quoted: in distributed of April 2025 it has no type parameter
TISSUE_ATTEMPTS = 3
"""Attempts to find the tissue of a slide while workers die: a block that kills them is set aside with the third."""
AFTER_DEATHS = "check the worker logs, give the workers more memory, then repeat the run"
NO_TISSUE_FOUND = "no tissue found, nothing segmented; to segment the whole slide: --tissue off --overwrite"
NO_TISSUE_IN_REGION = "no tissue found in the region, nothing segmented; to segment all of it: --tissue off --overwrite"


class Stage(Enum):
    """Stage of a slide's tasks."""

    TISSUE = auto()
    """They find its tissue; what there is to do is not known yet."""
    BLOCKS = auto()
    """They compute its blocks."""
    SUSPECTS = auto()
    """They compute, one at a time, the blocks whose workers died: none can be blamed for another then."""
    FINISHING = auto()
    """They make the coarser levels; then the store gets its final name."""
    DONE = auto()
    """No tasks are left."""


class SlideJob:
    """The slide of ``plan``, which the workers of ``client`` segment into its store.

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
        If the store cannot be begun.
    """

    def __init__(self, plan: SlidePlan, run: RunPlan, client: Client, listener: Listener) -> None:
        self.plan = plan
        self.stage = Stage.BLOCKS if plan.store.tissue is None else Stage.TISSUE
        self._run, self._client, self._outcome = run, client, Outcomes(listener)
        self._started = time.perf_counter()
        if plan.reopen:
            lifecycle.reopen(plan.store)
        if plan.restart:
            lifecycle.discard_partial(plan.store)
        lifecycle.begin_store(plan.store, plan.damaged)
        if plan.region is not None:
            content.write_region(plan.store, plan.region.as_geojson())
        self._region_share = None if plan.region is None else plan.region.share
        grid = plan.grid
        setup = run.setup
        block = BlockWork(plan.level, grid, setup.pool, plan.keep(run.threads), setup.compare, setup.fills)
        self._objects = self._begin_objects()
        unmeasured = None if self._objects is None or self._objects.existing() else self._objects
        self._work = StoreWork(block, plan.store, unmeasured)
        self._blocks = map_blocks(
            store_block,
            self._work,
            grid,
            chunks=tuple((1,) * count for count in grid.blocks),
            dtype=object,
            meta=np.empty((0, 0), object),
        )
        self._in_flight: set[Future[Any]] = set()
        self._todo, self._left = iter(plan.blocks), len(plan.blocks)
        self._suspects: list[Index] = []
        self._lost: list[Index] = []
        self._unread: list[SlideReadError] = []
        self._labels: Counter[int] = Counter()
        self._blank = plan.region is None  # until a pixel is seen that is not zero; a part of a slide may be all zeros
        self._objects_tasks: ObjectsTasks | None = None
        self._tissue: TissueFinding | None = None
        self._tissue_attempts = 0
        assert plan.store.seen is not None
        self._seen = plan.store.seen
        self._looks: set[object] = set()  # keys of the tasks that look at the slide's files
        self._overwritten = False
        self._finishing = self._finish()
        work, share = setup.pool.passes * work_of(plan.blocks, region=plan.region), self._region_share
        slide, store, count, left = plan.slide.path, plan.store.path, grid.count, len(plan.blocks)
        self._outcome(SlideStarted(slide, store, count, left, plan.pixels, work, share))

    def _begin_objects(self) -> ObjectsPlan | None:
        """What is measured of objects; removes what another run, with other options or without, has left of them."""
        partial, wanted = self.plan.store.partial, self._run.setup.objects
        if wanted is None:
            if isinstance(partial, Path):
                remove_blocks(partial)
                remove_unfinished(partial)
            return None
        objects = plan_objects_of_run(partial, wanted, self.plan.slide, self.plan.level)
        remove_blocks(objects.store.path, but=objects.folder(objects.run_block_px))
        return objects

    def next_tasks(self, most: int) -> Futures:
        """Submit up to ``most`` further tasks: blocks first, then coarser levels, then publishing.

        An empty list while others are in flight that have to end first, and once the slide is done.

        Raises
        ------
        SlideReadError
            If blocks could not be read; all others are in the unfinished store, and the message says where.
        SlideError
            If blocks were lost with the workers that computed them.
        WsipipeError
            If the store cannot be written.
        """
        futures = self._tasks(most)
        while not (futures or self._in_flight) and self._enter_next_stage():
            futures = self._tasks(most)
        if futures and not self._looks:
            futures = [*futures, *self._look()]
        self._in_flight.update(futures)
        return futures

    def _tasks(self, most: int) -> Futures:
        """Up to ``most`` tasks of this stage that can be submitted now."""
        if self.stage is Stage.BLOCKS:
            blocks = list(islice(self._todo, most))
            self._left -= len(blocks)
            return self._submit(blocks)
        if self._in_flight:
            return []
        if self.stage is Stage.TISSUE and most:
            self._tissue_attempts += 1
            return [submit_tissue(self.plan, self._run.setup, self._client)]
        if self.stage is Stage.SUSPECTS and self._suspects:
            return self._submit([self._suspects.pop()])
        return next((tasks for tasks in self._finishing if tasks), []) if self.stage is Stage.FINISHING else []

    def _enter_next_stage(self) -> bool:
        """Enter the next stage, if this one has no tasks left."""
        if self.stage is Stage.BLOCKS and not self._left:
            self.stage = Stage.SUSPECTS
        elif self.stage is Stage.SUSPECTS and not self._suspects:
            self.stage = Stage.FINISHING
        else:
            return False
        return True

    def record(self, future: Future[Any]) -> None:
        """Record the result of ``future``, one of this job's tasks.

        Raises
        ------
        MachineError
            If the scheduler was lost, or a worker's device or disk failed; what was done stays.
        SlideError
            If workers died each time that they looked for the slide's tissue, or made the coarser levels.
        Exception
            Whatever else the task raised, but for errors in reading a block.
        """
        self._in_flight.discard(future)
        error = error_of(future)
        if isinstance(error, KilledWorker) and self.stage is Stage.FINISHING:
            raise SlideError(
                f"{self.plan.slide.file}: the worker died each time that it made the coarser levels"
                f"{' or the table of objects' if self._objects else ''}, after all blocks were done, which are in "
                f"{self.plan.store.partial}; {AFTER_DEATHS}"
            ) from error
        if future.key in self._looks:
            self._record_look(future, error)
        elif self.stage is Stage.TISSUE:
            self._record_tissue(future, error)
        elif isinstance(error, SlideReadError):
            self._unread.append(error)
        elif isinstance(error, KilledWorker):
            _, i, j = cast(tuple[str, int, int], future.key)
            (self._lost if self.stage is Stage.SUSPECTS else self._suspects).append((i, j))
        elif error is not None:
            raise error
        elif isinstance(result := result_of(future), Counter):
            self._labels += result
        elif isinstance(result, bool):
            self._blank &= result
        elif isinstance(result, StoreObjects):
            table = str(Path(self.plan.store.path) / OBJECTS_TABLE)
            self._outcome(ObjectsFound(self.plan.slide.path, table, result.classes))
            self._warn(odd_sizes(self.plan.slide, self._run.setup.model.sha256, result.classes))
        elif isinstance(result, np.ndarray):
            done: BlockDone = result[0, 0]
            self._blank &= done.blank or not done.computed
            self._labels.update(done.labels)
            self._outcome(done)
        elif self._objects_tasks is not None:
            self._objects_tasks.take(result)
        future.release()

    def _record_tissue(self, future: Future[Any], error: BaseException | None) -> None:
        """Record the tissue that was found, and go on with the blocks."""
        plan = self.plan
        if isinstance(error, SlideReadError):
            raise SlideReadError(f"{error}; repair the slide, or segment all of it: --tissue off") from error
        if isinstance(error, KilledWorker) and self._tissue_attempts < TISSUE_ATTEMPTS:
            return  # a block of another slide may have been the cause
        if isinstance(error, KilledWorker):
            raise SlideError(
                f"{plan.slide.file}: the worker died each time that it looked for tissue; {AFTER_DEATHS}"
            ) from error
        if error is not None:
            raise error
        found: TissueFinding = result_of(future)
        if found.how == BLANK:
            raise self._half_written()
        setup = self._run.setup
        if not setup.any_stain and (conflict := stain_conflict(plan.slide, plan.level, setup.model, found.how)):
            lifecycle.discard_partial(plan.store)
            raise ChannelError(conflict)
        self._tissue, self.stage = found, Stage.BLOCKS
        self._blank &= found.share > 0
        self._outcome(TissueFound(plan.slide.path, found.how, found.share, found.work))

    def _look(self) -> Futures:
        """Submit a task that looks at the slide's files: once beside its first blocks, and once after the last."""
        task = self._client.submit(look, self.plan.slide, self._seen, pure=False, priority=TISSUE_PRIORITY)
        self._looks.add(task.key)
        return [task]

    def _record_look(self, future: Future[Any], error: BaseException | None) -> None:
        """Take what was seen of the slide's files into the account; if they are others, no further block begins."""
        if isinstance(error, KilledWorker):
            return  # by a block beside it; there is another look
        if error is not None:
            raise error
        seen: Seen = result_of(future)
        if not seen.same_as(self._seen):
            self._overwritten = True
            self._todo, self._left = iter(()), 0
            self._suspects.clear()
        elif seen != self._seen:
            self._seen = seen
            lifecycle.note_seen(replace(self.plan.store, seen=seen))

    def cancel(self) -> set[Future[Any]]:
        """Cancel the tasks in flight, and return them."""
        in_flight, self._in_flight = self._in_flight, set()
        self._client.cancel(list(in_flight))
        return in_flight

    def _submit(self, blocks: list[Index]) -> Futures:
        if not blocks:
            return []
        keys = [(self._blocks.name, *index) for index in blocks]
        futures: Futures = self._client.get(tasks_of(self._blocks, blocks), keys, sync=False)
        return futures

    def _finish(self) -> Iterator[Futures]:
        """The tasks after the blocks, a round at a time; in the end the store gets its final name."""
        yield self._look()
        self._raise_if_incomplete()
        plan, client = self.plan, self._client
        done_before = plan.blocks.done
        unknown = sorted(done_before)
        while self._blank and unknown:  # whether they are blank is written down nowhere
            some = [unknown.pop() for _ in range(min(len(unknown), self._run.all_threads))]
            yield [client.submit(is_blank, plan.level, plan.grid.block_box(index), pure=False) for index in some]
            self._raise_if_incomplete()
        if self._blank:
            raise self._half_written()
        yield [client.submit(count_block, self._work, index, pure=False) for index in done_before]
        self._raise_if_incomplete()
        if self._objects is not None:
            share = None if self._tissue is None else self._tissue.share
            store = replace(self._objects.store, tissue_share=share, region_share=self._region_share)
            objects = replace(self._objects, store=store)
            self._objects_tasks = ObjectsTasks(client, self._run.outline_bytes(plan))
            yield from self._objects_tasks.rounds(objects)
        for levels in plan.grid.coarse_passes():
            yield [
                client.submit(content.write_coarse_chunks, plan.store, levels, index, pure=False)
                for index in coarse_chunks(plan.store, levels[-1])
            ]
        self._publish()
        self.stage = Stage.DONE

    def _publish(self) -> None:
        """Give the store its final name, and say so."""
        plan = self.plan
        seconds = time.perf_counter() - self._started
        (outcome,) = self._outcome.in_order([plan.slide.path])
        outcome.seconds = seconds
        unread, dependent = content.all_unread(plan.store)
        if unread:
            tiles = listed(list(map(str, unread)))
            message = f"could not decode tiles {tiles}; the {dependent:,} px that depend on them are set to label 0"
            self._outcome(Warned(plan.slide.path, message))
        if self._run.setup.approximate:
            self._outcome(
                Warned(plan.slide.path, approximate_text(plan.store.fingerprint.approximate, outcome.compared))
            )
        share = None if self._tissue is None else self._tissue.share
        self._warn(little_found(plan, self._run.setup.model.sha256, self._labels, share))
        record = {"pixels": dependent, "tiles": [*map(astuple, unread)]}
        store = replace(plan.store, seen=self._seen)
        lifecycle.publish(store, history_of(outcome, self._run, self._labels) | {"unread": record})
        if self._tissue is not None and not self._tissue.share:
            found = NO_TISSUE_FOUND if plan.region is None else NO_TISSUE_IN_REGION
            self._outcome(Warned(plan.slide.path, found))
            self._outcome(SlideEmpty(plan.slide.path, plan.store.path, seconds, found))
        else:
            self._outcome(SlideDone(plan.slide.path, plan.store.path, seconds, plan.pixels))

    def _warn(self, messages: Iterable[str]) -> None:
        for message in messages:
            self._outcome(Warned(self.plan.slide.path, message))

    def _half_written(self) -> SlideReadError:
        """Discard the store of a slide without a pixel that is not zero; returns the error to raise."""
        lifecycle.discard_partial(self.plan.store)
        return SlideReadError(
            f"{self.plan.slide.file}: every pixel that was read is zero, which no scanner writes, so the file is "
            "half-written; copy it again from its source (if only its small levels are half-written: --tissue off)"
        )

    def _raise_if_incomplete(self) -> None:
        plan = self.plan
        if self._overwritten:
            lifecycle.discard_partial(plan.store)
            raise SlideReadError(
                f"{plan.slide.file} was overwritten while it was segmented, so its labels would be of both; they are "
                "discarded; repeat the run once the file is complete"
            )
        count, others = len(plan.blocks), f"the others are in {plan.store.partial}"
        if self._unread:
            said = {text for error in self._unread for text in error.tiles or (str(error),)}
            raise SlideReadError(
                f"{listed(sorted(said))}; {len(self._unread)} of {count} blocks could not be read, "
                f"{others}; repair the slide, then repeat the run, with --overwrite if its file has changed; "
                "or use --on-bad-tile fill --overwrite, which sets the pixels that depend on them to label 0"
            ) from self._unread[0]
        if self._lost:
            named = ", ".join(map(str, sorted(self._lost)))
            raise SlideError(
                f"{plan.slide.file}: the worker died each time that it computed {named}: {len(self._lost)} of {count} "
                f"blocks set aside, {others}; {AFTER_DEATHS}"
            )


def listed(texts: list[str]) -> str:
    """The first `MOST_LISTED` of ``texts``, and how many more there are."""
    more = len(texts) - MOST_LISTED
    return "; ".join(texts[:MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")
