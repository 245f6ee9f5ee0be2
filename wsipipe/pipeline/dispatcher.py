"""The slides of a run, dispatched: which is next, who holds it, what fails it, and when to stop."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from distributed import Client, Future, as_completed

from wsipipe.errors import MachineError, MemoryLimitError, OutputError, SlideError, WsipipeError
from wsipipe.events import BlockDone, Event, Listener, SlideFailed, SlideLeft, SlideSkipped, SlideTaken
from wsipipe.files import OF_AN_ENTRY, locate, takes_files
from wsipipe.leases.holder import Holder
from wsipipe.leases.lease import LEASE, Lease
from wsipipe.leases.leases import Leases
from wsipipe.pipeline.cluster.patience import Patience
from wsipipe.pipeline.machine import megabytes
from wsipipe.pipeline.measure_job import MeasureJob
from wsipipe.pipeline.run_plan import RunPlan
from wsipipe.pipeline.slide_job import SlideJob, Stage
from wsipipe.pipeline.slide_plan import MEASURE, SEGMENT, SKIP, SlidePlan, plan_slide
from wsipipe.pipeline.tile_reports import TileReports
from wsipipe.urls import Url

Job = SlideJob | MeasureJob

LOGGER = logging.getLogger(__name__)

IN_HAND, IN_HAND_PER_THREAD = 128, 8
"""Blocks that the scheduler may hold: at least this many where nothing limits the run, and this many for each thread. A
block takes 20 kB there; submitting 8 at a time instead of 64 cost 4 % without a network."""
BEGIN_PER_THREAD = 4
"""The next slide begins when fewer blocks than this are in flight, for each thread."""
COMPLETION_CHECK_SECONDS = 0.1
"""Time between two looks whether a task has ended, if nothing says so, as `as_completed` itself has it."""
DISPATCH_CHECK_SECONDS = 2.0
"""Time between two checks for slides that other runners no longer hold."""


@dataclass(frozen=True)
class Limits:
    """Limits of a run, which stops in order: it begins no block that would not end in time; the next run resumes."""

    until: float | None = None
    """End of the run, in seconds of ``clock``; None: no end."""
    reserve_bytes: int = 0
    """Space that must stay free on the disk of the results."""
    stay: bool = False
    """Whether to wait for slides that other runners hold, and to take over those of runners that die."""
    clock: Callable[[], float] = time.time
    """The time, in seconds since the epoch."""
    sleep: Callable[[float], None] = time.sleep
    """Waits for a number of seconds."""


NO_LIMITS = Limits()
ANOTHER_RUNNER = "another runner while this one was suspended"


class Dispatcher:
    """The slides of ``run``, each of which begins when the blocks of those before no longer fill the workers.

    Blocks that were submitted first are computed first, so slides end in the order of the command. Each slide is held
    by a lease, so that several runners can share the slides.

    Parameters
    ----------
    run
        What there is to do.
    client
        A client of the workers.
    listener
        Receives every event.
    count_threads
        Returns the threads of all workers now.
    limits
        When to stop.
    patience
        Ends the wait for workers that do not work; None: as `Patience` has it.
    """

    def __init__(
        self,
        run: RunPlan,
        client: Client,
        listener: Listener,
        count_threads: Callable[[], int],
        limits: Limits = NO_LIMITS,
        patience: Patience | None = None,
    ) -> None:
        self._run, self._client, self._count_threads, self._limits = run, client, count_threads, limits
        self._listener, self._patience = listener, patience or Patience(client)
        self._waiting = deque(run.to_do)
        self._held: dict[str, tuple[SlidePlan, Holder]] = {}  # by the slide's path: those that other runners hold
        self._leases = Leases()
        self._jobs: dict[Job, Lease] = {}
        self._owner: dict[Future[Any], Job] = {}
        self._completed = as_completed()
        self._tiles = TileReports(client)
        self._expected = run.threads / (run.bare * len(run.setup.devices)) if run.bare else 0.0
        self._slowest = 0.0  # the slowest block so far, in seconds a pixel
        self._reason = ""  # why the run ends early
        self._no_room = ""  # the same, if there is no space on the disk

    def run(self) -> str:
        """Attempt every slide; returns why the run ended early, or an empty string.

        An error of one slide becomes its event, and only a failing machine stops the run.

        Raises
        ------
        MachineError
            If a device, the scheduler or a disk failed.
        OutputError
            If less space than the reserve is free on the disk; blocks in flight are finished first.
        """
        try:
            self._submit()
            while self._wait_for_tasks():
                for future in self._completions():
                    job = self._owner.pop(future, None)
                    if job is not None:
                        with self._failing_slide(job.plan):
                            job.record(future)
                        self._submit()
            left = [*(job.plan for job in self._jobs), *self._waiting]
            for plan in left:
                self._listener(SlideLeft(plan.slide.path, plan.store.path, self._reason))
            for plan, holder in self._held.values():
                self._listener(SlideTaken(plan.slide.path, plan.store.path, str(holder)))
            if not left and not self._held:
                return ""
            if self._no_room:
                raise OutputError(self._no_room)
            return self._reason
        finally:
            for job, lease in self._jobs.items():
                job.cancel()
                lease.release()

    def _completions(self) -> Iterator[Future[Any]]:
        """The tasks, each as it ends, until none is in flight.

        Raises
        ------
        MachineError
            If no worker works on them.
        """
        while not self._completed.is_empty():
            for report in self._tiles.take():
                if any(report.slide == job.plan.slide.path for job in self._jobs):  # a scheduler may have other runs
                    self._listener(report)
            if self._completed.has_ready():
                self._patience.reset()
                yield next(self._completed)
                continue
            with self._completed.thread_condition:
                self._completed.thread_condition.wait(COMPLETION_CHECK_SECONDS)
            self._patience.look()

    def _wait_for_tasks(self) -> bool:
        """Whether tasks are in flight; waits for slides that other runners hold, as long as that may be of use."""
        alive = set()  # the slides whose lease was renewed during this wait
        while not self._owner and not self._reason and self._held:
            for path, (plan, holder) in list(self._held.items()):
                del self._held[path]
                self._begin(plan)
                if path in self._held and self._held[path][1] != holder:
                    alive.add(path)
                if self._owner:
                    break  # the others are for runners that have nothing to do
            if self._held and not self._owner:
                if not self._limits.stay and alive >= self._held.keys():
                    break
                if self._limits.until is not None and self._limits.clock() >= self._limits.until:
                    self._reason = self._time_is_up()
                    break
                self._limits.sleep(DISPATCH_CHECK_SECONDS)
        return bool(self._owner)

    def _submit(self) -> None:
        """Submit as many tasks as there is room for: of the slides that have begun, then of the next."""
        for job in tuple(self._jobs):
            self._submit_of(job)
        while self._waiting and self._runs_short() and self._room(self._waiting[0]) and not self._finds_tissue():
            self._begin(self._waiting.popleft())

    def _finds_tissue(self) -> bool:
        """Whether the amount of work on the slide that began last is not known yet."""
        return any(job.stage is Stage.TISSUE for job in self._jobs)

    def _runs_short(self) -> bool:
        """Whether the slides that have begun will soon leave workers idle."""
        return len(self._owner) <= BEGIN_PER_THREAD * max(1, self._count_threads())

    def _begin(self, plan: SlidePlan) -> None:
        """Begin the slide of ``plan``, unless another runner holds it, or has finished it since."""
        with self._failing_slide(plan):
            lease = self._leases.take(locate(plan.store.path + LEASE))
            if isinstance(lease, Holder):
                self._held[plan.slide.path] = plan, lease
                return
            try:
                plan = self._as_it_is_now(plan)
                if plan.action == SKIP:
                    self._listener(SlideSkipped(plan.slide.path, plan.store.path, plan.reason))
                    lease.release()
                    return
                made = MeasureJob if plan.action == MEASURE else SlideJob
                job: Job = made(plan, self._run, self._client, self._hear)
            except BaseException:
                lease.release()
                raise
            self._jobs[job] = lease
            self._submit_of(job)

    def _as_it_is_now(self, plan: SlidePlan) -> SlidePlan:
        """``plan``, made again where another runner may have worked on the slide since."""
        if plan.action == SEGMENT and not (plan.store.partial.exists() or locate(plan.store.path).exists()):
            return plan
        return plan_slide(plan.slide, plan.store.path, self._run.setup).tiled(plan.grid.core, self._run.setup)

    def _room(self, plan: SlidePlan) -> int:
        """Number of blocks of ``plan`` to submit now: none while the scheduler holds more than half of its limit."""
        threads = max(1, self._count_threads())  # tasks that wait make an adaptive cluster start workers
        limited = self._limits.until is not None or self._limits.reserve_bytes
        most = max(0 if limited else IN_HAND, IN_HAND_PER_THREAD * threads)
        if 2 * len(self._owner) > most:
            return 0
        self._no_room = self._no_room or self._no_space()
        self._reason = self._reason or self._no_room
        if self._reason:
            return 0
        if self._limits.until is not None:
            side = plan.grid.block + plan.grid.receptive.margin
            seconds = side**2 * (self._slowest or self._expected)
            left = self._limits.until - self._limits.clock()
            most = min(most, threads * int(left / seconds)) if seconds else most
            if most < 1 and not self._owner:
                self._reason = self._time_is_up()
        return max(0, most - len(self._owner))

    def _time_is_up(self) -> str:
        assert self._limits.until is not None
        at = datetime.fromtimestamp(self._limits.until).strftime("%H:%M")
        return f"no block would end before {at}; the next run resumes"

    def _no_space(self) -> str:
        """The message if less space than the reserve is free on the disk; else an empty string."""
        out, reserve = locate(self._run.setup.out), self._limits.reserve_bytes
        if not reserve or isinstance(out, Url):  # a bucket is never full
            return ""
        free = shutil.disk_usage(out).free
        if free >= reserve:
            return ""
        return f"{out} has {megabytes(free)} free, less than the reserve of {megabytes(reserve)}; free some space"

    def _hear(self, event: Event) -> None:
        if isinstance(event, BlockDone) and event.computed:
            self._slowest = max(self._slowest, event.spent.threads / event.computed)
        self._listener(event)

    def _submit_of(self, job: Job) -> None:
        with self._failing_slide(job.plan):
            if self._jobs[job].lost and not self._jobs[job].regain():
                raise SlideError(f"{job.plan.slide.file} is another runner's now")
            futures = job.next_tasks(self._room(job.plan))
            self._owner.update(dict.fromkeys(futures, job))
            self._completed.update(futures)
            if job.stage is Stage.DONE:
                self._jobs.pop(job).release()

    @contextmanager
    def _failing_slide(self, plan: SlidePlan) -> Iterator[None]:
        """A context whose errors fail the slide of ``plan``; an error of the machine fails the run, too.

        An output that cannot be written is the slide's own error, unless nothing can be written to the whole folder.
        """
        try:
            yield
        except SlideError as err:
            self._fail(plan, str(err))
        except OutputError as err:
            own = err.cause in OF_AN_ENTRY and takes_files(locate(self._run.setup.out))
            if self._fail(plan, str(err)) and not own:
                raise
        except (MachineError, MemoryError) as err:
            error = err if isinstance(err, MachineError) else _no_memory(err, self._run)
            self._fail(plan, str(error))
            raise error from err
        except WsipipeError:
            raise
        except Exception as err:  # a bug in wsipipe or in a library: the run goes on; the trace is logged
            LOGGER.debug("%s failed", plan.slide.path, exc_info=True)
            self._fail(plan, f"{plan.slide.file}: unexpected {type(err).__name__}: {err}")

    def _fail(self, plan: SlidePlan, error: str) -> bool:
        """End the slide of ``plan``; whether it failed, which a slide that another runner took over did not."""
        mine = True
        for job in [job for job in self._jobs if job.plan.slide.path == plan.slide.path]:
            for future in job.cancel():
                del self._owner[future]
            lease = self._jobs.pop(job)
            mine = lease.regain()
            lease.release()
        slide, store = plan.slide.path, plan.store.path
        self._listener(SlideFailed(slide, error) if mine else SlideTaken(slide, store, ANOTHER_RUNNER, over=True))
        return mine


def _no_memory(err: MemoryError, run: RunPlan) -> MemoryLimitError:
    """The error for a machine, not a device, that has less memory than was planned for."""
    return MemoryLimitError(
        f"the machine does not have the {megabytes(run.setup.limit_bytes)} this run was planned for "
        f"({err or 'MemoryError'}); the same command resumes: give a --max-memory that is available"
    )
