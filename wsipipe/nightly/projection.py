"""What a night would do, and what it would cost: the plans of its groups of slides, with hours and space."""

from __future__ import annotations

from dataclasses import dataclass

from wsipipe.inference.speeds import recall
from wsipipe.nightly.config import Night
from wsipipe.nightly.night import InboxContent, sort_inbox
from wsipipe.pipeline.run_plan import RunPlan, plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.slide_plan import MEASURE


@dataclass(frozen=True)
class Projection:
    """The projected cost of one group of slides."""

    plan: RunPlan
    seconds: float | None
    """From the speeds measured before; None if there are none."""
    output_bytes: int
    """Upper bound of the results, before compression."""


def project(night: Night, now: float) -> tuple[InboxContent, list[Projection]]:
    """What ``night`` would do if it began at ``now``, in seconds since the epoch; reads headers only, writes nothing.

    Raises
    ------
    WsipipeError
        As `plan_run` and `sort_inbox`.
    """
    inbox = sort_inbox(night, now)
    return inbox, [_project(plan_run(list(group.slides), resolve(group.config))) for group in inbox.groups]


def _project(plan: RunPlan) -> Projection:
    to_do = plan.to_do
    pool = plan.setup.pool
    through = pool.passes * sum(
        p.pixels
        * (1.0 if p.region is None else p.region.share)
        * ((p.grid.core + p.grid.receptive.margin) / p.grid.core) ** 2
        for p in to_do
    )
    speeds = recall(pool)
    seconds = through / max(speeds.values()) / plan.all_devices if speeds else None
    return Projection(plan, seconds if to_do else 0.0, sum(p.store.raw_bytes for p in to_do if p.action != MEASURE))
