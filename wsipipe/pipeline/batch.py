"""A run over many slides: every one is attempted, and one that fails does not stop the others."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from distributed import Client

from wsipipe.errors import MachineError, MemoryLimitError, SlideError, WsipipeError
from wsipipe.events import Listener, RunStarted, SlideFailed, SlideSkipped, Warned, ignore
from wsipipe.inference.pool import load_pool, release_pool
from wsipipe.inference.tuning import correct
from wsipipe.labels.store import discard_replaced
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.look import Refused, RunPlan, megabytes, plan_run
from wsipipe.pipeline.machine import peak_bytes
from wsipipe.pipeline.outcome import Outcomes, RunSummary
from wsipipe.pipeline.plan import SKIP, SlidePlan
from wsipipe.pipeline.scheduler import local_client
from wsipipe.pipeline.segment import run_slide
from wsipipe.pipeline.tune import tune

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
    started = time.perf_counter()
    plan = plan_run(slides, config or RunConfig())
    outcomes = Outcomes(listener)
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
    stopped = ""
    try:
        if any(p.blocks for p in to_do):
            plan, sizes = tune(plan)
            outcomes(sizes)
        if to_do:
            _attempt_all(plan, outcomes)
    except MachineError as err:
        stopped = str(err)
    summary = RunSummary(
        out=plan.setup.config.out,
        bundle=plan.setup.bundle.path,
        slides=outcomes.in_order(p.path if isinstance(p, Refused) else p.slide.path for p in plan.slides),
        seconds=time.perf_counter() - started,
        threads=plan.threads,
        devices=len(plan.setup.devices),
        bare=plan.bare,
        projected_bytes=max(map(plan.memory_bytes, plan.to_do), default=plan.base_bytes),
        peak_bytes=peak_bytes(),
        stopped=stopped,
    )
    spent = summary.account()
    if spent is not None:
        correct(plan.setup.pool, (sizes.tile, sizes.batch), spent.of_bare * plan.bare)
    return summary


def _attempt_all(run: RunPlan, listener: Listener) -> None:
    """Segment the slides of ``run``, one after the other."""
    with local_client(run.threads) as client:
        try:
            if any(p.blocks for p in run.to_do):  # before the first slide, whose time it is not
                client.submit(load_pool, run.setup.pool, pure=False).result()
            for slide in run.to_do:
                _attempt(slide, run, client, listener)
        finally:  # before the cluster, whose threads wait for the pool
            release_pool(run.setup.pool)


def _attempt(plan: SlidePlan, run: RunPlan, client: Client, listener: Listener) -> None:
    """Segment one slide; whatever is wrong with it is told, and only a failing machine stops the run."""
    try:
        run_slide(plan, run, client, listener)
    except SlideError as err:
        listener(SlideFailed(plan.slide.path, str(err)))
    except (MachineError, MemoryError) as err:
        error = err if isinstance(err, MachineError) else _no_memory(err, run)
        listener(SlideFailed(plan.slide.path, str(error)))
        raise error from err
    except WsipipeError:
        raise
    except Exception as err:  # a fault of wsipipe or of a library: the night goes on; the trace is logged
        log.debug("%s failed", plan.slide.path, exc_info=True)
        listener(SlideFailed(plan.slide.path, f"{plan.slide.file}: unexpected {type(err).__name__}: {err}"))


def _no_memory(err: MemoryError, run: RunPlan) -> MemoryLimitError:
    """What to say when the machine, not a device, has less memory than was planned with."""
    return MemoryLimitError(
        f"the machine has not the {megabytes(run.setup.limit_bytes)} of memory that were planned with "
        f"({err or 'MemoryError'}); the same command resumes: give a --max-memory that is really there"
    )
