"""A night: sort the slides in the inboxes, segment those that are ready, and report what became of each."""

from __future__ import annotations

import glob
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from wsipipe.errors import MachineError, ModelError, NothingFoundError, OutputError, UsageError, WsipipeError
from wsipipe.events import Listener, Warned, ignore
from wsipipe.files import Location, locate
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import ModelInfo, read_model_info
from wsipipe.nightly.config import Night, matches
from wsipipe.nightly.failures import Failure, Failures, size_and_change, stats_of
from wsipipe.nightly.remedies import InNight, in_night, with_table
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.dispatcher import Limits
from wsipipe.pipeline.run import run
from wsipipe.pipeline.summary import NOT_ATTEMPTED, Outcomes, SlideOutcome
from wsipipe.redaction import without_secrets
from wsipipe.report import record as reports
from wsipipe.report.metrics import write_metrics
from wsipipe.report.record import NightReport, SlideReport
from wsipipe.report.webhook import post
from wsipipe.report.write import PAGE, write_report
from wsipipe.slides.discover import expand, is_whole, slide_key
from wsipipe.version import VERSION

UNREADABLE_FACTOR = 12
"""A file that cannot be opened counts as still being copied until it was left alone for this many times ``settle``."""
INBOX_SECONDS = 2.0
"""Seconds between two checks of each file for changes."""


@dataclass(frozen=True)
class Group:
    """Slides that are run with the same options, in the order in which they were found."""

    config: RunConfig
    """Their options."""
    model: ModelInfo
    """Their model."""
    failures: Failures
    """The failures of slides with these options."""
    slides: dict[Location, tuple[int, int]]
    """Each with the size and time of change of its file, as `size_and_change`, when it was found."""


@dataclass(frozen=True)
class InboxContent:
    """The content of the inboxes."""

    groups: tuple[Group, ...]
    """The slides to segment."""
    left: tuple[SlideReport, ...]
    """Slides that the night leaves, and why: set aside or still being copied in; inboxes that cannot be listed."""
    warnings: tuple[tuple[str, str], ...] = ()
    """Lines of the night's file whose pattern matches nothing, as ``night.toml:2``, each with the warning."""
    failed: tuple[Failure, ...] = ()
    """The failures in earlier nights of slides that are tried again."""


def run_night(
    night: Night,
    listener: Listener = ignore,
    *,
    told: Callable[[NightReport], object] = lambda _: None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> NightReport:
    """Make one pass over the inboxes of ``night``; its report is written in any case.

    Parameters
    ----------
    night
        The configuration, as `read_night` returns it.
    listener
        Receives the events.
    told
        Receives the report once it is written, also that of a night which an exception ends.
    clock, sleep
        Functions that return the seconds since the epoch, and that wait for a number of seconds.

    Raises
    ------
    OutputError
        If the report cannot be written.
    ModelError
        If a model cannot be read; the report says so.
    KeyboardInterrupt
        If the night was interrupted; the report says so.
    """
    started, ends, heard = clock(), night.ends(clock()), Outcomes(listener)
    limits = Limits(until=ends, reserve_bytes=night.reserve_bytes, stay=True, clock=clock, sleep=sleep)
    groups: tuple[Group, ...] = ()
    rows: list[SlideReport] = []
    stopped, code, warnings = "", 0, list[str]()
    try:
        inbox = sort_inbox(night, started)
        groups, rows = inbox.groups, list(inbox.left)
        for line, warning in inbox.warnings:
            warnings.append(f"{line}: {warning}")
            listener(Warned(line, warning))
        code = int(any(row.status == reports.FAILED for row in rows))
        sleep(INBOX_SECONDS if groups else 0)  # a file that changes meanwhile is still being copied in
        for group in groups:
            slides, why, group_code = _run_group(night, group, heard, limits)
            rows += slides
            stopped, code = stopped or why, max(code, group_code)
    except BaseException as err:
        stopped, code = _reason(err), _exit_code(err)
        rows += _missing_rows(night, groups, rows, heard, Stop(clock(), stopped))
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
            warnings=tuple(warnings),
        )
        tell_outcome(night, report, listener)
        told(report)
    return report


def sort_inbox(night: Night, now: float) -> InboxContent:
    """Sort the slides in the inboxes of ``night``, each once, into those to segment and those left; opens no slide.

    Raises
    ------
    ModelError
        If a model cannot be read.
    """
    slides, unlisted, warnings = slides_in(night)
    if slides:
        warnings += _unmatched_tables(night, slides)
    failed: list[Failure] = []
    left = [SlideReport(inbox, reports.FAILED, message) for inbox, message in unlisted.items()]
    groups: dict[Hashable, Group] = {}
    failures: dict[Hashable, Failures] = {}
    for slide in slides:
        config = night.options(slide)
        key = config.model, config.mpp, config.reader, config.planes, config.roi
        if key not in failures:
            failures[key] = Failures(locate(config.out), night.digest(config))
        failure = failures[key].of(slide)
        row = _row_of_left(slide, night, failure, now)
        if row is not None:
            left.append(row)
            continue
        failed += [failure] if failure else []
        if key not in groups:
            groups[key] = Group(config, read_model_info(config.model or DEFAULT_MODEL), failures[key], {})
        groups[key].slides[slide] = size_and_change(slide)
    return InboxContent(tuple(groups.values()), tuple(left), tuple(warnings), tuple(failed))


def _unmatched_tables(night: Night, slides: Iterable[Location]) -> Iterator[tuple[str, str]]:
    """The line of each table ``[[slides]]`` that matches none of ``slides``, and the warning."""
    for i, table in enumerate(night.config.slides):
        if not any(matches(table.match, slide) for slide in slides):
            compared = "it is compared with the whole name of each file, and with its whole path"
            yield night.line("slides", i, "match"), f'[[slides]] match "{table.match}" matches no slide; {compared}'


def _row_of_left(slide: Location, night: Night, failure: Failure | None, now: float) -> SlideReport | None:
    """The row of a slide that the night leaves: it is set aside, or may still be copied in; None for all others."""
    quiet = seconds_left_alone(slide, now)
    if failure is not None and failure.attempts >= night.config.retries:
        again = f"it is tried again once its file, {night.path.name}, or its model or region changes"
        message = f"failed in {failure.nights}; {again}: {failure.message}"
        message = with_table(message, slide.name)
        return SlideReport(str(slide), reports.SET_ASIDE, message, attempts=failure.attempts)
    if quiet < night.settle_seconds:
        message = (
            f"changed {quiet:.0f} s ago, and settle = {night.config.settle!r}, so copying may not have finished; "
            "the next night takes it"
        )
        return SlideReport(str(slide), reports.WAITING, message)
    return None


def slides_in(night: Night) -> tuple[list[Location], dict[str, str], list[tuple[str, str]]]:
    """The slides in the inboxes, each once; the error of each inbox that cannot be listed, by its name; and warnings.

    A pattern that matches no file is warned of, with the line of the inboxes. A folder without slides is not.
    """
    found: dict[str, Location] = {}
    unlisted: dict[str, str] = {}
    warnings: list[tuple[str, str]] = []
    for text in night.config.inbox:
        try:
            for slide in expand([night.place(text)], lambda file: _is_whole(night, file)):
                found.setdefault(slide_key(slide), slide)
        except NothingFoundError:
            if glob.has_magic(text):
                warnings.append((night.line("inbox"), f"inbox {text} matches no file"))
        except UsageError as err:
            unlisted[without_secrets(night.place(text))] = str(err)
    return list(found.values()), unlisted, warnings


def _is_whole(night: Night, file: Location) -> bool:
    """See `is_whole`, by the table of ``file``."""
    options = night.options(file)
    return is_whole(options.reader, options.planes)


def seconds_left_alone(slide: Location, now: float) -> float:
    """Seconds since anything of ``slide``, a file or a folder, last changed; 0 if it is gone.

    The time of a file's metadata counts, too, because copying tools set that of its content to the original's. A time
    in the future comes from another clock and says nothing: then the result is infinite.
    """
    try:
        latest = max(stat.changed for stat in stats_of(slide))
    except OSError:
        return 0.0
    return now - latest if latest <= now else float("inf")


@dataclass(frozen=True)
class Stop:
    """The end of a group of slides, and its cause, if not all were attempted."""

    at: float
    """In seconds since the epoch."""
    why: str = ""
    """Empty if all slides were attempted."""


def _run_group(night: Night, group: Group, heard: Outcomes, limits: Limits) -> tuple[list[SlideReport], str, int]:
    """Segment the slides of one group. Returns their rows, why the group ended early, and its exit code."""
    rows, steady = [], []
    for slide, version in group.slides.items():
        if size_and_change(slide) == version:
            steady.append(slide)
        else:
            message = "still being copied in; the next night takes it"
            rows.append(SlideReport(str(slide), reports.WAITING, message))
    if not steady:
        return rows, "", 0
    try:
        summary = run(steady, group.config, InNight(heard), limits=limits)
    except WsipipeError as err:
        stop = Stop(limits.clock(), in_night(str(err)))
        return rows + _missing_rows(night, (group,), rows, heard, stop), stop.why, _exit_code(err)
    stop = Stop(limits.clock(), in_night(summary.stopped or summary.ended))
    for outcome in summary.slides:
        spent = summary.account(outcome)
        row = _row(night, group, outcome, heard, stop)
        rows.append(replace(row, bottleneck="" if spent is None else spent.bottleneck))
    failed = any(row.status == reports.FAILED for row in rows)
    return rows, stop.why, 3 if summary.stopped else int(failed)


def _missing_rows(
    night: Night, groups: Iterable[Group], rows: Iterable[SlideReport], heard: Outcomes, stop: Stop
) -> list[SlideReport]:
    """The rows of slides of ``groups`` that ``rows`` lacks, from the events heard so far."""
    present = {row.slide for row in rows}
    return [
        _row(night, group, heard.in_order([str(slide)])[0], heard, stop)
        for group in groups
        for slide in group.slides
        if str(slide) not in present
    ]


def _row(night: Night, group: Group, slide: SlideOutcome, heard: Outcomes, stop: Stop) -> SlideReport:
    """The row of the report for ``slide``. Records its failure, or removes the record of one that is over."""
    path, message, attempts = locate(slide.slide), in_night(slide.message), 0
    status = reports.OPEN if slide.status == NOT_ATTEMPTED else slide.status
    never_opened = status == reports.FAILED and slide.store is None
    if stop.why and message == stop.why:  # not the slide's fault
        status = reports.OPEN
    elif never_opened and seconds_left_alone(path, stop.at) < UNREADABLE_FACTOR * night.settle_seconds:
        why = f"changed less than {UNREADABLE_FACTOR} times settle = {night.config.settle!r} ago"
        status, message = reports.WAITING, f"{why}, so copying may not have finished: {message}"
    elif status == reports.FAILED:
        attempts = _record_failure(group.failures, path, message, stop.at, heard)
    elif status in (reports.DONE, reports.SKIPPED, reports.NO_TISSUE):
        group.failures.forget(path)
    if status == reports.OPEN:
        message = message or stop.why
    return SlideReport(
        slide=slide.slide,
        status=status,
        message=with_table(message, path.name) if status not in (reports.DONE, reports.NO_TISSUE) else "",
        store=slide.store,
        seconds=slide.seconds,
        pixels=slide.pixels,
        skipped=slide.skipped,
        outside=slide.outside,
        objects=slide.objects,
        warnings=tuple(map(in_night, slide.warnings)),
        attempts=attempts,
        model=group.model.spec.name,
        model_sha256=group.model.sha256,
    )


def _record_failure(failures: Failures, slide: Location, message: str, now: float, listener: Listener) -> int:
    """Record a failure. Returns the nights in which ``slide`` failed; warns and returns 1 if it cannot be recorded."""
    try:
        return failures.add(slide, message, now).attempts
    except OutputError as err:
        listener(Warned(str(slide), f"could not record the failure: {err}"))
        return 1


def _reason(err: BaseException) -> str:
    """The reason why ``err`` ended a night, for the report."""
    if isinstance(err, KeyboardInterrupt):
        return "interrupted; the next night resumes"
    return in_night(str(err)) if isinstance(err, WsipipeError) else f"unexpected {type(err).__name__}: {err}"


def _exit_code(err: BaseException) -> int:
    """The exit code of a night that ``err`` ended."""
    if isinstance(err, KeyboardInterrupt):
        return reports.INTERRUPTED
    return 3 if isinstance(err, MachineError) else 2 if isinstance(err, UsageError | ModelError) else 1


def tell_outcome(night: Night, report: NightReport, listener: Listener) -> None:
    """Write the report and the metrics, and post the outcome: each, whatever becomes of the others.

    ``listener`` is warned of metrics that cannot be written, and of an outcome that cannot be posted.

    Raises
    ------
    OutputError
        If the report cannot be written.
    """
    try:
        write_report(report, night.report)
    finally:
        for problem in filter(None, (_write_metrics(night, report), _post(night, report))):
            listener(Warned(str(night.path), problem))


def _write_metrics(night: Night, report: NightReport) -> str:
    """Write the metrics, if the night has a file for them. Returns why they cannot be written."""
    if night.config.metrics is not None:
        try:
            write_metrics(report, Path(night.place(night.config.metrics)))
        except OutputError as err:
            return f"metrics: {err}"
    return ""


def _post(night: Night, report: NightReport) -> str:
    """Post the outcome, if the night has a webhook. Returns the problem, without the address, which may be secret."""
    if night.config.webhook is None:
        return ""
    return post(night.config.webhook, report, path=str(night.report / PAGE))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
