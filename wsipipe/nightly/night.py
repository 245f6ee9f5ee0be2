"""A night: what is in the inboxes, what is to be done with each slide, and the report of what became of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from wsipipe.errors import MachineError, ModelError, NothingFoundError, OutputError, UsageError, WsipipeError
from wsipipe.events import Listener, Warned, ignore
from wsipipe.files import Location, locate, one_name
from wsipipe.inference.tuning import recall
from wsipipe.model.model_file import ModelInfo, read_model_info
from wsipipe.nightly.config import Night
from wsipipe.nightly.failures import Failures, stats_of, version_of
from wsipipe.pipeline.config import DEFAULT_MODEL, RunConfig
from wsipipe.pipeline.dispatcher import Limits
from wsipipe.pipeline.run import run
from wsipipe.pipeline.run_plan import RunPlan, plan_run
from wsipipe.pipeline.summary import NOT_ATTEMPTED, Outcomes, SlideOutcome
from wsipipe.report import record as reports
from wsipipe.report.metrics import write_metrics
from wsipipe.report.record import NightReport, SlideReport
from wsipipe.report.webhook import post
from wsipipe.report.write import write_report
from wsipipe.slides.discover import expand
from wsipipe.version import VERSION

UNREADABLE_FACTOR = 12
"""A file that can not be opened is still being copied until it was left alone for so many times ``settle``."""
INBOX_SECONDS = 2.0
"""Between two looks at each file."""


@dataclass(frozen=True)
class Group:
    """Slides that are run with the same options, in the order in which they were found."""

    config: RunConfig
    model: ModelInfo
    slides: dict[Location, tuple[int, int]]
    """Each with the size and time of change that its file had."""


@dataclass(frozen=True)
class InboxContent:
    """What is in the inboxes."""

    groups: tuple[Group, ...]
    """What is to be done."""
    left: tuple[SlideReport, ...]
    """What is not, and why: set aside, still being copied in, or in an inbox that can not be listed."""


def run_night(
    night: Night,
    listener: Listener = ignore,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> NightReport:
    """One pass over everything that ``night`` says is to be done; its report is written in any case.

    Parameters
    ----------
    night
        As it was read.
    listener
        Is told what happens.
    clock, sleep
        Seconds since the epoch, and how to let some pass.

    Raises
    ------
    OutputError
        If the report can not be written.
    KeyboardInterrupt
        If it was interrupted; the report says so.
    """
    started, ends, heard = clock(), night.ends(clock()), Outcomes(listener)
    limits = Limits(until=ends, reserve_bytes=night.reserve_bytes, stay=True, clock=clock, sleep=sleep)
    groups: tuple[Group, ...] = ()
    rows: list[SlideReport] = []
    stopped, code = "", 0
    try:
        found = sort_inbox(night, started)
        groups, rows = found.groups, list(found.left)
        code = int(any(row.status == reports.FAILED for row in rows))
        sleep(INBOX_SECONDS if groups else 0)  # what changes meanwhile is being copied in
        for group in groups:
            slides, why, group_code = _run_group(night, group, heard, limits)
            rows += slides
            stopped, code = stopped or why, max(code, group_code)
    except BaseException as err:
        stopped, code = _why(err), _exit_code(err)
        rows += _rest(night, groups, rows, heard, Stop(clock(), stopped))
        raise
    finally:
        report = NightReport(
            started=_iso(started),
            finished=_iso(clock()),
            host=platform.node(),
            version=VERSION,
            command=str(night.path),
            slides=tuple(rows),
            stopped=stopped,
            exit_code=code,
        )
        tell_outcome(night, report, listener)
    return report


def tell_outcome(night: Night, report: NightReport, listener: Listener) -> None:
    """Write the report and the metrics, and post the outcome; what can not be posted is said.

    Raises
    ------
    OutputError
        If a file can not be written.
    """
    page = write_report(report, night.report)
    if night.config.metrics is not None:
        write_metrics(report, Path(night.place(night.config.metrics)))
    if night.config.webhook is not None:
        problem = post(night.config.webhook, report, path=str(page))
        if problem:
            listener(Warned(str(night.path), problem))  # the address may have a secret in it


def sort_inbox(night: Night, now: float) -> InboxContent:
    """What is in the inboxes of ``night``, each slide once; files are looked at, none is opened."""
    failures = Failures(locate(night.place(night.config.out)), night.digest)
    groups: dict[Hashable, Group] = {}
    left: list[SlideReport] = []
    slides, closed = slides_in(night)
    left += [SlideReport(inbox, reports.FAILED, message) for inbox, message in closed.items()]
    for slide in slides:
        quiet = seconds_left_alone(slide, now)
        failure = failures.of(slide)
        if failure is not None and failure.attempts >= night.config.retries:
            nights = "one night" if failure.attempts == 1 else f"{failure.attempts} nights"
            message = (
                f"failed in {nights}, and is tried again once its file or {night.path.name} changes: {failure.message}"
            )
            left.append(SlideReport(str(slide), reports.SET_ASIDE, message, attempts=failure.attempts))
        elif quiet < night.settle_seconds:
            message = f"changed {quiet:.0f} s ago, so it may still be copied in; it waits for the next night"
            left.append(SlideReport(str(slide), reports.WAITING, message))
        else:
            config = night.options(slide)
            key = config.model, config.mpp, config.reader, config.planes
            if key not in groups:
                groups[key] = Group(config, read_model_info(config.model or DEFAULT_MODEL), {})
            groups[key].slides[slide] = version_of(slide)
    return InboxContent(tuple(groups.values()), tuple(left))


def slides_in(night: Night) -> tuple[list[Location], dict[str, str]]:
    """The slides in the inboxes, each once; and by their names those that can not be listed, and why."""
    found: dict[str, Location] = {}
    closed: dict[str, str] = {}
    for text in night.config.inbox:
        try:
            for slide in expand([night.place(text)]):
                found.setdefault(one_name(slide), slide)
        except NothingFoundError:  # it is empty
            continue
        except UsageError as err:
            closed[night.place(text)] = str(err)
    return list(found.values()), closed


def seconds_left_alone(slide: Location, now: float) -> float:
    """How long nothing of ``slide``, a file or a folder, was changed; 0 for one that is gone again.

    The time of a file's entry counts as well as that of its content, which copying tools set to the original's. Times
    in the future are those of another clock, and say nothing.
    """
    try:
        latest = max(there.changed for there in stats_of(slide))
    except OSError:
        return 0.0
    return now - latest if latest <= now else float("inf")


@dataclass(frozen=True)
class Stop:
    """When a group of slides ended, and why before they were all attempted."""

    at: float
    """In seconds since the epoch."""
    why: str = ""
    """Empty if they were."""


def _run_group(night: Night, group: Group, heard: Outcomes, limits: Limits) -> tuple[list[SlideReport], str, int]:
    """What became of the slides of one group, why it ended early, and its exit code."""
    rows, steady = [], []
    for slide, version in group.slides.items():
        if version_of(slide) == version:
            steady.append(slide)
        else:
            message = "it is still being copied in; the next night takes it"
            rows.append(SlideReport(str(slide), reports.WAITING, message))
    if not steady:
        return rows, "", 0
    try:
        summary = run(steady, group.config, heard, limits=limits)
    except WsipipeError as err:
        return rows + _rest(night, (group,), rows, heard, Stop(limits.clock(), str(err))), str(err), _exit_code(err)
    stop = Stop(limits.clock(), summary.stopped or summary.ended)
    for outcome in summary.slides:
        spent = summary.account(outcome)
        row = _row(night, group, outcome, heard, stop)
        rows.append(replace(row, bottleneck="" if spent is None else spent.bottleneck))
    failed = any(row.status == reports.FAILED for row in rows)
    return rows, stop.why, 3 if summary.stopped else int(failed)


def _rest(
    night: Night, groups: Iterable[Group], rows: Iterable[SlideReport], heard: Outcomes, stop: Stop
) -> list[SlideReport]:
    """What became of the slides of ``groups`` that ``rows`` do not tell of, as far as was heard."""
    told = {row.slide for row in rows}
    return [
        _row(night, group, heard.in_order([str(slide)])[0], heard, stop)
        for group in groups
        for slide in group.slides
        if str(slide) not in told
    ]


def _row(night: Night, group: Group, slide: SlideOutcome, heard: Outcomes, stop: Stop) -> SlideReport:
    """The row of the report for ``slide``; a failure is noted, and one that is none any more forgotten."""
    failures = Failures(locate(group.config.out), night.digest)
    path, message, attempts = locate(slide.slide), slide.message, 0
    status = reports.OPEN if slide.status == NOT_ATTEMPTED else slide.status
    never_opened = status == reports.FAILED and slide.store is None
    if stop.why and slide.message == stop.why:  # not the slide's fault
        status = reports.OPEN
    elif never_opened and seconds_left_alone(path, stop.at) < UNREADABLE_FACTOR * night.settle_seconds:
        status, message = reports.WAITING, f"changed lately, so it may still be copied in: {message}"
    elif status == reports.FAILED:
        attempts = _count(failures, path, message, stop.at, heard)
    elif status in (reports.DONE, reports.SKIPPED, reports.NO_TISSUE):
        failures.forget(path)
    if status == reports.OPEN:
        message = message or stop.why
    return SlideReport(
        slide=slide.slide,
        status=status,
        message=message if status not in (reports.DONE, reports.NO_TISSUE) else "",
        store=slide.store,
        seconds=slide.seconds,
        pixels=slide.pixels,
        skipped=slide.skipped,
        warnings=tuple(slide.warnings),
        attempts=attempts,
        model=group.model.spec.name,
        model_sha256=group.model.sha256,
    )


def _count(failures: Failures, slide: Location, message: str, now: float, listener: Listener) -> int:
    """In how many nights ``slide`` failed, with this one; where that can not be kept it is said, and is the first."""
    try:
        return failures.add(slide, message, now).attempts
    except OutputError as err:
        listener(Warned(str(slide), f"that it failed is not remembered: {err}"))
        return 1


def _why(err: BaseException) -> str:
    """Why a night ended that ``err`` ended."""
    if isinstance(err, KeyboardInterrupt):
        return "it was interrupted; the next night resumes"
    return str(err) if isinstance(err, WsipipeError) else f"unexpected {type(err).__name__}: {err}"


def _exit_code(err: BaseException) -> int:
    """That of a night that ``err`` ended."""
    if isinstance(err, KeyboardInterrupt):
        return 130
    return 3 if isinstance(err, MachineError) else 2 if isinstance(err, UsageError | ModelError) else 1


@dataclass(frozen=True)
class Projection:
    """What one group of slides would take."""

    plan: RunPlan
    hours: float | None
    """By the speed that was measured before; None where none was."""
    output_bytes: int
    """The most, before compression."""


def project(night: Night, now: float) -> tuple[InboxContent, list[Projection]]:
    """What ``night`` would do if it began ``now``: headers are read, nothing is written.

    Raises
    ------
    WsipipeError
        As `plan_run` would.
    """
    found = sort_inbox(night, now)
    return found, [_project(plan_run(list(group.slides), group.config)) for group in found.groups]


def _project(plan: RunPlan) -> Projection:
    to_do = plan.to_do
    through = sum(p.pixels * ((p.grid.core + p.grid.receptive.margin) / p.grid.core) ** 2 for p in to_do)
    speeds = recall(plan.setup.pool)
    hours = through / max(speeds.values()) / plan.all_devices / 3600 if speeds else None
    return Projection(plan, hours, sum(p.store.raw_bytes for p in to_do))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
