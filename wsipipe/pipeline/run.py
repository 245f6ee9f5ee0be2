"""A run over many slides: every one is attempted, and one that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from distributed import Client

from wsipipe.errors import MachineError
from wsipipe.events import ClusterReady, Listener, RunStarted, SlideFailed, SlideSkipped, Warned, ignore
from wsipipe.files import Named, absolute, locate, make_folder
from wsipipe.inference.pool import load_pool, release_pool
from wsipipe.inference.tuning import correct
from wsipipe.leases.lease import LEASE
from wsipipe.leases.leases import remove_if_dead
from wsipipe.pipeline.cluster.connect import connect_cluster
from wsipipe.pipeline.cluster.in_process import local_client
from wsipipe.pipeline.cluster.local import seen_by_workers
from wsipipe.pipeline.cluster.workers import Workers
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.dispatcher import NO_LIMITS, Dispatcher, Limits
from wsipipe.pipeline.machine import peak_bytes
from wsipipe.pipeline.measured_sizes import ask_here, tune
from wsipipe.pipeline.run_plan import Refused, RunPlan, plan_run
from wsipipe.pipeline.slide_plan import SKIP
from wsipipe.pipeline.summary import Outcomes, RunSummary
from wsipipe.store.lifecycle import discard_replaced
from wsipipe.tissue.mask_file import is_file


def run(
    slides: Sequence[Named],
    config: RunConfig | None = None,
    listener: Listener = ignore,
    *,
    limits: Limits = NO_LIMITS,
) -> RunSummary:
    """Segment ``slides`` (files, folders, patterns, URLs) into ``config.out``; slides that are done are skipped.

    Parameters
    ----------
    slides
        Paths or URLs of slides, of folders of slides, or patterns.
    config
        What to use and where to write.
    listener
        Is told what happens, from this thread.
    limits
        When to stop in good order, and whether to wait for slides that other runners have.

    Raises
    ------
    UsageError, ModelError
        If what was asked for is not possible.
    MachineError
        If there is no such device, or no memory for any slide. What fails the machine later, such as a full disk,
        ends the run and stands in the summary: what was done stays, and the same run resumes.
    """
    config = config or RunConfig()
    if not config.on_cluster:
        return _run(slides, config, Outcomes(listener), None, limits)
    with connect_cluster(config) as client:
        config = seen_by_workers(config)
        return _run(slides, config, Outcomes(listener), Workers(client, config), limits)


def _run(
    slides: Sequence[Named],
    config: RunConfig,
    outcomes: Outcomes,
    workers: Workers | None,
    limits: Limits,
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
                remove_if_dead(locate(slide.store.path + LEASE))
                outcomes(SlideSkipped(slide.slide.path, slide.store.path, slide.reason))
    stopped, ended, computing_seconds, sizes = "", "", 0.0, None
    try:
        if to_do:
            make_folder(locate(config.out))
        if to_do and workers is not None:
            given = [str(absolute(config.tissue))] if is_file(config.tissue) else []
            workers.check_paths([*(p.slide.path for p in to_do), *given], config.out)
        if any(p.blocks for p in to_do):
            plan, sizes = tune(plan, ask_here if workers is None else workers.ask)
            outcomes(sizes)
        if to_do:
            with _at_work(plan, workers) as (client, count_threads):
                computing = time.perf_counter()
                try:
                    ended = Dispatcher(plan, client, outcomes, count_threads, limits).attempt_all()
                finally:
                    computing_seconds = time.perf_counter() - computing
    except MachineError as err:
        stopped = str(err)
    summary = RunSummary(
        out=config.out,
        model=plan.setup.model.path,
        slides=outcomes.in_order(p.path if isinstance(p, Refused) else p.slide.path for p in plan.slides),
        seconds=time.perf_counter() - started,
        threads=plan.all_threads,
        devices=plan.all_devices,
        computing_seconds=computing_seconds,
        bare=plan.bare,
        projected_bytes=max(map(plan.memory_bytes, plan.to_do), default=plan.base_bytes),
        peak_bytes=peak_bytes(),
        stopped=stopped,
        ended=ended,
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
