"""A run over many slides: each is attempted, and one that fails does not stop the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from distributed import Client

from wsipipe.errors import MachineError
from wsipipe.events import ClusterReady, GpuUnused, Listener, RunStarted, SlideFailed, SlideSkipped, Warned, ignore
from wsipipe.files import Named, absolute, locate, make_folder
from wsipipe.inference.pool import load_pool, release_pool
from wsipipe.inference.speeds import correct
from wsipipe.leases.lease import LEASE
from wsipipe.leases.leases import remove_if_dead
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import read_model_info
from wsipipe.pipeline.cluster.connect import connect_cluster
from wsipipe.pipeline.cluster.in_process import local_client
from wsipipe.pipeline.cluster.patience import QUEUE_SECONDS, Patience
from wsipipe.pipeline.cluster.workers import Workers
from wsipipe.pipeline.config import KUBERNETES, SLURM, RunConfig
from wsipipe.pipeline.dispatcher import NO_LIMITS, Dispatcher, Limits
from wsipipe.pipeline.machine import peak_bytes
from wsipipe.pipeline.measured_sizes import ask_here, gain, tune
from wsipipe.pipeline.run_plan import Refused, RunPlan, plan_run
from wsipipe.pipeline.setup import Setup, compute_request, resolve
from wsipipe.pipeline.slide_plan import SKIP
from wsipipe.pipeline.summary import Outcomes, RunSummary
from wsipipe.report.watched import watched_run
from wsipipe.store.lifecycle import discard_replaced
from wsipipe.store.zarr_settings import own_zarr_settings
from wsipipe.tissue.mask_file import is_file

RAN_IN: set[int] = set()
"""Process ids in which a run has begun: that of this process, and those that it was forked from."""


def run(
    slides: Sequence[Named],
    config: RunConfig | None = None,
    listener: Listener | None = None,
    *,
    progress: bool | None = None,
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
        Receives every event, in this thread.
    progress
        Whether to show the progress, and the lines of the command line. None: in a terminal and in a notebook, unless
        there is a listener.
    limits
        When to stop in good order, and whether to wait for slides that other runners have.

    Raises
    ------
    UsageError, ModelError
        If what was asked for is not possible.
    MachineError
        If a device is missing, no slide fits into the memory, or this process was forked after a run. What fails the
        machine later, such as a full disk, ends the run and stands in the summary: what was done stays, and the same
        run resumes.
    """
    _check_process()
    if progress is None and listener is not None:
        progress = False
    with watched_run(progress) as shown:
        return _run_where_asked(slides, config or RunConfig(), Outcomes(shown, listener or ignore), limits)


def _run_where_asked(slides: Sequence[Named], config: RunConfig, outcomes: Outcomes, limits: Limits) -> RunSummary:
    """As `run`: in this process, or on a cluster."""
    started = time.perf_counter()
    if config.cluster is None:
        with own_zarr_settings():
            return _run(slides, resolve(config), outcomes, None, limits, started)
    model = read_model_info(config.model or DEFAULT_MODEL)
    asked = compute_request(config, model)
    with own_zarr_settings(), connect_cluster(config.cluster, asked, config.threads) as (client, request):
        started = time.perf_counter()  # without the time that a queue takes
        patience = QUEUE_SECONDS if config.cluster.kind in (SLURM, KUBERNETES) else None
        workers = Workers(client, request, model, patience)
        site = workers.site()
        outcomes(ClusterReady(workers.address, workers.dashboard, site.processes, workers.count_threads()))
        setup = resolve(config, site)
        return _run(slides, setup, outcomes, workers, limits, started)


def _check_process() -> None:
    """Raise a MachineError in a process that was forked after a run."""
    if RAN_IN and os.getpid() not in RAN_IN:
        raise MachineError(
            "this process was forked from one that had run before, without the threads that libraries started there; "
            "start it by the method spawn of multiprocessing, or fork before the first run"
        )
    RAN_IN.add(os.getpid())


def _run(
    slides: Sequence[Named],
    setup: Setup,
    outcomes: Outcomes,
    workers: Workers | None,
    limits: Limits,
    started: float,
) -> RunSummary:
    """As `run`, by ``workers``, or in this process."""
    plan = plan_run(slides, setup)
    _tell_plan(plan, outcomes)
    stopped, ended, computing_seconds, sizes, lower = "", "", 0.0, None, None
    try:
        if plan.to_do:
            make_folder(locate(setup.out))
            if workers is not None:
                masks = [str(absolute(setup.tissue))] if is_file(setup.tissue) else []
                workers.check_paths([*(p.slide.levels[0].path for p in plan.to_do), *masks], setup.out)
        if any(p.blocks for p in plan.to_do):
            ask = ask_here if workers is None else workers.ask
            plan, sizes = tune(plan, ask)
            outcomes(sizes)
            if (lower := gain(plan, sizes, ask)) is not None:
                outcomes(lower)
        if plan.to_do:
            with _at_work(plan, workers) as (client, count_threads):
                computing = time.perf_counter()
                patience = Patience(client) if workers is None else workers.patience
                try:
                    ended = Dispatcher(plan, client, outcomes, count_threads, limits, patience).run()
                finally:
                    computing_seconds = time.perf_counter() - computing
    except MachineError as err:
        stopped = str(err)
    summary = RunSummary(
        out=setup.out,
        model=setup.model.path,
        slides=outcomes.in_order(p.path if isinstance(p, Refused) else p.slide.path for p in plan.slides),
        seconds=time.perf_counter() - started,
        threads=plan.all_threads,
        devices=plan.all_devices,
        computing_seconds=computing_seconds,
        bare=plan.measured_bare,
        projected_bytes=max(map(plan.memory_bytes, plan.to_do), default=plan.base_bytes),
        peak_bytes=peak_bytes(),
        lower_precision=lower,
        stopped=stopped,
        ended=ended,
    )
    if sizes is not None and workers is None and computing_seconds:
        each = sum(slide.computed for slide in summary.slides) / (computing_seconds * plan.all_devices)
        correct(plan.setup.pool, (sizes.tile, sizes.batch), each)
    return summary


def _tell_plan(plan: RunPlan, outcomes: Outcomes) -> None:
    """Say what there is to do, which slides are refused, and which are skipped."""
    setup, to_do = plan.setup, plan.to_do
    outcomes(
        RunStarted(
            blocks=sum(len(p.blocks) for p in to_do),
            pixels=sum(p.pixels for p in to_do),
            slides=len(to_do),
            model=setup.model.spec.name,
            devices=setup.site.names,
            processes=setup.site.processes,
        )
    )
    if setup.site.fallback and any(p.blocks for p in to_do):
        outcomes(GpuUnused(setup.site.fallback))
    if plan.table_warning and plan.setup.slides.table is not None:
        outcomes(Warned(plan.setup.slides.table.name, plan.table_warning))
    for slide in plan.slides:
        if isinstance(slide, Refused):
            outcomes(SlideFailed(slide.path, slide.error))
            continue
        for warning in slide.slide.warnings:
            outcomes(Warned(slide.slide.path, warning))
        if slide.action == SKIP:
            discard_replaced(slide.store)
            remove_if_dead(locate(slide.store.path + LEASE))
            outcomes(SlideSkipped(slide.slide.path, slide.store.path, slide.reason))


@contextmanager
def _at_work(run: RunPlan, workers: Workers | None) -> Iterator[tuple[Client, Callable[[], int]]]:
    """A client of the processes that compute, with the network loaded, and a function that counts their threads."""
    pool = run.setup.pool
    if workers is not None:
        workers.load(pool)
        try:
            yield workers.client, workers.count_threads
        finally:
            workers.release(pool)
        return
    with local_client(run.threads) as client:
        try:
            if any(p.blocks for p in run.to_do):  # before the first slide, so that its time does not include it
                client.submit(load_pool, pool, pure=False).result()
            yield client, lambda: run.threads
        finally:  # before the cluster, whose threads wait for the pool
            release_pool(pool)
