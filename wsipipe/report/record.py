"""The report of one night, which is one pass of ``wsipipe nightly``, and the history of nights; as values and as JSON.

::

    report.json         the last night in full; `read_report` reads it back
    history.jsonl       one line per night: counts, speed, duration

A file name that is not Unicode is written as `os.fsdecode` returns it, with lone surrogates as JSON escapes. Python
reads the same name back; other readers may replace it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from wsipipe.errors import OutputError, UsageError
from wsipipe.events import ClassCount, parse_class_count
from wsipipe.files import MAKE_ROOM, Location
from wsipipe.urls import Url

DONE, FAILED, SKIPPED, SET_ASIDE = "done", "failed", "skipped", "set aside"
WAITING, TAKEN, OPEN, NO_TISSUE = "waiting", "taken", "open", "no tissue"
STATUSES = {
    DONE: "segmented tonight",
    FAILED: "could not be segmented, or not completely",
    SET_ASIDE: "failed on too many nights; not tried again",
    OPEN: "not finished; the next night resumes",
    WAITING: "still being copied in",
    TAKEN: "another runner has it",
    NO_TISSUE: "nothing to segment; the store is complete",
    SKIPPED: "done before",
}
"""Every status of a slide, with its meaning, in the order of reports."""
REPORT_VERSION = 1
INTERRUPTED = 130
"""Exit code of a night that was interrupted."""


@dataclass(frozen=True)
class SlideReport:
    """The outcome of one slide. Raise a UsageError unless the status is one of `STATUSES`."""

    slide: str
    """Path or URL."""
    status: str
    """One of `STATUSES`."""
    message: str = ""
    """The error in full, or the reason why the slide is not done."""
    store: str | None = None
    """Path or URL of its store, finished or not."""
    seconds: float = 0.0
    """Seconds spent on it tonight."""
    pixels: int = 0
    """Pixels computed tonight."""
    bottleneck: str = ""
    """Activity that limited the speed; empty if unknown."""
    warnings: tuple[str, ...] = ()
    attempts: int = 0
    """Number of nights that tried it."""
    model: str = ""
    """Name of the model."""
    model_sha256: str = ""
    """SHA-256 of the model's file."""
    skipped: int = 0
    """The `pixels` of the region in tiles outside the tissue mask, which did not go through the network."""
    outside: int = 0
    """The `pixels` outside the region that was asked for."""
    objects: tuple[ClassCount, ...] = ()
    """Counts of the objects that were measured tonight, class by class."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise UsageError(f"a slide is not {self.status!r}; allowed: {', '.join(STATUSES)}")

    @property
    def pixels_per_second(self) -> float:
        """Speed in its own time; 0 if nothing was computed."""
        return self.pixels / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class NightReport:
    """The report of a night. Raise a UsageError unless its times are ISO 8601."""

    started: str
    """Time of the start, ISO 8601, in UTC."""
    finished: str
    """Time of the end, ISO 8601, in UTC."""
    host: str
    """Name of the machine."""
    version: str
    """Version of wsipipe."""
    command: str
    """The command line, or the path of the configuration, of the night."""
    slides: tuple[SlideReport, ...]
    """Slides, in the order of the report."""
    stopped: str = ""
    """Reason why the night ended early; empty if it did not."""
    exit_code: int = 0
    warnings: tuple[str, ...] = ()
    """Warnings about the night's file."""

    def __post_init__(self) -> None:
        for text in (self.started, self.finished):
            moment(text)

    @property
    def counts(self) -> dict[str, int]:
        """Number of slides by status, for all of `STATUSES`."""
        return {status: sum(slide.status == status for slide in self.slides) for status in STATUSES}

    @property
    def seconds(self) -> float:
        """Duration from start to end, seconds."""
        return max(0.0, (moment(self.finished) - moment(self.started)).total_seconds())

    @property
    def pixels(self) -> int:
        """Pixels computed tonight."""
        return sum(slide.pixels for slide in self.slides)

    @property
    def warned(self) -> int:
        """Number of slides with warnings."""
        return sum(1 for slide in self.slides if slide.warnings)

    @property
    def objects(self) -> int:
        """Objects that were measured tonight."""
        return sum(one.objects for slide in self.slides for one in slide.objects)

    @property
    def pixels_per_second(self) -> float:
        """Speed while slides were computed, without waiting for work; 0 if nothing was computed."""
        busy = sum(slide.seconds for slide in self.slides if slide.pixels)
        return self.pixels / busy if busy > 0 else 0.0

    @property
    def summary(self) -> NightSummary:
        """The line of this night in the history."""
        return NightSummary(
            started=self.started,
            finished=self.finished,
            host=self.host,
            version=self.version,
            seconds=self.seconds,
            counts=self.counts,
            pixels=self.pixels,
            pixels_per_second=self.pixels_per_second,
            stopped=self.stopped,
            exit_code=self.exit_code,
        )


@dataclass(frozen=True)
class NightSummary:
    """One line of the history."""

    started: str
    finished: str
    host: str
    version: str
    seconds: float
    counts: dict[str, int]
    """Number of slides by status."""
    pixels: int
    pixels_per_second: float
    stopped: str
    exit_code: int

    @property
    def failed(self) -> int:
        """Slides that failed tonight, or on too many nights before."""
        return self.counts.get(FAILED, 0) + self.counts.get(SET_ASIDE, 0)


def moment(text: str) -> datetime:
    """The time ``text``, in ISO 8601, as UTC; a text without a time zone is taken as UTC.

    Raises
    ------
    UsageError
        If ``text`` is not ISO 8601.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError as err:
        raise UsageError(f"{text!r} is not a time in ISO 8601, such as 2026-11-24T22:00:00+00:00") from err
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def report_as_json(report: NightReport, found: Mapping[int, dict[str, Any]] | None = None) -> bytes:
    """The content of ``report.json``: the report, and the values derived from it, for other programs.

    ``found`` has what was found in the store of a slide, by the index of the slide in the report.
    """
    derived = {
        "counts": report.counts,
        "seconds": report.seconds,
        "pixels": report.pixels,
        "pixels_per_second": report.pixels_per_second,
    }
    document = {"report_version": REPORT_VERSION, **asdict(report), "summary": derived}
    for i, values in (found or {}).items():
        document["slides"][i]["found"] = values
    return (json.dumps(plain(document), indent=2) + "\n").encode()


def read_report(path: Location) -> NightReport:
    """The report that `report_as_json` wrote to ``path``.

    Raises
    ------
    UsageError
        If ``path`` is missing, is not a report, or was written by a newer wsipipe.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["report_version"] > REPORT_VERSION:
            raise UsageError(
                f"{path} was written by a newer wsipipe ({document['version']}); read it with that version"
            )
        slides = tuple(map(_slide, document["slides"]))
        return NightReport(
            **_known(NightReport, document) | {"slides": slides, "warnings": tuple(document.get("warnings", ()))}
        )
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror or err}") from err
    except UsageError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as err:
        raise UsageError(f"{path} is not the report of a night ({type(err).__name__}: {err})") from err


def _slide(row: dict[str, Any]) -> SlideReport:
    known = _known(SlideReport, row)
    objects = tuple(map(parse_class_count, known.get("objects", ())))
    return SlideReport(**known | {"warnings": tuple(row["warnings"]), "objects": objects})


def append_history(path: Location, night: NightSummary) -> None:
    """Append the line of ``night`` to the file at ``path``. Earlier lines stay, also one that a crash cut short.

    Raises
    ------
    OutputError
        If ``path`` cannot be written.
    """
    line = json.dumps(plain(asdict(night))).encode() + b"\n"
    try:
        if isinstance(path, Url):
            _append_behind(path, line)
            return
        with path.open("a+b", buffering=0) as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - 1))
            torn = end > 0 and file.read(1) != b"\n"
            file.write(b"\n" + line if torn else line)
    except OSError as err:
        raise OutputError(f"{path} cannot be written: {err.strerror or err}; {MAKE_ROOM}") from err


def _append_behind(url: Url, line: bytes) -> None:
    """Append by writing the whole object again; if another runner wrote meanwhile, again with its lines."""
    written = None
    while written is None:
        before, e_tag = url.read_tagged() or (b"", None)
        written = "" if before.endswith(line) else url.put_if(before + line, e_tag)


def read_history(path: Location) -> tuple[NightSummary, ...]:
    """The nights of the file at ``path``, from old to new, without lines that a crash cut short.

    A night that was reported twice is there once, with its last report.

    Raises
    ------
    OutputError
        If the file exists and cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return ()
    except OSError as err:
        raise OutputError(f"{path} cannot be read: {err.strerror or err}") from err
    nights: dict[tuple[str, str], NightSummary] = {}
    for line in lines:
        try:
            night = _night(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
        nights[night.host, night.started] = night
    return tuple(sorted(nights.values(), key=lambda night: moment(night.started)))


def _night(row: dict[str, Any]) -> NightSummary:
    """A line of the history; any exception means that ``row`` is not one."""
    moment(row["started"]), moment(row["finished"])
    seconds, speed = float(row["seconds"]), float(row["pixels_per_second"])
    if not math.isfinite(seconds + speed):
        raise ValueError
    return NightSummary(
        **{name: str(row[name]) for name in ("started", "finished", "host", "version", "stopped")},
        seconds=seconds,
        counts={str(status): int(count) for status, count in row["counts"].items()},
        pixels=int(row["pixels"]),
        pixels_per_second=speed,
        exit_code=int(row["exit_code"]),
    )


def _known(cls: type[Any], row: dict[str, Any]) -> dict[str, Any]:
    """The items of ``row`` that are fields of ``cls``."""
    return {field.name: row[field.name] for field in fields(cls) if field.name in row}


def plain(value: Any) -> Any:
    """``value`` in the types of JSON; a float that is not finite, such as a speed of infinity, becomes 0."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value
