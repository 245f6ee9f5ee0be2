"""The slides of a run on their way: which one next, who has it, what goes wrong with it, and when to stop."""

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
from wsipipe.files import locate
from wsipipe.leases.holder import Holder
from wsipipe.leases.lease import LEASE, Lease
from wsipipe.leases.leases import Leases
from wsipipe.pipeline.machine import megabytes
from wsipipe.pipeline.run_plan import RunPlan
from wsipipe.pipeline.slide_job import SlideJob
from wsipipe.pipeline.slide_plan import SEGMENT, SKIP, SlidePlan, plan_slide
from wsipipe.urls import Url

LOGGER = logging.getLogger(__name__)

IN_HAND, IN_HAND_PER_THREAD = 128, 8
"""Blocks that the scheduler has, at least where nothing may stop the run, and for each thread. It takes 20 kB for each;
handing over 8 at a time instead of 64 cost 4 % without a network."""
BEGIN_PER_THREAD = 4
"""Blocks in hand below which the next slide begins."""
DISPATCH_CHECK_SECONDS = 2.0
"""How often it is looked whether slides that others have are free."""


@dataclass(frozen=True)
class Limits:
    """When a run stops in good order: no block is begun that would not end in time, and what is open is resumed."""

    until: float | None = None
    """Seconds of ``clock``."""
    reserve_bytes: int = 0
    """What is to stay free on the disk of the results."""
    stay: bool = False
    """Whether to wait for slides that other runners have, and to take those of runners that die."""
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


NO_LIMITS = Limits()


class Dispatcher:
    """The slides of ``run``: the next one begins where the blocks of those before do not fill the workers.

    Blocks that were handed over first are computed first, so the order is that of the command. Each slide is taken by
    a lease, so that several runners share the slides.
    """

    def __init__(
        self,
        run: RunPlan,
        client: Client,
        listener: Listener,
        count_threads: Callable[[], int],
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._run, self._client, self._count_threads, self._limits = run, client, count_threads, limits
        self._listener = listener
        self._waiting = deque(run.to_do)
        self._held: dict[str, tuple[SlidePlan, Holder]] = {}  # by the slide's path: those that others have
        self._leases = Leases()
        self._jobs: dict[SlideJob, Lease] = {}
        self._owner: dict[Future[Any], SlideJob] = {}
        self._completed = as_completed()
        self._expected = run.threads / (run.bare * len(run.setup.devices)) if run.bare else 0.0
        self._slowest = 0.0  # seconds a pixel of a block that was computed
        self._why = ""
        self._full = ""  # the same, if it is for want of space

    def attempt_all(self) -> str:
        """Segment each slide, and say why it ended before all were attempted, or nothing.

        Whatever is wrong with one slide is told, and only a failing machine stops the run.

        Raises
        ------
        MachineError
            If a device, the scheduler or a disk failed.
        OutputError
            If the disk has less than the reserve free; what was begun was finished first.
        """
        try:
            self._hand_over()
            while self._in_hand():
                for future in self._completed:
                    job = self._owner.pop(future, None)
                    if job is not None:
                        with self._attempting(job.plan):
                            job.take(future)
                        self._hand_over()
            left = [*(job.plan for job in self._jobs), *self._waiting]
            for plan in left:
                self._listener(SlideLeft(plan.slide.path, plan.store.path, self._why))
            for plan, holder in self._held.values():
                self._listener(SlideTaken(plan.slide.path, plan.store.path, str(holder)))
            if not left and not self._held:
                return ""
            if self._full:
                raise OutputError(self._full)
            return self._why
        finally:
            for job, lease in self._jobs.items():
                job.cancel()
                lease.release()

    def _in_hand(self) -> bool:
        """Whether something is in flight; waits for slides that others have, as long as that may be of use."""
        alive = set()  # those whose lease was renewed since this began to wait
        while not self._owner and not self._why and self._held:
            for path, (plan, holder) in list(self._held.items()):
                del self._held[path]
                self._begin(plan)
                if path in self._held and self._held[path][1] != holder:
                    alive.add(path)
                if self._owner:
                    break  # the next ones are for whoever has nothing to do
            if self._held and not self._owner:
                if not self._limits.stay and alive >= self._held.keys():
                    break
                if self._limits.until is not None and self._limits.clock() >= self._limits.until:
                    self._why = self._time_is_up()
                    break
                self._limits.sleep(DISPATCH_CHECK_SECONDS)
        return bool(self._owner)

    def _hand_over(self) -> None:
        """Give the workers what they have room for, of the slides that are begun, then of the next."""
        for job in tuple(self._jobs):
            self._more_of(job)
        while self._waiting and self._runs_short() and self._room(self._waiting[0]) and not self._looking():
            self._begin(self._waiting.popleft())

    def _looking(self) -> bool:
        """Whether it is not known yet what is to be done on the slide that was begun last."""
        return any(job.looking for job in self._jobs)

    def _runs_short(self) -> bool:
        """Whether the slides that are begun will not keep the workers busy for long."""
        return len(self._owner) <= BEGIN_PER_THREAD * max(1, self._count_threads())

    def _begin(self, plan: SlidePlan) -> None:
        """Begin with the slide of ``plan``, unless another runner has it, or has done it since."""
        with self._attempting(plan):
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
                job = SlideJob(plan, self._run, self._client, self._hear)
            except BaseException:
                lease.release()
                raise
            self._jobs[job] = lease
            self._more_of(job)

    def _as_it_is_now(self, plan: SlidePlan) -> SlidePlan:
        """``plan`` anew, for another runner may have worked on it since."""
        if plan.action == SEGMENT and not (plan.store.partial.exists() or locate(plan.store.path).exists()):
            return plan
        return plan_slide(plan.slide, plan.store.path, self._run.setup).tiled(plan.grid.core, self._run.setup)

    def _room(self, plan: SlidePlan) -> int:
        """How many blocks of ``plan`` the workers are to be given now: none while they have half of what they may."""
        threads = max(1, self._count_threads())  # what waits for workers has the cluster start some
        limited = self._limits.until is not None or self._limits.reserve_bytes
        most = max(0 if limited else IN_HAND, IN_HAND_PER_THREAD * threads)
        if 2 * len(self._owner) > most:
            return 0
        self._full = self._full or self._no_space()
        self._why = self._why or self._full
        if self._why:
            return 0
        if self._limits.until is not None:
            side = plan.grid.block + plan.grid.receptive.margin
            seconds = side**2 * (self._slowest or self._expected)
            left = self._limits.until - self._limits.clock()
            most = min(most, threads * int(left / seconds)) if seconds else most
            if most < 1 and not self._owner:
                self._why = self._time_is_up()
        return max(0, most - len(self._owner))

    def _time_is_up(self) -> str:
        assert self._limits.until is not None
        at = datetime.fromtimestamp(self._limits.until).strftime("%H:%M")
        return f"no block would end before {at}; what is open is resumed the next time"

    def _no_space(self) -> str:
        """What to say where the disk has less than the reserve free; else nothing."""
        out, reserve = locate(self._run.setup.config.out), self._limits.reserve_bytes
        if not reserve or isinstance(out, Url):  # a bucket is never full
            return ""
        free = shutil.disk_usage(out).free
        if free >= reserve:
            return ""
        return f"{out} has {megabytes(free)} free, less than the {megabytes(reserve)} that are to stay; make room"

    def _hear(self, event: Event) -> None:
        if isinstance(event, BlockDone) and event.computed:
            self._slowest = max(self._slowest, event.spent.threads / event.computed)
        self._listener(event)

    def _more_of(self, job: SlideJob) -> None:
        with self._attempting(job.plan):
            if self._jobs[job].lost:
                raise SlideError(f"{job.plan.slide.file}: another runner took it over while this one was held up")
            futures = job.more(self._room(job.plan))
            self._owner.update(dict.fromkeys(futures, job))
            self._completed.update(futures)
            if job.over:
                self._jobs.pop(job).release()

    @contextmanager
    def _attempting(self, plan: SlidePlan) -> Iterator[None]:
        """What goes wrong with the slide of ``plan`` fails that slide; a failing machine fails the run."""
        try:
            yield
        except SlideError as err:
            self._fail(plan, str(err))
        except (MachineError, MemoryError) as err:
            error = err if isinstance(err, MachineError) else _no_memory(err, self._run)
            self._fail(plan, str(error))
            raise error from err
        except WsipipeError:
            raise
        except Exception as err:  # a fault of wsipipe or of a library: the night goes on; the trace is logged
            LOGGER.debug("%s failed", plan.slide.path, exc_info=True)
            self._fail(plan, f"{plan.slide.file}: unexpected {type(err).__name__}: {err}")

    def _fail(self, plan: SlidePlan, error: str) -> None:
        for job in [job for job in self._jobs if job.plan.slide.path == plan.slide.path]:
            for future in job.cancel():
                del self._owner[future]
            self._jobs.pop(job).release()
        self._listener(SlideFailed(plan.slide.path, error))


def _no_memory(err: MemoryError, run: RunPlan) -> MemoryLimitError:
    """What to say when the machine, not a device, has less memory than was planned with."""
    return MemoryLimitError(
        f"the machine has not the {megabytes(run.setup.limit_bytes)} of memory that were planned with "
        f"({err or 'MemoryError'}); the same command resumes: give a --max-memory that is really there"
    )
