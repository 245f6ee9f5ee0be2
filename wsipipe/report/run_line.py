"""The lines of a run as text: one for most of its events, and how many of them are said."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from wsipipe.events import (
    ClusterReady,
    Event,
    GpuUnused,
    ObjectsFound,
    OfSlide,
    PrecisionGain,
    RunStarted,
    SizesChosen,
    SlideDone,
    SlideEmpty,
    SlideFailed,
    SlideLeft,
    SlideSkipped,
    SlideStarted,
    SlideTaken,
    TissueFound,
    Warned,
)
from wsipipe.report.words import amount, count_of


class Verbosity(IntEnum):
    """How much a command says; each level says what those before it say."""

    QUIET = 0
    """Problems: warnings, and slides that failed."""
    NORMAL = 1
    """The progress, and the result."""
    VERBOSE = 2
    """What was chosen and measured, where the time went, and the traces of unexpected errors."""


def run_line(event: Event, verbosity: Verbosity = Verbosity.NORMAL) -> str | None:
    """The line of ``event``; None for one that only moves the progress, or is for a higher verbosity."""
    problem = _problem(event)
    if problem is not None or verbosity == Verbosity.QUIET:
        return problem
    if isinstance(event, SizesChosen):
        return _sizes(event) if verbosity == Verbosity.VERBOSE else None
    return _course_of_run(event) or _course_of_slide(event)


def name_of(event: OfSlide) -> str:
    """The file name of the slide of ``event``."""
    return Path(event.slide).name


def _problem(event: Event) -> str | None:
    match event:
        case GpuUnused():
            return f"warning: {event.reason}"
        case TissueFound(how="not readable"):
            return f"{name_of(event)}: tissue cannot be found (not readable), so the whole slide is segmented"
        case SlideFailed():
            return f"{name_of(event)}: FAILED: {event.error}"
        case Warned():
            return f"{name_of(event)}: warning: {event.message}"
    return None


def _course_of_run(event: Event) -> str | None:
    match event:
        case RunStarted() if event.blocks:
            where = f"{count_of(event.processes, 'worker')}, each on " if event.processes > 1 else ""
            slides = f"{count_of(event.slides, 'slide')}, {amount(event.pixels)}"
            return f"{event.model} on {where}{', '.join(event.devices)}: {slides} to do"
        case ClusterReady():
            return (
                f"{event.workers} workers with {event.threads} blocks in flight at {event.scheduler}; "
                f"dashboard: {event.dashboard}"
            )
        case PrecisionGain():
            return (
                f"{event.precision} would be {event.speed:.1f} times as fast here; {event.differing:.2%} of the labels "
                f"of a tile differ (--precision {event.precision})"
            )
    return None


def _sizes(event: SizesChosen) -> str:
    how = f"measured in {event.seconds:.1f} s" if event.seconds else "as measured before"
    replicas = f"{event.devices} replicas, " if event.devices > 1 else ""
    bare = f"bare network {event.bare / 1e6:.2f} MP/s with margins, {how}"
    return (
        f"{event.engine}, {replicas}tile {event.tile}, batch {event.batch}, block {event.block}, "
        f"{event.threads} blocks in flight; {bare if event.measured else 'too little to do to measure them'}"
    )


def _course_of_slide(event: Event) -> str | None:
    match event:
        case SlideStarted():
            size = f"{event.pixels_to_do / 1e6:.1f} MP"
            region = "" if event.region_share is None else f"; region on {event.region_share:.1%} of the slide"
            return f"{name_of(event)}: {event.blocks_to_do} of {event.blocks} blocks to do, {size}{region}"
        case TissueFound():
            return f"{name_of(event)}: tissue covers {event.share:.0%} ({event.how})"
        case SlideEmpty():
            return f"{name_of(event)}: no tissue, complete in {event.seconds:.1f} s -> {event.store}"
        case ObjectsFound():
            return f"{name_of(event)}: {sum(one.objects for one in event.classes):,} objects"
        case SlideDone():
            return f"{name_of(event)}: done in {event.seconds:.1f} s -> {event.store}"
        case SlideSkipped():
            return f"{name_of(event)}: skipped, {event.reason} -> {event.store}"
        case SlideTaken():
            return f"{name_of(event)}: taken {'over ' if event.over else ''}by {event.holder}"
        case SlideLeft():
            return f"{name_of(event)}: open, {event.reason}"
    return None
