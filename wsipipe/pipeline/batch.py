"""A run over many slides: every one is attempted, and one that fails does not stop the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from distributed import Client

from wsipipe.errors import SlideError, WsipipeError
from wsipipe.events import Listener, RunStarted, SlideFailed, SlideSkipped, Warned, ignore
from wsipipe.inference.pool import close_resident_pools
from wsipipe.labels.store import discard_replaced
from wsipipe.pipeline.config import RunConfig, Setup
from wsipipe.pipeline.look import Refused, plan_run
from wsipipe.pipeline.machine import peak_bytes
from wsipipe.pipeline.outcome import Outcomes, RunSummary
from wsipipe.pipeline.plan import SKIP, SlidePlan
from wsipipe.pipeline.scheduler import local_client
from wsipipe.pipeline.segment import run_slide

log = logging.getLogger(__name__)


def run(slides: Sequence[str], config: RunConfig | None = None, listener: Listener = ignore) -> RunSummary:
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
        If there is no such device, no memory or no space. What was done stays, and the same run resumes.
    """
    started = time.perf_counter()
    plan = plan_run(slides, config or RunConfig())
    outcomes = Outcomes(listener)
    to_do = [p for p in plan.planned if p.action != SKIP]
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
    if to_do:
        with local_client(plan.threads) as client:
            try:
                for slide in to_do:
                    _attempt(slide, plan.setup, client, outcomes)
            finally:  # before the cluster, whose threads wait for the pool
                close_resident_pools()
    return RunSummary(
        out=plan.setup.config.out,
        bundle=plan.setup.bundle.path,
        slides=outcomes.in_order(p.path if isinstance(p, Refused) else p.slide.path for p in plan.slides),
        seconds=time.perf_counter() - started,
        threads=plan.threads,
        projected_bytes=max(map(plan.memory_bytes, to_do), default=plan.base_bytes),
        peak_bytes=peak_bytes(),
    )


def _attempt(plan: SlidePlan, setup: Setup, client: Client, listener: Listener) -> None:
    """Segment one slide; whatever is wrong with it is told, and only a failing machine stops the run."""
    try:
        run_slide(plan, setup, client, listener)
    except SlideError as err:
        listener(SlideFailed(plan.slide.path, str(err)))
    except WsipipeError:
        raise
    except Exception as err:  # a fault of wsipipe or of a library: the night goes on, and the log has the trace
        log.debug("%s failed", plan.slide.path, exc_info=True)
        listener(SlideFailed(plan.slide.path, f"{plan.slide.file}: unexpected {type(err).__name__}: {err}"))
