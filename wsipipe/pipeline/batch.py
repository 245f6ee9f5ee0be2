"""A run over many slides: every one is attempted, and one that fails does not stop the others."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from distributed import Client, Future, as_completed

from wsipipe.errors import MachineError, MemoryLimitError, SlideError, WsipipeError
from wsipipe.events import ClusterReady, Listener, RunStarted, SlideFailed, SlideSkipped, Warned, ignore
from wsipipe.inference.pool import load_pool, release_pool
from wsipipe.inference.tuning import correct
from wsipipe.labels.store import discard_replaced
from wsipipe.pipeline.cluster import Workers, connect
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.job import Job
from wsipipe.pipeline.look import Refused, RunPlan, megabytes, plan_run
from wsipipe.pipeline.machine import peak_bytes
from wsipipe.pipeline.outcome import Outcomes, RunSummary
from wsipipe.pipeline.plan import SKIP, SlidePlan
from wsipipe.pipeline.scheduler import local_client
from wsipipe.pipeline.tune import ask_here, tune

IN_HAND_PER_THREAD = 8
"""Blocks that the scheduler has for each thread: it takes 20 kB for each, and a refill less time than these."""
log = logging.getLogger(__name__)


def run(
    slides: Sequence[str | os.PathLike[str]], config: RunConfig | None = None, listener: Listener = ignore
) -> RunSummary:
    """Segment ``slides`` (files, folders, patterns) into ``config.out``; slides that are done are skipped.

    Parameters
    ----------
    slides
        Paths of slides, of folders of slides, or patterns.
    config
        What to use and where to write.
    listener
        Is told what happens, from this thread.

    Raises
    ------
    UsageError, BundleError
        If what was asked for is not possible.
    MachineError
        If there is no such device, or no memory for any slide. What fails the machine later, such as a full disk,
        ends the run and stands in the summary: what was done stays, and the same run resumes.
    """
    config = config or RunConfig()
    if not config.on_cluster:
        return _run(slides, config, Outcomes(listener), None)
    with connect(config) as client:
        return _run(slides, config, Outcomes(listener), Workers(client, config))


def _run(
    slides: Sequence[str | os.PathLike[str]], config: RunConfig, outcomes: Outcomes, workers: Workers | None
) -> RunSummary:
    """As `run`, by ``workers``, or in this process."""
    started = time.perf_counter()
    site = None
    if workers is not None:
        site = workers.site()
        config = replace(config, threads=workers.threads)
        outcomes(ClusterReady(workers.address, workers.dashboard, site.processes, workers.count_threads()))
    plan = plan_run(slides, config, site)
    to_do = plan.to_do
    outcomes(RunStarted(sum(len(p.blocks) for p in to_do), sum(p.pixels for p in to_do)))
    for slide in plan.slides:
        if isinstance(slide, Refused):
            outcomes(SlideFailed(slide.path, slide.error))
        else:
            for warning in slide.slide.warnings:
                outcomes(Warned(slide.slide.path, warning))
            if slide.action == SKIP:
                discard_replaced(slide.store)
                outcomes(SlideSkipped(slide.slide.path, slide.store.path, slide.reason))
    stopped, computing_seconds, sizes = "", 0.0, None
    try:
        if workers is not None and to_do:
            workers.check_paths([p.slide.path for p in to_do], config.out)
        if any(p.blocks for p in to_do):
            plan, sizes = tune(plan, ask_here if workers is None else workers.ask)
            outcomes(sizes)
        if to_do:
            with _at_work(plan, workers) as (client, count_threads):
                computing = time.perf_counter()
                try:
                    _Batch(plan, client, outcomes, count_threads).attempt_all()
                finally:
                    computing_seconds = time.perf_counter() - computing
    except MachineError as err:
        stopped = str(err)
    summary = RunSummary(
        out=config.out,
        bundle=plan.setup.bundle.path,
        slides=outcomes.in_order(p.path if isinstance(p, Refused) else p.slide.path for p in plan.slides),
        seconds=time.perf_counter() - started,
        threads=plan.all_threads,
        devices=plan.all_devices,
        computing_seconds=computing_seconds,
        bare=plan.bare,
        projected_bytes=max(map(plan.memory_bytes, plan.to_do), default=plan.base_bytes),
        peak_bytes=peak_bytes(),
        stopped=stopped,
    )
    spent = summary.account()
    if spent is not None and sizes is not None and workers is None:
        correct(plan.setup.pool, (sizes.tile, sizes.batch), spent.of_bare * plan.bare)
    return summary


@contextmanager
def _at_work(run: RunPlan, workers: Workers | None) -> Iterator[tuple[Client, Callable[[], int]]]:
    """A client of those who compute, with the network loaded, and what counts their threads."""
    spec = run.setup.pool
    if workers is not None:
        workers.load(spec)
        try:
            yield workers.client, workers.count_threads
        finally:
            workers.release(spec)
        return
    with local_client(run.threads) as client:
        try:
            if any(p.blocks for p in run.to_do):  # before the first slide, whose time it is not
                client.submit(load_pool, spec, pure=False).result()
            yield client, lambda: run.threads
        finally:  # before the cluster, whose threads wait for the pool
            release_pool(spec)


class _Batch:
    """The slides of ``run`` on their way: the next one begins where the blocks of those before do not fill the workers.

    Blocks that were handed over first are computed first, so the order is that of the command.
    """

    def __init__(self, run: RunPlan, client: Client, listener: Listener, count_threads: Callable[[], int]) -> None:
        self._run, self._client, self._listener, self._count_threads = run, client, listener, count_threads
        self._waiting = deque(run.to_do)
        self._jobs: list[Job] = []
        self._owner: dict[Future[Any], Job] = {}
        self._completed = as_completed()

    def attempt_all(self) -> None:
        """Segment each slide; whatever is wrong with one is told, and only a failing machine stops the run."""
        try:
            self._hand_over()
            for future in self._completed:
                job = self._owner.pop(future, None)
                if job is not None:
                    with self._attempting(job.plan):
                        job.take(future)
                    self._hand_over()
        finally:
            for job in self._jobs:
                job.cancel()

    def _hand_over(self) -> None:
        """Give the workers what they have room for, of the slides that are begun, then of the next."""
        for job in tuple(self._jobs):
            self._more_of(job)
        while self._waiting and self._room():
            plan = self._waiting.popleft()
            with self._attempting(plan):
                job = Job(plan, self._run, self._client, self._listener)
                self._jobs.append(job)
                self._more_of(job)

    def _room(self) -> int:
        """How many blocks the workers are to be given now: none while they have half of what they may have."""
        most = IN_HAND_PER_THREAD * self._count_threads()
        return most - len(self._owner) if 2 * len(self._owner) <= most else 0

    def _more_of(self, job: Job) -> None:
        with self._attempting(job.plan):
            futures = job.more(self._room())
            self._owner.update(dict.fromkeys(futures, job))
            self._completed.update(futures)
            if job.over:
                self._jobs.remove(job)

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
            log.debug("%s failed", plan.slide.path, exc_info=True)
            self._fail(plan, f"{plan.slide.file}: unexpected {type(err).__name__}: {err}")

    def _fail(self, plan: SlidePlan, error: str) -> None:
        for job in [job for job in self._jobs if job.plan is plan]:
            self._jobs.remove(job)
            for future in job.cancel():
                del self._owner[future]
        self._listener(SlideFailed(plan.slide.path, error))


def _no_memory(err: MemoryError, run: RunPlan) -> MemoryLimitError:
    """What to say when the machine, not a device, has less memory than was planned with."""
    return MemoryLimitError(
        f"the machine has not the {megabytes(run.setup.limit_bytes)} of memory that were planned with "
        f"({err or 'MemoryError'}); the same command resumes: give a --max-memory that is really there"
    )
