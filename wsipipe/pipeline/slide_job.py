"""One slide on its way: its blocks, then what is made from them, then its name."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
from distributed import Client, Future
from distributed.scheduler import KilledWorker

from wsipipe.errors import MachineError, SlideError, SlideReadError
from wsipipe.events import BlockDone, Listener, SlideDone, SlideEmpty, SlideStarted, TissueFound, Warned
from wsipipe.inference.block import BlockWork
from wsipipe.pipeline.block_tasks import Index, StoreWork, is_blank, store_block
from wsipipe.pipeline.config import FILL
from wsipipe.pipeline.graph import map_blocks
from wsipipe.pipeline.run_plan import RunPlan
from wsipipe.pipeline.slide_plan import SlidePlan
from wsipipe.pipeline.summary import Outcomes, SlideOutcome, account
from wsipipe.pipeline.tissue_tasks import TissueFinding, submit_tissue
from wsipipe.store import content, lifecycle
from wsipipe.store.spec import coarse_chunks
from wsipipe.tissue.detect import BLANK

MOST_LISTED = 20
"""Regions that a message lists."""
Futures = list[Future[Any]]
TISSUE_ATTEMPTS = 3
"""Times that tissue is looked for on a slide while workers die: a block that kills them is set aside after two."""
NO_TISSUE_FOUND = (
    "no tissue was found, so nothing was segmented; if there is some, look everywhere: --tissue off --overwrite"
)


class SlideJob:
    """The slide of ``plan``, one of ``run``, on its way into its store through the workers of ``client``.

    Raises
    ------
    WsipipeError
        If the store can not be begun.
    """

    def __init__(self, plan: SlidePlan, run: RunPlan, client: Client, listener: Listener) -> None:
        self.plan = plan
        self.over = False
        self._run, self._client, self._outcome = run, client, Outcomes(listener)
        self._started = time.perf_counter()
        if plan.reopen:
            lifecycle.reopen(plan.store)
        if plan.restart:
            lifecycle.discard_partial(plan.store)
        lifecycle.begin_store(plan.store, plan.damaged)
        grid = plan.grid
        fill = run.setup.config.on_bad_tile == FILL
        block = BlockWork(plan.level, grid, run.setup.pool, plan.keep(run.threads), fill)
        self._blocks = map_blocks(
            store_block,
            StoreWork(block, plan.store),
            grid,
            chunks=tuple((1,) * count for count in grid.blocks),
            dtype=object,
            meta=np.empty((0, 0), object),
        )
        self._todo = deque(plan.blocks)
        self._suspects: list[Index] = []
        self._alone = False
        self._lost: list[Index] = []
        self._unread: list[SlideReadError] = []
        self._labels: Counter[int] = Counter()
        self._blank = True  # until a pixel is seen that is not zero
        self.looking = plan.store.tissue is not None
        self._looked: TissueFinding | None = None
        self._looks = 0
        self._in_flight: set[Future[Any]] = set()
        self._rest = self._after_blocks()
        self._outcome(SlideStarted(plan.slide.path, plan.store.path, grid.count, len(plan.blocks), plan.pixels))

    def more(self, most: int) -> Futures:
        """Up to ``most`` blocks, handed over; once all are done what is made from them, and then nothing: it is over.

        Where only tissue is looked at, it is looked for before.

        Raises
        ------
        SlideReadError
            If blocks could not be read; all others are in the unfinished store, and the message says where.
        SlideError
            If blocks were lost with the workers that computed them.
        WsipipeError
            If the store can not be written.
        """
        futures: Futures = []
        if self.looking:
            if most and not self._in_flight:
                self._looks += 1
                futures = [submit_tissue(self.plan, self._run.setup.config, self._client)]
        elif self._todo:
            futures = self._hand_over([self._todo.popleft() for _ in range(min(most, len(self._todo)))])
        elif self._suspects and not self._in_flight:
            self._alone = True  # so that no other block of the slide can be the cause
            futures = self._hand_over([self._suspects.pop()])
        while not (futures or self.looking or self._in_flight or self._todo or self._suspects or self.over):
            futures = next(self._rest, [])
        self._in_flight.update(futures)
        return futures

    def take(self, future: Future[Any]) -> None:
        """Take what became of ``future``, one of this job's, into the account.

        Raises
        ------
        MachineError
            If the scheduler was lost, or a worker's device or disk failed; what was done stays.
        Exception
            Whatever else the task raised, but for what is wrong with the slide's file.
        """
        self._in_flight.discard(future)
        if future.cancelled():
            raise MachineError("the scheduler was lost; run the same again, it resumes")
        error = future.exception()
        if self.looking:
            self._take_look(future, error)
        elif isinstance(error, SlideReadError):
            self._unread.append(error)
        elif isinstance(error, KilledWorker):
            _, i, j = cast(tuple[str, int, int], future.key)
            (self._lost if self._alone else self._suspects).append((i, j))
        elif error is not None:
            raise error
        elif isinstance(result := future.result(), Counter):
            self._labels += result
        elif isinstance(result, bool):
            self._blank &= result
        elif result is not None:
            row: BlockDone = result[0, 0]
            self._blank &= row.blank or not row.computed
            self._labels.update(row.labels)
            self._outcome(row)
        future.release()

    def _take_look(self, future: Future[Any], error: BaseException | None) -> None:
        """Take into the account where there is tissue."""
        plan = self.plan
        if isinstance(error, SlideReadError):
            raise SlideReadError(f"{error}; mend the slide, or look everywhere: --tissue off") from error
        if isinstance(error, KilledWorker) and self._looks < TISSUE_ATTEMPTS:
            return  # a block of another slide may have been the cause
        if isinstance(error, KilledWorker):
            raise SlideError(
                f"{plan.slide.file}: the worker died each time that it looked for tissue; look into the workers' logs, "
                "give them more memory, then run the same again"
            ) from error
        if error is not None:
            raise error
        looked: TissueFinding = future.result()
        if looked.how == BLANK:
            raise self._half_written()
        self._looked, self.looking = looked, False
        self._blank &= looked.share > 0
        self._outcome(TissueFound(plan.slide.path, looked.how, looked.share))

    def cancel(self) -> set[Future[Any]]:
        """Take back what is in flight, and give it."""
        in_flight, self._in_flight = self._in_flight, set()
        self._client.cancel(list(in_flight))
        return in_flight

    def _hand_over(self, blocks: list[Index]) -> Futures:
        if not blocks:
            return []
        keys = [(self._blocks.name, *index) for index in blocks]
        futures: Futures = self._client.get(dict(self._blocks.dask.cull(set(keys))), keys, sync=False)
        return futures

    def _after_blocks(self) -> Iterator[Futures]:
        """What is to be done once the blocks are: a round of tasks each, and in the end the store's name."""
        self._raise_if_incomplete()
        plan, client = self.plan, self._client
        done_before = set(plan.grid.indices()).difference(plan.blocks)
        unlooked = sorted(done_before)
        while self._blank and unlooked:  # nobody remembers what was seen there
            some = [unlooked.pop() for _ in range(min(len(unlooked), self._run.all_threads))]
            yield [client.submit(is_blank, plan.level, plan.grid.block_box(index), pure=False) for index in some]
            self._raise_if_incomplete()
        if self._blank:
            raise self._half_written()
        yield [client.submit(content.count_labels, plan.store, index, pure=False) for index in done_before]
        for levels in plan.grid.coarse_passes():
            yield [
                client.submit(content.write_coarse_chunks, plan.store, levels, index, pure=False)
                for index in coarse_chunks(plan.store, levels[-1])
            ]
        seconds = time.perf_counter() - self._started
        (how_it_went,) = self._outcome.in_order([plan.slide.path])
        how_it_went.seconds = seconds
        unread, unseen = content.all_unread(plan.store)
        if unread:
            reached = f"{unseen:,} px that they reach have label 0"
            tiles = listed(list(map(str, unread)))
            self._outcome(Warned(plan.slide.path, f"tiles at {tiles} could not be decoded; {reached}"))
        said = {"pixels": unseen, "tiles": [*map(astuple, unread)]}
        lifecycle.publish(plan.store, _history(how_it_went, self._run, self._labels) | {"unread": said})
        if self._looked is not None and not self._looked.share:
            self._outcome(Warned(plan.slide.path, NO_TISSUE_FOUND))
            self._outcome(SlideEmpty(plan.slide.path, plan.store.path, seconds, NO_TISSUE_FOUND))
        else:
            self._outcome(SlideDone(plan.slide.path, plan.store.path, seconds, plan.pixels))
        self.over = True

    def _half_written(self) -> SlideReadError:
        """What to raise of a slide on which there is nothing, and its store goes."""
        lifecycle.discard_partial(self.plan.store)
        return SlideReadError(
            f"{self.plan.slide.file}: every pixel that was read is zero, which no scanner writes, so the file is "
            "half-written; copy it again from where it came from (if only its small levels are: --tissue off)"
        )

    def _raise_if_incomplete(self) -> None:
        plan = self.plan
        count, others = len(plan.blocks), f"the others are in {plan.store.partial}"
        if self._unread:
            said = {text for error in self._unread for text in error.tiles or (str(error),)}
            raise SlideReadError(
                f"{listed(sorted(said))}; {len(self._unread)} of {count} blocks could not be read, "
                f"{others}; mend the slide, then run the same again, with --overwrite if its file has changed; "
                "or --on-bad-tile fill --overwrite, which gives label 0 to what they reach"
            ) from self._unread[0]
        if self._lost:
            named = ", ".join(map(str, sorted(self._lost)))
            raise SlideError(
                f"{plan.slide.file}: the worker died each time that it computed {named}: {len(self._lost)} of {count} "
                f"blocks set aside, {others}; look into the workers' logs, give them more memory, "
                "then run the same again"
            )


def listed(texts: list[str]) -> str:
    """``texts``, but no more than `MOST_LISTED` of them."""
    more = len(texts) - MOST_LISTED
    return "; ".join(texts[:MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _history(slide: SlideOutcome, run: RunPlan, labels: Counter[int]) -> dict[str, Any]:
    """What the store keeps of the run that finished it: when, with what, where the time went, and what was found."""
    spent = account([slide], seconds=slide.seconds, threads=run.all_threads, devices=run.all_devices, bare=run.bare)
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "devices": list(run.setup.devices),
        "processes": run.setup.site.processes,
        "engine": run.setup.engine,
        "threads": run.threads,
        "blocks": slide.blocks_computed,
        "pixels": slide.pixels,
        "skipped": slide.skipped,
        "tissue": None if slide.tissue_share is None else {"share": slide.tissue_share, "how": slide.tissue_by},
        "seconds": slide.seconds,
        "spent": asdict(slide.spent),
        "account": None if spent is None else asdict(spent),
        "labels": {str(label): labels[label] for label in sorted(labels)},
    }
